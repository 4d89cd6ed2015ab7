"""What a job's script is made of, by the kind of place that it runs in: a plain machine or a container."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.job import GitSource, PackageSource, PathSource, Setup
from orchestrator.profile import Profile
from orchestrator.script import ContainerSetup, Install, ScriptContext
from orchestrator.spec import JobSpec, train_arguments
from orchestrator.tasks import simulator_of

DEFAULT_SIMULATOR = "mjlab"  # of trainer/conf/config.yaml

# What each simulator needs besides its own module in the trainer. isaaclab.app is found, not imported: it comes before
# torch where it is used.
PACKAGES: Mapping[str, str] = {"mjlab": "mjlab", "isaaclab": "isaaclab.app", "dm_control": "dm_control"}

ISAAC_PYTHON = ("/workspace/isaaclab/isaaclab.sh", "-p")
ISAAC_VARIABLES: Mapping[str, str] = {
    "OMNI_KIT_ACCEPT_EULA": "yes",
    "ACCEPT_EULA": "Y",
    "OMNI_KIT_ALLOW_ROOT": "1",
    "PYTHONNOUSERSITE": "1",
    "TD_GET_DEFAULTS_TO_NONE": "1",
}
COMMON_VARIABLES: Mapping[str, str] = {"PYTHONUNBUFFERED": "1"}  # the log is followed while it is written

# What tensordict and torchrl import besides torch. Their own requirements would replace the container's torch.
LIGHT_DEPENDENCIES = ("pyvers", "hoptorch==0.1.4", "cloudpickle", "orjson", "importlib_metadata")


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
    in_container = job.backend != "local"
    isaac = in_container and is_isaac(job)
    variables = {**COMMON_VARIABLES}
    if isaac:
        variables |= ISAAC_VARIABLES
    if in_container and "WANDB_API_KEY" in job.secrets:
        variables["WANDB_MODE"] = "online"
    container_python = ISAAC_PYTHON if isaac else ("python3",)
    return ScriptContext(
        run_id=run_id,
        run_dir=str(run_dir),
        snapshot=str(snapshot),
        python=container_python if in_container else (python,),
        environment={**variables, **profile.environment, **job.environment},
        train=(*watchdog_words(job), *train_arguments(job)),
        modules=_modules(simulator(job)),
        gpus=job.resources.gpus if in_container else 0,  # here `device: auto` takes what there is
        time_limit=job.resources.time_seconds,
        container=container_setup(job) if in_container else None,
    )


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
        installs=tuple(_installs(setup)),
        apt=setup.apt,
        wheelhouse=setup.wheelhouse,
        visible_devices=",".join(map(str, range(gpus))) if gpus >= 2 else "",
        kill_all=setup.kill == "all",
    )


def unused_settings(job: JobSpec) -> list[str]:
    """A warning for each setting that means nothing on this machine."""
    if job.backend != "local":
        return []
    default = Setup()
    warnings = [
        f"setup.{name} does nothing on the local backend: its Python is used as it is"
        for name in type(job.setup).model_fields
        if getattr(job.setup, name) != getattr(default, name)
    ]
    if job.mounts:
        warnings.append("mounts do nothing on the local backend: there is no container")
    if job.image is not None:
        warnings.append("image does nothing on the local backend: there is no container")
    return warnings


def _modules(simulator: str) -> tuple[str, ...]:
    package = PACKAGES.get(simulator)
    return (f"trainer.simulators.{simulator}", *((package,) if package else ()))


def _installs(setup: Setup) -> Iterator[Install]:
    alone = ("--no-deps",)
    yield Install("light-dependencies", LIGHT_DEPENDENCIES, alone)
    yield Install("tensordict", (requirement(setup.tensordict, "tensordict"),), alone)
    # Built, where it is built at all, against the container's own torch.
    yield Install("torchrl", (requirement(setup.torchrl, "torchrl"),), ("--no-build-isolation", *alone))
    if setup.pip:
        yield Install("pip", setup.pip)
    for index, source in enumerate(setup.code):
        yield Install(f"code-{index}", (requirement(source),), alone)


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
