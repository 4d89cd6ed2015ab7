"""Checks of the host: the way there, its clock and disk, its Python, its GPUs and what graphics need of them."""

from __future__ import annotations

import re
import shutil
import sys
import time
from typing import TYPE_CHECKING

from orchestrator.doctor.checks import Check, Finding, failure, ok, skipped, warning
from orchestrator.environment import PACKAGES, is_isaac, simulator

if TYPE_CHECKING:
    from orchestrator.doctor.site import Site

HERE = ("local", "docker")  # where the host has the GPUs; a cluster has them on its nodes
LATE, WRONG = 5.0, 60.0  # seconds between two clocks; heartbeats are judged by the second, time limits by the minute
SCARCE, FULL = 20 << 30, 1 << 30  # bytes
GRAPHICS_DRIVER = (580, 65)  # what Isaac Sim 5.1, in isaac-lab:2.3.0, was validated with
# CUDA's major version and the oldest driver that runs it; docs.nvidia.com/deploy/cuda-compatibility.
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
CUDA_OF_ISAAC = 12  # torch 2.7.0+cu128 in isaac-lab:2.3.0

# The folder need not be there yet: its nearest parent that is there decides.
DISK = r"""
folder=$1
while ! test -e "$folder"; do folder=$(dirname -- "$folder"); done
test -d "$folder" && test -w "$folder" && test -x "$folder" || { echo "$folder"; exit 3; }
df --output=avail -B1 -- "$folder" | tail -n 1
df --output=iavail,itotal -- "$folder" | tail -n 1
"""
SMI = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
# Devices that EGL offers, which is what renders without a screen.
EGL = """
import ctypes
egl = ctypes.CDLL("libEGL.so.1")
egl.eglGetProcAddress.restype = ctypes.c_void_p
count = ctypes.c_int()
query = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))(query)(0, None, count)
print(count.value)
"""
VULKAN = r"""
shopt -s nullglob
icd=(/etc/vulkan/icd.d/*nvidia*.json /usr/share/vulkan/icd.d/*nvidia*.json)
printf '%s\n' "${icd[0]:-none}"
if command -v vulkaninfo >/dev/null; then
  vulkaninfo --summary 2>/dev/null | sed -n 's/^[[:space:]]*deviceName[[:space:]]*= //p'
fi
"""
MODULES = """
import importlib.util, sys
print("%d.%d" % sys.version_info[:2])
print(*[name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])
"""


def reach(site: Site) -> Finding:
    """ssh: whether commands can be typed on the host at all."""
    if site.host is None:
        return skipped(f"nothing but the container engine answers at {site.profile.engine or 'DOCKER_HOST'}")
    if site.is_here:
        return ok("this machine")
    begun = time.monotonic()
    site.run(("true",))
    return ok(f"{getattr(site.host, 'target', '')} answers after {time.monotonic() - begun:.2f} s")


def clock(site: Site) -> Finding:
    """Whether the host's clock says what this machine's does: heartbeats and deadlines are compared with it."""
    if site.is_here:
        return skipped("this machine's own")
    before = time.time()
    done = site.run(("date", "+%s.%N"))
    after = time.time()
    return drift(float(done.stdout.strip()), before, after)


def drift(theirs: float, before: float, after: float) -> Finding:
    """What to think of another clock that was read between two times of this one."""
    apart = max(0.0, before - theirs, theirs - after)
    remedy = "have both keep time with NTP: `timedatectl set-ntp true`"
    if apart > WRONG:
        return failure(f"the clocks are {apart:,.0f} s apart", remedy)
    if apart > LATE:
        return warning(f"the clocks are {apart:.0f} s apart", remedy)
    return ok("the same as here" if apart < 1 else f"{apart:.0f} s apart")


def disk(site: Site) -> Finding:
    """Whether runs can be written, and whether there is room for their checkpoints."""
    done = site.script(DISK, str(site.runs))
    if done.exit_code != 0:
        folder = done.stdout.strip() or site.runs
        return failure(
            f"{folder} is no folder that can be written", f"make it yours, or let {_setting(site)} be another"
        )
    free, files = done.stdout.splitlines()
    return room(int(free), files.split(), str(site.runs))


def room(free: int, files: list[str], folder: str) -> Finding:
    """What to think of the bytes and the files (`df`: free, in all) that there is room for."""
    remedy = "make room; `prune` lists the runs that could go"
    said = f"{free / 1e9:,.0f} GB free for {folder}"
    if free < FULL:
        return failure(said, remedy)
    if all(number.isdigit() for number in files) and int(files[1]) and int(files[0]) < 10_000:
        return failure(f"room for {files[0]} more files in {folder}", remedy)
    return warning(said, remedy) if free < SCARCE else ok(said)


def python(site: Site) -> Finding:
    """Whether the interpreter of runs without a container has what training imports."""
    if site.backend == "slurm" and not _bare(site):
        return skipped("runs have the image's")
    name = site.profile.python or (sys.executable if site.is_here else "python3")
    needed = ["torch", "tensordict", "torchrl"]
    if site.job is not None and (package := PACKAGES.get(simulator(site.job))):
        needed.append(package.partition(".")[0])
    done = site.run((name, "-c", MODULES, *needed))
    remedy = "`make .venv/run.stamp` in the clone, or name an interpreter as `python` in the profile"
    if done.exit_code != 0:
        return failure(f"{name}: {(done.stderr.strip().splitlines() or ['does not start'])[-1]}", remedy)
    version, missing = [*done.stdout.splitlines(), "", ""][:2]
    if missing:
        return failure(f"{name} lacks {', '.join(missing.split())}", remedy)
    return ok(f"{name}, {version}, with {', '.join(needed)}")


