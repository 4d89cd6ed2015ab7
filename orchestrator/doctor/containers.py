"""Checks of a container engine and of a job's image."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestrator.docker.engine import address, connected, explain
from orchestrator.doctor.checks import Check, Finding, failure, ok, skipped, warning
from orchestrator.doctor.machine import SMI, driver_for
from orchestrator.environment import is_isaac

if TYPE_CHECKING:
    from orchestrator.doctor.site import Site

OLDEST_API = (1, 41)  # of Docker 20.10, the first with device requests by CDI and cgroup v2


def engine(site: Site) -> Finding:
    """Whether the container engine answers, and which it is."""
    where = address(site.profile.engine, site.environment)
    with connected(where) as client:
        found = client.version()
    said = f"{found.get('Platform', {}).get('Name') or 'Docker'} {found['Version']} at {where}"
    if tuple(map(int, found["ApiVersion"].split("."))) < OLDEST_API:
        return failure(said, "install Docker 20.10 or newer")
    return ok(said)


def runtime(site: Site) -> Finding:
    """Whether the engine can give GPUs to a container."""
    with connected(address(site.profile.engine, site.environment)) as client:
        info = client.info()
    names = sorted(info.get("Runtimes") or {})
    if "nvidia" in names or any("nvidia.com/gpu" in str(device) for device in info.get("DiscoveredDevices") or ()):
        return ok("NVIDIA's is there")
    remedy = "install nvidia-container-toolkit, then `nvidia-ctk runtime configure --runtime=docker` and restart Docker"
    said = f"no NVIDIA runtime, only {', '.join(names)}"
    if site.gpus == 0:
        return ok(f"{said}; the job wants no GPU")
    return failure(said, remedy) if site.gpus else warning(said, remedy)


def image(site: Site) -> Finding:
    """Whether the job's image is there, or its registry hands it out."""
    name = None if site.job is None else site.job.image
    if name is None:
        return skipped("no job names one")
    if site.backend == "docker":
        return _engine_image(site, name)
    if site.profile.container_runtime == "none":
        return skipped("runs have none")
    return skipped(f"{name} is pulled by the node")


def _engine_image(site: Site, name: str) -> Finding:
    import docker

    with connected(address(site.profile.engine, site.environment)) as client:
        try:
            found = client.inspect_image(name)
        except docker.errors.ImageNotFound:
            try:
                client.inspect_distribution(name)
            except docker.errors.APIError as error:
                advice = "build it (`image build`), or pull it where there is a network"
                return failure(str(explain(f"{name} is not there and cannot be pulled", error)), advice)
            return warning(f"{name} will be pulled by the first run", f"docker pull {name}")
    cuda = _cuda(found)
    driver = site.run(SMI).stdout if site.host is not None and site.gpus else ""
    if driver and cuda is not None:
        version = driver.splitlines()[0].rpartition(",")[2].strip()
        fits = driver_for(version, name, isaac=site.job is not None and is_isaac(site.job), cuda=cuda)
        if fits.remedy:
            return fits
    return ok(f"{name}, {found['Size'] / 1e9:.1f} GB" + (f", CUDA {cuda}" if cuda else ""))


def _cuda(found: object) -> int | None:
    """The major version of CUDA that an image says it has."""
    variables = found.get("Config", {}).get("Env") or [] if isinstance(found, dict) else []
    match = re.search(r"^CUDA_VERSION=(\d+)", "\n".join(variables), re.MULTILINE)
    return int(match[1]) if match else None


DOCKER = ("docker",)
ENGINE = Check(
    "engine",
    engine,
    remedy="start Docker, or name its address as `engine` in the profile",
    needs="",
    backends=DOCKER,
)
CHECKS = (
    Check("runtime", runtime, needs="engine", backends=DOCKER),
    Check("image", image, needs="engine", backends=("docker", "slurm")),
)
