"""The batch script of a run, or of each run of a sweep: `#SBATCH` lines, built here, and templates/job.sbatch.j2. Pure.

sbatch reads its lines with rules of its own, which no shell quoting fits. So a value stands in double quotes, and
what does not survive those is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from orchestrator.backends.base import ContainerRequest, LaunchRequest
from orchestrator.docker.container import CACHES, ISAAC_CACHES, STATE
from orchestrator.errors import UsageError
from orchestrator.jobfile.fields import is_image_file
from orchestrator.script import shell_environment
from orchestrator.sweep_files import sweep_folder

TEMPLATE = "job.sbatch.j2"
WARNING = 180  # seconds before the time limit: the script gives the trainer 90 of them, and Slurm may be 60 late

# Flags that say where things are written, or whose value the rest relies on.
OWN_FLAGS = frozenset(
    {"array", "chdir", "error", "export", "export-file", "get-user-env", "input", "no-requeue", "open-mode", "output"}
    | {"parsable", "quiet", "requeue", "signal", "test-only", "wait", "wrap"}
)
# What a step tells its own processes. Inherited by an `srun` of the user's, it would be taken for that one's options.
STEP_VARIABLES = (
    "SLURM_CPU_BIND",
    "SLURM_CPU_BIND_LIST",
    "SLURM_CPU_BIND_TYPE",
    "SLURM_CPU_BIND_VERBOSE",
    "SLURM_DISTRIBUTION",
    "SLURM_EXPORT_ENV",
    "SLURM_LAUNCH_NODE_IPADDR",
    "SLURM_SRUN_COMM_HOST",
    "SLURM_SRUN_COMM_PORT",
    "SLURM_STEPID",
    "SLURM_STEP_GPUS",
    "SLURM_STEP_ID",
    "SLURM_STEP_LAUNCHER_PORT",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_NUM_NODES",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_RESV_PORTS",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_TASK_PID",
    "SLURM_UMASK",
)


# The first task ends the others; one that dies takes none of them along.
CLUSTER_STEP = ("--no-kill", "--kill-on-bad-exit=0", "--wait=0")


def folder_of(request: LaunchRequest) -> Path:
    """Folder of a submission on the host, beside the runs': batch script, table of runs, Slurm's own output."""
    name = request.run_id if request.place is None else request.place.sweep_id
    return request.run_dir.parent / "submissions" / f"{name}.{request.attempt}"


def batch_script(request: LaunchRequest, runtime: str) -> str:
    """The whole text of a batch script. The runs of a sweep have the same one.

    Args:
        request: What it starts.
        runtime: What starts the container: `pyxis`, `apptainer` or `none`.

    Raises:
        UsageError: `resources.extra` has a flag that is Longshore's own, or a value that sbatch would misread.
    """
    container = request.container if runtime != "none" else None
    root = request.run_dir.parent
    batch = request.batch
    assert batch is not None, "a planned run of a batch system has it"
    return _rendered(
        directives=tuple(_directives(request)),
        folder=str(folder_of(request)),
        files=None if request.place is None else str(sweep_folder(root, request.place.sweep_id)),
        first_attempt=request.attempt,
        retries=batch.retries,
        retry_on=batch.retry_on,
        runtime=runtime if container else "none",
        step=tuple(_step(request)),
        mounts=() if container is None else tuple(_mounts(container, root)),
        made=() if container is None else tuple(_made(container, root)),
        image=() if container is None else apptainer_image(container.image),
        container=() if container is None else tuple(_container_words(container, root, runtime)),
        state=STATE if container is not None else str(root / "state"),
        graphics=container is not None and container.resources.gpus > 0,
    )


@lru_cache(maxsize=4)
def _rendered(*, directives: tuple[str, ...], **values: object) -> str:
    template = shell_environment().get_template(TEMPLATE)
    values["unset"] = [f"--unset={name}" for name in STEP_VARIABLES]
    return "\n".join(["#!/bin/bash", *directives, ""]) + template.render(values)


def _directives(request: LaunchRequest) -> Iterator[str]:
    batch = request.batch
    assert batch is not None, "a planned run of a batch system has it"
    resources = batch.resources
    flags: dict[str, str | int | bool | None] = {
        "job-name": request.run_id if request.place is None else request.place.sweep_id,
        "partition": resources.partition,
        "time": resources.time_seconds and _minutes(resources.time_seconds),
        "ntasks": resources.ntasks,
        "cpus-per-task": resources.cpus,
        "mem": resources.memory_mib and f"{resources.memory_mib}M",
        "gpus-per-task": resources.gpus or None,
    }
    for flag, value in resources.extra.items():
        if flag in OWN_FLAGS:
            raise UsageError(f"resources.extra.{flag}: Longshore sets this flag of sbatch itself")
        flags[flag] = value
    if "dependency" in flags:
        flags.setdefault("kill-on-invalid-dep", "yes")  # else it waits for ever where that can never be met
    flags |= {
        "output": f"{folder_of(request)}/slurm-%A_%a.out" if request.place else f"{folder_of(request)}/slurm-%j.out",
        "open-mode": "append",
        "export": "NIL",
        "signal": f"B:USR1@{warning_seconds(resources.time_seconds)}",
        "requeue" if batch.retries else "no-requeue": True,
    }
    if batch.tasks > 1:
        flags["no-kill"] = True  # a Ray cluster goes on without one of its nodes
    for flag, value in flags.items():
        if value is not None and value is not False:
            yield directive(flag, value)


def directive(flag: str, value: str | int | bool) -> str:
    """One `#SBATCH` line.

    Raises:
        UsageError: The value would be read as something else.
    """
    if value is True:
        return f"#SBATCH --{flag}"
    text = str(value)
    if not text.isprintable() or not text.isascii() or set(text) & set('"\\`$'):
        raise UsageError(f"{flag}: {text!r} cannot stand in a batch script; leave out quotes, backslashes and $")
    return f'#SBATCH --{flag}="{text}"'


def warning_seconds(limit: int | None) -> int:
    """How long before the time limit Slurm sends USR1, in seconds; a quarter of a limit of a few minutes."""
    return WARNING if limit is None else max(1, min(WARNING, limit // 4))


def _minutes(seconds: int) -> int:
    """Slurm counts whole minutes, and rounds up by itself only where seconds are written."""
    return -(-seconds // 60)


def _step(request: LaunchRequest) -> Iterator[str]:
    """`srun` and its options; one task runs the script, or all of them where they are nodes of a Ray cluster."""
    assert request.batch is not None, "a planned run of a batch system has it"
    resources, tasks = request.batch.resources, request.batch.tasks
    yield from ("srun", f"--ntasks={tasks}", *(("--nodes=1",) if tasks == 1 else CLUSTER_STEP))
    yield from ("--export=ALL", "--unbuffered")
    if resources.cpus is not None:
        yield f"--cpus-per-task={resources.cpus}"  # newer ones do not take it over from sbatch
    if resources.gpus:
        yield f"--gpus-per-task={resources.gpus}"


def _container_words(container: ContainerRequest, root: Path, runtime: str) -> Iterator[str]:
    """Options of srun for pyxis, the command before the script for apptainer; mounts come behind them."""
    if runtime == "pyxis":
        yield f"--container-image={enroot_image(container.image)}"
        yield f"--container-workdir={root}"
        yield from ("--container-writable", "--container-remap-root", "--no-container-mount-home")
        yield "--no-container-entrypoint"
    else:
        yield from ("apptainer", "exec", "--writable-tmpfs", "--no-home", "--pwd", str(root))
        if container.resources.gpus:
            yield "--nv"


def enroot_image(image: str) -> str:
    """An image as enroot names it: `nvcr.io#nvidia/isaac-lab:2.3.0`; one without a registry is Docker Hub's.

    A file is named as it is.
    """
    registry, slash, rest = image.partition("/")
    is_registry = bool(slash) and ("." in registry or ":" in registry or registry == "localhost")
    return f"{registry}#{rest}" if is_registry else image


def apptainer_image(image: str) -> str:
    """An image as apptainer pulls it, or its file."""
    return image if is_image_file(image) else f"docker://{image}"


def _mounts(container: ContainerRequest, root: Path) -> Iterator[str]:
    """SOURCE:TARGET of each mount: runs and code, folders that the script reads, caches, the site's and the job's."""
    own = {mount.target: mount.source for mount in container.mounts}  # the last one of a target counts
    yield f"{root}:{root}"
    for folder in dict.fromkeys(container.folders):
        if folder not in own and not _is_below(folder, root):
            yield f"{folder}:{folder}"
    for target, source in {**_caches(container, root), **own}.items():
        yield f"{source}:{target}"


def _made(container: ContainerRequest, root: Path) -> Iterator[str]:
    """Folders of the node that are made where they are missing: those of caches."""
    own = {mount.target: mount for mount in container.mounts}
    yield from (source for target, source in _caches(container, root).items() if target not in own)
    yield from (mount.source for mount in own.values() if mount.cache)


def _caches(container: ContainerRequest, root: Path) -> Mapping[str, str]:
    """Folder of the node by folder in the container."""
    base = PurePosixPath(container.cache or root / "cache")
    targets = {**CACHES, **(ISAAC_CACHES if container.isaac else {})}
    return {target: str(base / name) for name, target in targets.items()}


def _is_below(folder: str, root: Path) -> bool:
    return PurePosixPath(folder).is_relative_to(root)


@lru_cache(maxsize=4)  # each run of a sweep asks
def array_option(indices: Sequence[int], max_parallel: int | None) -> str:
    """`--array` of some tasks: `0-499%4`, `0-2,5`."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    spans = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
    return f"--array={spans}" + (f"%{max_parallel}" if max_parallel else "")
