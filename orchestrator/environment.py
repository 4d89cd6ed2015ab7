"""What a job's script is made of, by the kind of place that it runs in: a plain machine or a container."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.backends.steve.commands import GIVEN
from orchestrator.docker.container import LEARNER
from orchestrator.jobfile.job import GitSource, PackageSource, PathSource, Setup
from orchestrator.jobfile.tasks import simulator_of
from orchestrator.profile import Profile
from orchestrator.retry import IN_PLACE, RetryPolicy
from orchestrator.script import ContainerSetup, Install, ScriptContext
from orchestrator.spec import JobSpec, train_arguments

DEFAULT_SIMULATOR = "mjlab"  # of trainer/conf/config.yaml
LIBRARIES = ("torch", "tensordict", "torchrl")

# What each simulator needs besides its own module in the trainer. isaaclab.app is found, not imported: it comes before
# torch where it is used.
PACKAGES: Mapping[str, str] = {"mjlab": "mjlab", "isaaclab": "isaaclab.app", "dm_control": "dm_control"}

ISAAC_PYTHON = ("/workspace/isaaclab/isaaclab.sh", "-p")
ISAAC_VARIABLES: Mapping[str, str] = {
    "OMNI_KIT_ACCEPT_EULA": "yes",
    "ACCEPT_EULA": "Y",
    "OMNI_KIT_ALLOW_ROOT": "1",
    "HEADLESS": "1",
    "HUB__ARGS__DETECT_ONLY": "false",  # newer images say true, and then every start asks some 40 times for a hub
    "PYTHONNOUSERSITE": "1",
    "TD_GET_DEFAULTS_TO_NONE": "1",
}
# What a learner has compiled outlives the container.
CONTAINER_VARIABLES: Mapping[str, str] = {"TORCHINDUCTOR_CACHE_DIR": f"{LEARNER}/torchinductor"}
COMMON_VARIABLES: Mapping[str, str] = {"PYTHONUNBUFFERED": "1"}  # the log is followed while it is written

# What tensordict and torchrl import besides torch. Their own requirements would replace the container's torch.
LIGHT_DEPENDENCIES = ("pyvers", "hoptorch==0.1.4", "cloudpickle", "orjson", "importlib_metadata")
# What the trainer imports besides. Isaac Lab's image has all of it but W&B.
TRAINER_DEPENDENCIES = ("hydra-core>=1.3.2", "tensorboard")
WANDB = "wandb>=0.22.3"
# Never moved, whoever asks: what the image was built around.
HELD = frozenset({"torch", "numpy"})

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?=$|[\s\[<>=!~;@])")  # of a requirement; a URL has a colon behind it


def script_context(
    job: JobSpec, profile: Profile, *, run_id: str, run_dir: Path, snapshot: Path, python: str
) -> ScriptContext:
    """All that setup-and-run.sh of one run says.

    Args:
        job: Without a sweep.
        profile: Settings of the site.
        run_id: The run's id.
        run_dir: Absolute.
        snapshot: Absolute; folder that holds the trainer package.
        python: Interpreter of local runs.
    """
    contained = in_container(job, profile)
    imports, modules = _verified(job)
    container_python = ISAAC_PYTHON if is_isaac(job) else ("python3",)
    return ScriptContext(
        run_id=run_id,
        run_dir=str(run_dir),
        snapshot=str(snapshot),
        python=container_python if contained else (_node_python(profile, python),),
        environment=variables_of(job, profile),
        train=(*watchdog_words(job), *train_arguments(job)),
        imports=imports,
        modules=modules,
        gpus=job.resources.gpus if contained else 0,  # here `device: auto` takes what there is
        time_limit=job.resources.time_seconds,
        container=container_setup(job) if contained else None,
        tasks=(tasks := tasks_of(job)),
        secrets=bool(job.secrets) and job.backend not in {"local", "steve"},
        given=f"{profile.assume.folder}/{GIVEN}" if job.backend == "steve" else None,
        **({} if job.backend == "slurm" or tasks > 1 else _retries_in_place(job.retry.policy)),
    )


def tasks_of(job: JobSpec) -> int:
    """How many of a job's tasks run its script: several are nodes of a Ray cluster, anything else needs one alone."""
    clustered = job.backend in {"slurm", "steve"} and job.train.get("pipeline") == "ray"
    return job.resources.ntasks if clustered else 1


def variables_of(job: JobSpec, profile: Profile) -> dict[str, str]:
    """Variables of a run's processes; those of the job count most, then the profile's."""
    variables = {**COMMON_VARIABLES}
    contained = in_container(job, profile)
    if contained:
        variables |= CONTAINER_VARIABLES
    if contained and is_isaac(job):
        variables |= ISAAC_VARIABLES
    if contained and "WANDB_API_KEY" in job.secrets:
        variables["WANDB_MODE"] = "online"
    return {**variables, **profile.environment, **job.environment}


def _retries_in_place(policy: RetryPolicy) -> dict[str, Any]:
    """The attempts that a script starts by itself: those that it counts by."""
    names = tuple(name for name in policy.on if name in IN_PLACE)
    return {"last_attempt": 1 + policy.max, "retry_on": names, "backoff": policy.backoff} if policy.max else {}