def gpu(site: Site) -> Finding:
    """GPUs of the host, beside what the job wants."""
    found = _gpus(site)
    if not found:
        if site.backend == "local":
            return skipped("there is none: training takes the CPU")
        if site.gpus:
            return failure(
                f"the job wants {site.gpus}, and there is none",
                "run it elsewhere, with `resources.gpus: 0`, or see why nvidia-smi finds none",
            )
        return skipped("there is none")
    names = ", ".join(f"{name} ({memory})" for name, memory, _ in found)
    if (site.gpus or 0) > len(found):
        return failure(f"the job wants {site.gpus}, and there is {names}", "lower `resources.gpus`")
    return ok(names)


def driver(site: Site) -> Finding:
    """Whether the driver is new enough for the image."""
    found = _gpus(site)
    if not found:
        return skipped("there is no GPU")
    image = site.job.image if site.job is not None and site.backend == "docker" else None
    return driver_for(found[0][2], image, isaac=site.job is not None and is_isaac(site.job))


def driver_for(version: str, image: str | None, *, isaac: bool, cuda: int | None = None) -> Finding:
    """What to think of a driver for an image.

    Args:
        version: Of the driver.
        image: What runs; None without a container.
        isaac: Isaac Sim renders with it.
        cuda: Major version of the image's CUDA, where it says so.
    """
    parts = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    cuda = cuda or (CUDA_OF_ISAAC if isaac else None)
    oldest = OLDEST_DRIVER.get(cuda or 0)
    if oldest is not None and parts < (oldest,):
        return failure(f"{version}; CUDA {cuda} of {image} needs {oldest}", "install a newer driver, or an older image")
    if isaac and parts < GRAPHICS_DRIVER:
        wanted = ".".join(map(str, GRAPHICS_DRIVER))
        return warning(f"{version}; Isaac Sim 5.1 was validated with {wanted}", f"install driver {wanted} or newer")
    return ok(version)


def egl(site: Site) -> Finding:
    """Whether EGL offers the GPUs: cameras render through it, without a screen."""
    count = len(_gpus(site))
    if not count:
        return skipped("there is no GPU")
    done = site.run(("python3", "-c", EGL))
    remedy = (
        "install the driver with its graphics libraries (libnvidia-gl, libEGL): it was installed for computing only"
    )
    if done.exit_code != 0:
        return failure((done.stderr.strip().splitlines() or ["libEGL.so.1 does not load"])[-1], remedy)
    devices = int(done.stdout)
    if devices < count:
        return failure(f"{devices} devices for {count} GPUs", remedy)
    return ok(f"{devices} devices")


def vulkan(site: Site) -> Finding:
    """Whether Vulkan knows the GPUs: Isaac Sim renders with it."""
    if not _gpus(site):
        return skipped("there is no GPU")
    icd, *devices = site.script(VULKAN).stdout.splitlines()
    remedy = "install the driver with its graphics libraries: Vulkan finds it by nvidia_icd.json"
    if icd == "none":
        said = "no nvidia_icd.json in /etc/vulkan or /usr/share/vulkan"
        return (failure if site.job is not None and is_isaac(site.job) else warning)(said, remedy)
    if devices and not any("nvidia" in name.lower() for name in devices):
        return failure(f"vulkaninfo sees {', '.join(devices)}", remedy)
    return ok(", ".join(devices) if devices else f"{icd}; without vulkaninfo no more can be told")


def git(site: Site) -> Finding:
    """Whether this machine can say which code a run ships."""
    if shutil.which("git") is None:
        return warning("there is none here: runs do not record the commit of their code", "install git")
    return ok("runs record the commit of their code")


def _gpus(site: Site) -> list[tuple[str, str, str]]:
    """Name, memory and driver of each."""
    done = site.script('command -v nvidia-smi >/dev/null || exit 0; exec "$@"', *SMI)
    rows = [tuple(part.strip() for part in line.split(",")) for line in done.stdout.splitlines()]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3] if done.exit_code == 0 else []


def _bare(site: Site) -> bool:
    return site.profile.container_runtime == "none" or (site.job is not None and site.job.image is None)


def _setting(site: Site) -> str:
    if site.backend == "steve" and site.profile.host:
        return "`assume.staging` of the profile"
    return "`shared` of the profile" if site.is_cluster and site.profile.shared else "$LONGSHORE_HOME"


SSH = Check("ssh", reach, remedy="`ssh HOST true` must work without a question", needs="")
CHECKS = (
    Check("clock", clock),
    Check("disk", disk),
    Check("git", git, needs=""),
    Check("python", python, remedy="name an interpreter as `python` in the profile", backends=("local", "slurm")),
    Check("gpu", gpu, backends=HERE),
    Check("driver", driver, backends=HERE),
    Check("egl", egl, backends=HERE),
    Check("vulkan", vulkan, backends=HERE),
)
