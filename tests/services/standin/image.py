"""The stand-in for NVIDIA's image: its layout and versions, from Debian's packages and what `.venv-torch27` holds.

    python tests/services/standin/image.py TAG    # as root, with debootstrap and Docker Engine; see DOCKER_HOST

Nothing is pulled from a registry of images. What is heavy and not ours, PyTorch 2.7.0 and Isaac Lab's package among it,
is copied from the environment that `make test-torch27` sets up.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import docker

HERE = Path(__file__).parent
REPOSITORY = Path(__file__).parents[3]
PACKAGES = REPOSITORY / ".venv-torch27" / "lib" / "python3.11" / "site-packages"
SUITE = "bookworm"  # its Python is 3.11, like Isaac Sim's
DEBIAN = ("python3", "ca-certificates", "libgomp1", "libegl1", "libgl1", "libvulkan1")

KIT_PYTHON = "isaac-sim/kit/python"
SITE = f"{KIT_PYTHON}/lib/python3.11/site-packages"
# What a job installs, and what only tests need. The old tensordict of NVIDIA's image is made up below.
LEFT_OUT = (
    "tensordict",
    "torchrl",
    "hoptorch",
    "pyvers",
    "orjson",
    "wandb",
    "pytest",
    "_pytest",
    "hypothesis",
    "isaaclab",
)
CHANGES = (
    'ENTRYPOINT ["/isaac-sim/runheadless.sh"]',
    "WORKDIR /workspace/isaaclab",
    "ENV ISAACSIM_PATH=/workspace/isaaclab/_isaac_sim ISAACLAB_PATH=/workspace/isaaclab",
)


def build(client: docker.APIClient, tag: str) -> None:
    """Build the image and give it to an engine.

    Raises:
        SystemExit: Something that it is made of is missing.
    """
    if not (PACKAGES / "isaaclab").is_dir():
        raise SystemExit(f"{PACKAGES} has no isaaclab: `make .venv-torch27/run.stamp` first")
    with tempfile.TemporaryDirectory(prefix="standin-", dir="/var/tmp") as folder:
        root = Path(folder) / "root"
        include = f"--include={','.join(DEBIAN)}"
        run("debootstrap", "--variant=minbase", include, SUITE, root)
        shutil.rmtree(root / "var/cache/apt/archives")
        make_layout(root)
        repository, _, version = tag.partition(":")
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as archive:
            answer = client.import_image_from_data(archive.stdout, repository=repository, tag=version, changes=CHANGES)
        if archive.returncode or "error" in answer:
            raise SystemExit(f"{tag} could not be imported: {answer}")


def make_layout(root: Path) -> None:
    """Put Isaac Sim's and Isaac Lab's folders into a Debian system."""
    run("chroot", root, "python3", "-m", "venv", "--without-pip", f"/{KIT_PYTHON}")
    site = root / SITE
    shutil.copytree(PACKAGES, site, symlinks=True, dirs_exist_ok=True, ignore=_left_out, copy_function=link)
    lab = root / "workspace/isaaclab"
    shutil.copytree(PACKAGES / "isaaclab" / "source", lab / "source")
    shutil.copytree(PACKAGES / "isaaclab" / "apps", lab / "apps")
    (lab / "_isaac_sim").symlink_to("/isaac-sim")
    for source, target in (
        ("isaaclab.sh", lab / "isaaclab.sh"),
        ("python.sh", root / "isaac-sim/python.sh"),
        ("runheadless.sh", root / "isaac-sim/runheadless.sh"),
    ):
        shutil.copy(HERE / source, target)
        target.chmod(0o755)
    shutil.copytree(REPOSITORY / "tests" / "standin", site / "standin", ignore=shutil.ignore_patterns("__pycache__"))
    sources = [f"/workspace/isaaclab/source/{path.name}" for path in sorted((lab / "source").iterdir())]
    (site / "standin.pth").write_text("\n".join([*sources, "import standin; standin.install()", ""]))
    add_distribution(site, "standin", "1.0", "[gymnasium.envs]\n__root__ = standin.standin_tasks:register\n")
    (site / "tensordict").mkdir()
    (site / "tensordict" / "__init__.py").write_text('__version__ = "0.7.0"\n')
    add_distribution(site, "tensordict", "0.7.0", record="tensordict/__init__.py,,\n")


def link(source: str, target: str) -> None:
    """Four gigabytes need not be copied to be read once."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def add_distribution(site: Path, name: str, version: str, entry_points: str = "", record: str = "") -> None:
    """What pip knows of a package that it has not installed."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(record)
    (info / "INSTALLER").write_text("pip\n")
    if entry_points:
        (info / "entry_points.txt").write_text(entry_points)


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What the image is to be without: besides the above, parts of the CUDA libraries that nothing loads on a CPU."""
    gone = {name for name in names if name.startswith("libcudnn_")}
    if Path(folder) == PACKAGES:
        gone |= {name for name in names if name.partition("-")[0].lower() in LEFT_OUT}
    elif folder.startswith(str(PACKAGES / "nvidia")):
        gone |= {"include"} & set(names)
    return gone


def run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]}: {(done.stderr or done.stdout).strip()[-500:]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tag")
    build(docker.from_env(timeout=600).api, parser.parse_args().tag)
    print(f"{parser.parse_args().tag} is built", file=sys.stderr)
