"""What a container engine is asked to create for a run, in the words of its own interface. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from orchestrator.backends.base import ContainerRequest, LaunchRequest
from orchestrator.errors import UsageError
from trainer.run_dir import ATTEMPT_VARIABLE, RUN_DIR_VARIABLE, RUN_ID_VARIABLE, RunDir

LABEL = "longshore."
SECRETS_VARIABLE = "LONGSHORE_SECRETS"  # `stdin`: the script reads NAME=VALUE words there, each ended by a NUL
SHARED_MEMORY = 16 << 30  # bytes that /dev/shm may grow to; Docker's own 64 MiB end every data loader
STATE = "/var/lib/longshore"  # where what the set-up installs is kept between runs
LEARNER = "/root/.cache/longshore"  # what learners keep for later ones, see `trainer.interface`

# Container paths of caches that outlive a run, by the name of their volume. Those of Isaac Sim are as its images up to
# Isaac Lab 2.3 have them, which run as root.
CACHES: Mapping[str, str] = {
    "packages": STATE,
    "pip": "/root/.cache/pip",
    "compute": "/root/.nv/ComputeCache",
    "warp": "/root/.cache/warp",
    "learner": LEARNER,
}
ISAAC_CACHES: Mapping[str, str] = {
    "kit": "/isaac-sim/kit/cache",
    "ov": "/root/.cache/ov",
    "gl": "/root/.cache/nvidia/GLCache",
    "ov-data": "/root/.local/share/ov/data",
}
# `resources.extra`, as flags of `docker run`, and where they stand in the engine's request.
EXTRA: Mapping[str, str] = {
    "network": "NetworkMode",
    "ipc": "IpcMode",
    "runtime": "Runtime",
    "cpuset-cpus": "CpusetCpus",
    "pids-limit": "PidsLimit",
    "user": "User",
}

# The log is opened by the container itself: it is whole whatever becomes of the engine and of who follows it.
START = """
attempt=$1
mkdir -p "$attempt"
exec >>"$attempt/log.txt" 2>&1
shift
exec "$@"
"""


def container_name(request: LaunchRequest) -> str:
    """The one name of an attempt."""
    return f"longshore-{request.run_id}-{request.attempt}"


def container_body(request: LaunchRequest, container: ContainerRequest) -> dict[str, Any]:
    """The body of the engine's request to create a container.

    Raises:
        UsageError: `resources.extra` has a flag that has no place in it.
    """
    resources = container.resources
    attempt = RunDir(request.run_dir).attempt(request.attempt)
    variables = {
        RUN_ID_VARIABLE: request.run_id,
        RUN_DIR_VARIABLE: str(request.run_dir),
        ATTEMPT_VARIABLE: str(request.attempt),
        "LONGSHORE_STATE": STATE,
    }
    if request.secrets:
        variables[SECRETS_VARIABLE] = "stdin"
    if resources.gpus:
        # Named here, `graphics` is in it; a device request that lists capabilities would have the engine drop the rest.
        variables["NVIDIA_DRIVER_CAPABILITIES"] = "all"
    labels = {"run": request.run_id, "attempt": str(request.attempt), **container.labels}
    body: dict[str, Any] = {
        "Image": container.image,
        "Entrypoint": ["bash", "-c", START, "longshore"],
        "Cmd": [str(attempt), "bash", str(request.script)],
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Labels": {f"{LABEL}{name}": value for name, value in labels.items()},
        "WorkingDir": str(request.run_dir),
        # Not once: an engine that is slow to take up the connection would then hold it until the container ends.
        "OpenStdin": bool(request.secrets),
        "StopSignal": "SIGTERM",
        "HostConfig": {
            "Mounts": list(_mounts(request, container)),
            "NetworkMode": "host",
            "IpcMode": "private",
            "ShmSize": SHARED_MEMORY,
        },
    }
    host = body["HostConfig"]
    if resources.gpus:
        host["DeviceRequests"] = [{"Driver": "", "Count": resources.gpus, "Capabilities": [["gpu"]]}]
    if resources.cpus is not None:
        host["NanoCpus"] = resources.cpus * 10**9
    if resources.memory_mib is not None:
        host["Memory"] = host["MemorySwap"] = resources.memory_mib << 20
    for flag, value in resources.extra.items():
        if flag not in EXTRA:
            raise UsageError(f"resources.extra.{flag}: docker takes {', '.join(sorted(EXTRA))}")
        (body if flag == "user" else host)[EXTRA[flag]] = value if flag == "pids-limit" else str(value)
    return body


def body_of_attempt(body: Mapping[str, Any], request: LaunchRequest, words: Sequence[str]) -> dict[str, Any]:
    """The same body for another attempt, the request's; `words` are further settings of the trainer."""
    others = [variable for variable in body["Env"] if not variable.startswith(f"{ATTEMPT_VARIABLE}=")]
    return {
        **body,
        "Cmd": [str(RunDir(request.run_dir).attempt(request.attempt)), "bash", str(request.script), *words],
        "Env": [*others, f"{ATTEMPT_VARIABLE}={request.attempt}"],
        "Labels": {**body["Labels"], f"{LABEL}attempt": str(request.attempt)},
    }


def _mounts(request: LaunchRequest, container: ContainerRequest) -> Iterator[dict[str, Any]]:
    """Run directory, code, caches, then what the profile and the job ask for; a target is mounted once."""
    own = {mount.target: mount for mount in container.mounts}  # the last one of a target counts
    yield _bind(str(request.run_dir), str(request.run_dir))
    for folder in dict.fromkeys(container.folders):
        if folder not in own:
            yield {**_bind(folder, folder), "ReadOnly": True}
    for name, target in {**CACHES, **(ISAAC_CACHES if container.isaac else {})}.items():
        if target in own:
            continue
        if container.cache is not None:
            yield _bind(str(PurePosixPath(container.cache) / name), target, make=True)
        else:
            yield {"Type": "volume", "Source": f"longshore-{name}", "Target": target}
    for mount in own.values():
        yield _bind(mount.source, mount.target, make=mount.cache)


def _bind(source: str, target: str, *, make: bool = False) -> dict[str, Any]:
    bind: dict[str, Any] = {"Type": "bind", "Source": source, "Target": target}
    return {**bind, "BindOptions": {"CreateMountpoint": True}} if make else bind