def in_container(job: JobSpec, profile: Profile) -> bool:
    """Whether a job runs in a container: never here, and on a cluster's node where it names an image."""
    if job.backend == "slurm":
        return job.image is not None and profile.container_runtime != "none"
    return job.backend != "local"


def _node_python(profile: Profile, python: str) -> str:
    """The interpreter of a plain machine: of another one the profile alone knows it."""
    return python if profile.host is None else profile.python or "python3"


def simulator(job: JobSpec) -> str:
    """Name of the simulator that a job trains with."""
    train = {key.lstrip("+"): value for key, value in job.train.items()}
    named, task = train.get("env.backend"), train.get("env.name")
    return str(named or (simulator_of(task) if isinstance(task, str) else None) or DEFAULT_SIMULATOR)


def is_isaac(job: JobSpec) -> bool:
    """Whether the image is Isaac Lab's, or made from it."""
    return simulator(job) == "isaaclab" or "isaac" in (job.image or "")


def watchdog_words(job: JobSpec) -> tuple[str, ...]:
    """The job's watchdog as overrides of the trainer, unless the job sets those itself."""
    limits = {"watchdog.start": job.watchdog.start_seconds, "watchdog.stall": job.watchdog.stall_seconds}
    own = {key.lstrip("+") for key in job.train}
    return tuple(f"{key}={seconds}" for key, seconds in limits.items() if key not in own)


def container_setup(job: JobSpec) -> ContainerSetup:
    """What is installed where the job's container starts."""
    setup, gpus = job.setup, job.resources.gpus
    return ContainerSetup(
        installs=(installs := tuple(_installs(job))),
        own=_own_names(installs),
        apt=setup.apt,
        wheelhouse=setup.wheelhouse,
        visible_devices=",".join(map(str, range(gpus))) if gpus >= 2 else "",
        kill_all=setup.kill == "all",
    )


def host_folders(job: JobSpec) -> tuple[str, ...]:
    """Folders of the submitter's machine that the script of a job reads."""
    setup = job.setup
    sources = [
        source.path for source in (setup.tensordict, setup.torchrl, *setup.code) if isinstance(source, PathSource)
    ]
    return (*([setup.wheelhouse] if setup.wheelhouse else []), *sources)


def unused_settings(job: JobSpec, profile: Profile) -> list[str]:
    """A warning for each setting that means nothing on a plain machine."""
    if in_container(job, profile):
        return []
    where = "on the local backend" if job.backend == "local" else "without a container"
    default = Setup()
    warnings = [
        f"setup.{name} does nothing {where}: its Python is used as it is"
        for name in type(job.setup).model_fields
        if getattr(job.setup, name) != getattr(default, name)
    ]
    if job.mounts:
        warnings.append(f"mounts do nothing {where}")
    if job.image is not None:
        warnings.append(f"image does nothing {where}")
    return warnings


def _verified(job: JobSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is imported, and what is only looked for, before training starts.

    On this machine nothing was installed that could have gone wrong, and the trainer itself is the first to import
    anything: importing it twice would be half of what a short run takes.
    """
    name = simulator(job)
    package = PACKAGES.get(name)
    modules = (f"trainer.simulators.{name}", *((package,) if package else ()))
    if job.backend == "local":
        return (), (*LIBRARIES, *modules)
    return LIBRARIES, modules


def _installs(job: JobSpec) -> Iterator[Install]:
    setup = job.setup
    wandb = () if job.environment.get("WANDB_MODE", "online") == "disabled" or not _wants_wandb(job) else (WANDB,)
    yield Install("light-dependencies", LIGHT_DEPENDENCIES, ("--no-deps",))
    yield _package("tensordict", setup.tensordict)
    yield _package("torchrl", setup.torchrl)
    yield Install("trainer", (*TRAINER_DEPENDENCIES, *wandb))
    if setup.pip:
        yield Install("pip", setup.pip)
    for index, source in enumerate(setup.code):
        yield replace(_package(f"code-{index}", source), kept=False)


def _wants_wandb(job: JobSpec) -> bool:
    return "WANDB_API_KEY" in job.secrets or "WANDB_MODE" in job.environment


def _package(label: str, source: PackageSource) -> Install:
    """One package, built, where it is built at all, against the container's own torch, and without what it asks for."""
    flags = ("--no-build-isolation", "--no-deps", "--ignore-installed")
    if isinstance(source, PathSource):
        return Install(label, (), flags, folder=source.path, kept=False)
    return Install(label, (requirement(source, label),), flags)


def _own_names(installs: Sequence[Install]) -> tuple[str, ...]:
    """Names of the packages whose version the job decides, and not the image."""
    named = [_NAME.match(package) for install in installs for package in install.packages]
    names = [match[0] for match in named if match] + [install.label for install in installs]
    return tuple(sorted({re.sub(r"[-_.]+", "-", name).lower() for name in names} - HELD))


def requirement(source: PackageSource, name: str = "") -> str:
    """What pip is told to install: a version, a git ref, or a folder.

    Args:
        source: Where the package comes from.
        name: The package's; needed for a version.
    """
    if isinstance(source, PathSource):
        return source.path
    if isinstance(source, GitSource):
        url = source.git
        if "://" not in url:  # git's short form for ssh, which pip does not know
            host, _, path = url.partition(":")
            url = f"ssh://{host}/{path}"
        return f"git+{url}@{source.ref}"
    return f"{name}=={source}"
