"""What is typed to steve: its three commands for an allocation, and the scripts around them. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from orchestrator.backends.base import JOB_ID, LaunchRequest
from orchestrator.errors import UsageError
from orchestrator.jobfile.job import PathSource
from orchestrator.script import shell_environment

if TYPE_CHECKING:
    from orchestrator.profile import Profile
    from orchestrator.spec import JobSpec

SCRIPT, CODE, GIVEN = "setup-and-run.sh", "longshore.tar.gz", "longshore.env"  # files of the container's folder
IN_TURN = "in-turn.sh"  # in place of the script where an allocation has several runs to do
TURNS = "longshore.turns"  # folder beside it: what became of them
ALLOCATE = "allocate.sh"


def steve_commands(request: LaunchRequest, command: Sequence[str], folder: str) -> tuple[tuple[str, ...], ...]:
    """What is typed for a first attempt: allocation, copies, set-up, training; JOB_ID stands for the job's id.

    Args:
        request: What it starts; with a place in a sweep, the commands are those of all of its runs.
        command: `steve`, or what is typed instead.
        folder: Of the container, for what is copied.

    Raises:
        UsageError: steve has no such flag.
    """
    container, batch = request.container, request.batch
    assert container is not None, "a planned run of steve has it"
    assert batch is not None, "a planned run of steve has it"
    name = SCRIPT if request.place is None else IN_TURN
    script = f"{folder}/{name}"
    variables = [f"{name}={shlex.quote(value)}" for name, value in batch.environment.items()]
    root = shlex.quote(str(request.run_dir.parent))
    given, code = (shlex.quote(f"{folder}/{name}") for name in (GIVEN, CODE))
    unpack = f"chmod 600 {given} && mkdir -p {root} && tar -xzf {code} -C {root} && rm {code}"
    return (
        (*command, "job", *_job_words(request), "--container-image", container.image, "--jobid-only"),
        (*command, "cp", JOB_ID, f"./{name}", f":{script}"),
        (*command, "cp", JOB_ID, f"./{GIVEN}", f":{folder}/{GIVEN}"),
        (*command, "cp", JOB_ID, f"./{CODE}", f":{folder}/{CODE}"),
        (*command, "step", JOB_ID, unpack),
        (*command, "step", JOB_ID, f"bash {shlex.quote(script)} --build-only"),
        (*command, "step", "-d", JOB_ID, " ".join([*variables, "bash", shlex.quote(script)])),
    )


def with_words(commands: Sequence[tuple[str, ...]], words: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The same commands with further settings of the trainer."""
    *others, train = commands
    return (*others, (*train[:-1], " ".join([train[-1], *map(shlex.quote, words)])))


def allocation_script(request: LaunchRequest, commands: Sequence[tuple[str, ...]], *, folder: str, ready: int) -> str:
    """The whole text of allocate.sh.

    Args:
        request: What it starts.
        commands: From `steve_commands`.
        folder: Of the container, for what is copied.
        ready: Seconds from the id to the first copy that succeeds.
    """
    names = ("job", "copy_script", "copy_given", "copy_code", "unpack", "set_up", "train")
    values: dict[str, object] = dict(zip(names, commands, strict=True))
    alone = request.place is None
    values |= {
        "attempt": request.attempt if alone else "",
        "ready": ready,
        "time_limit": "" if request.time_limit is None else int(request.time_limit),
        "step": commands[names.index("unpack")][:-1],
        "turns": "" if alone else f"{folder}/{TURNS}",
    }
    return shell_environment().get_template(f"steve/{ALLOCATE}.j2").render(values)


def in_turn_script(requests: Sequence[LaunchRequest], folder: str) -> str:
    """The whole text of in-turn.sh.

    Args:
        requests: The attempts, in the order in which they are to be made.
        folder: Of the container, for what is copied.
    """
    values = {
        "root": requests[0].run_dir.parent,
        "turns": f"{folder}/{TURNS}",
        "given": f"{folder}/{GIVEN}",
        "runs": [{"run": one.run_id, "attempt": one.attempt, "words": one.words} for one in requests],
    }
    return shell_environment().get_template(f"steve/{IN_TURN}.j2").render(values)


def typed(words: Sequence[str]) -> str:
    """A command as it is typed."""
    return " ".join(f'"{word}"' if word == JOB_ID else shlex.quote(word) for word in words)


def _job_words(request: LaunchRequest) -> Iterator[str]:
    assert request.batch is not None, "a planned run of steve has it"
    resources = request.batch.resources
    options: dict[str, object] = {
        "partition": resources.partition,
        "gpus-per-task": resources.gpus,
        "ntasks": resources.ntasks,
        "time": resources.time,
        "job-name": request.batch.name,
    }
    for flag, value in {**options, **resources.extra}.items():
        if flag == "jobid-only":
            raise UsageError("resources.extra.jobid-only: Longshore sets this flag of steve itself")
        if value is True:
            yield f"--{flag}"
        elif value is not None and value is not False:
            yield from (f"--{flag}", str(value))


def steve_warnings(job: JobSpec, profile: Profile) -> list[str]:
    """What a job on steve should know before it is submitted; nothing for other backends."""
    if job.backend != "steve":
        return []
    unused: Mapping[str, object] = {
        "resources.cpus": job.resources.cpus,
        "resources.memory": job.resources.memory,
        "mounts": (*profile.mounts, *job.mounts),
    }
    warnings = [f"{name} does nothing: steve has no option for it" for name, value in unused.items() if value]
    setup = job.setup
    sources = [
        source.path for source in (setup.tensordict, setup.torchrl, *setup.code) if isinstance(source, PathSource)
    ]
    for folder in [*([setup.wheelhouse] if setup.wheelhouse else []), *sources]:
        if profile.shared is None or not PurePosixPath(folder).is_relative_to(profile.shared):
            warnings.append(f"{folder} is not copied: the image or the profile's `shared` folder must have it")
    if profile.shared is None:
        warnings.append(
            "the container's files die with the allocation: checkpoints are pulled every "
            f"{profile.assume.pull} while somebody looks (`watch` does); a profile with a `shared` folder keeps them"
        )
    return warnings
