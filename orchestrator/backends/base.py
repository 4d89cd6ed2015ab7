"""What a backend is: states in data, one pure plan, and three verbs that touch the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from orchestrator.retry import RetryPolicy
from orchestrator.states import FailureClass, RunState

if TYPE_CHECKING:
    from orchestrator.gpus import Gpu
    from orchestrator.hosts import Host
    from orchestrator.jobfile.job import Resources
    from orchestrator.jobfile.model import Mount


JOB_ID = "$JOBID"  # in a command: the id that the first one has printed
BATCH_SCRIPT = "job.sbatch"  # in the run directory of a batch system's run


@dataclass(frozen=True)
class ContainerRequest:
    """What the container of a run needs.

    Attributes:
        image: Its image, with tag or digest.
        resources: Of one task.
        mounts: The profile's, then the job's.
        folders: Of the host, read by the script under the same path: the snapshot, a wheelhouse, sources.
        cache: Folder of the host for caches that outlive a run; None for volumes of the container engine.
        engine: Address of the container engine; None for the one of the environment.
        isaac: The image is Isaac Lab's, or made from it.
        labels: What is written on the container, by name.
    """

    image: str
    resources: Resources
    mounts: tuple[Mount, ...] = ()
    folders: tuple[str, ...] = ()
    cache: str | None = None
    engine: str | None = None
    isaac: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepPlace:
    """Where a run stands in a sweep that its backend starts as one.

    Attributes:
        sweep_id: The same for all of its runs.
        index: From 0.
        size: How many runs the sweep has.
        max_parallel: How many of them may go at once; None for all.
    """

    sweep_id: str
    index: int
    size: int
    max_parallel: int | None = None


@dataclass(frozen=True)
class BatchRequest:
    """What a batch system needs to know of a run, with or without a container.

    Attributes:
        resources: Of one task; the partition is the job's, or else the profile's.
        retries: Attempts after the first.
        retry_on: Failure classes that are followed by another attempt.
        name: Of the job.
        environment: Variables that the job sets; the script sets them too.
        tasks: How many of the job's tasks run the script at once.
    """

    resources: Resources
    retries: int = 0
    retry_on: tuple[str, ...] = ()
    name: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    tasks: int = 1


@dataclass(frozen=True)
class Upload:
    """A folder that the backend's host needs before the start.

    Attributes:
        source: On this machine.
        target: On the host.
        complete: It never changes: where the target is there, nothing is sent.
    """

    source: Path
    target: Path
    complete: bool = False


@dataclass(frozen=True)
class LaunchRequest:
    """One attempt of one run, ready to be started. Everything in it is decided; nothing is secret.

    Attributes:
        run_id: Also the value of LONGSHORE_RUN_ID in every process of the run.
        run_dir: Where the run's files are, as the backend's host sees it.
        script: Path of the rendered setup-and-run.sh.
        attempt: From 1.
        secrets: Names of variables that the backend takes from `launch`'s argument, never from a file of the plan.
        time_limit: Seconds that the attempt may take, None for as long as it likes.
        container: None on a plain machine.
        batch: None where no batch system is asked.
        place: None outside of a sweep, and where the backend starts the runs of one by one.
        uploads: What is copied to the host first; nothing where `run_dir` is this machine's own.
        retry: When the registry starts another attempt; never where the backend does so itself.
        gpus: How many the registry gives it; 0 where the backend does so itself.
        words: Further settings of the trainer for this attempt, where the commands are those of several runs.
    """

    run_id: str
    run_dir: Path
    script: Path
    attempt: int
    secrets: tuple[str, ...] = ()
    time_limit: float | None = None
    container: ContainerRequest | None = None
    batch: BatchRequest | None = None
    place: SweepPlace | None = None
    uploads: tuple[Upload, ...] = ()
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    gpus: int = 0
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Launch:
    """What a backend would do to start a run: shown by `plan`, executed by `launch`.

    Attributes:
        request: What it was made from.
        commands: Words of each command, in order.
        environment: Variables of those commands.
        container: What the container engine is asked to create, in its own words; None where no engine is asked.
        engine: The engine's address; None for the one of the environment.
        batch_script: What a batch system is handed; it lies in the run directory, and here only while planning.
    """

    request: LaunchRequest
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    container: Mapping[str, Any] | None = None
    engine: str | None = None
    batch_script: str | None = None


@dataclass(frozen=True)
class Observation:
    """What a backend knows of a handle right now.

    Attributes:
        attempt: Which attempt it is of, where the backend itself starts the next one under the same handle.
        handed_back: Nothing has begun under this handle, and nothing will: the run is to be started anew.
    """

    state: RunState
    failure_class: FailureClass | None = None
    exit_code: int | None = None
    message: str = ""
    attempt: int | None = None
    handed_back: bool = False


@dataclass(frozen=True)
class Place:
    """Where a run's files are.

    Attributes:
        host: The machine, or the container, that has them.
        folder: The run directory there.
    """

    host: Host
    folder: Path


class Backend(Protocol):
    """Starts attempts and says what became of them. Knows nothing of the CLI or of the registry."""

    name: ClassVar[str]
    queues: ClassVar[bool]  # what was launched may wait in a queue of the backend's own

    def plan(self, request: LaunchRequest) -> Launch:
        """Pure: what `launch` will do."""
        ...

    def again(self, launch: Launch, attempt: int, words: Sequence[str]) -> Launch:
        """Pure: the launch of a further attempt, by its number from 1; `words` are further settings of the trainer."""
        ...

    def launch(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        """Start it and return a handle: a string that finds the attempt again from another process.

        An attempt is started once. Where it has been started before, by this process or by one that died before it
        could tell, nothing is started and its handle is returned.

        Raises:
            UnclearStart: It may have been started or not.
            RefusedStart: It was refused, and no earlier call has started it unseen.
            BackendError: It could not be started, and was not; of earlier calls that says nothing.
        """
        ...

    def poll(self, handles: Mapping[str, Path]) -> dict[str, Observation]:
        """Observations of handles (each with its run directory) in one query.

        Handles that nothing can be said of right now are left out.

        Raises:
            BackendError: The backend cannot be asked.
        """
        ...

    def cancel(self, handles: Mapping[str, Path], grace: timedelta) -> None:
        """Ask the attempts (each with its run directory) to stop, and end them by force after `grace`.

        Raises:
            BackendError: Some cannot be ended from here.
        """
        ...

    def execute(self, handle: str, run_dir: Path, command: Sequence[str], variables: Mapping[str, str]) -> int:
        """Run a command where an attempt is, in its run directory, its output going to this process's own.

        Args:
            handle: The attempt.
            run_dir: Its run directory here.
            command: Program and arguments, as they are there.
            variables: Of the command, besides those that it finds there.

        Returns:
            Its exit code.

        Raises:
            BackendError: It could not be started.
        """
        ...


@runtime_checkable
class SweepBackend(Backend, Protocol):
    """Starts the runs of a sweep as one, and itself keeps to how many of them may go at once."""

    def launch_sweep(self, launches: Sequence[Launch], secrets: Mapping[str, str]) -> dict[str, str]:
        """As `launch`, for runs of one sweep.

        Returns:
            Handles by run id; runs that are left out were not started, and have to wait.

        Raises:
            BackendError: None of them was started, or nobody can say.
        """
        ...


@runtime_checkable
class FollowingBackend(Backend, Protocol):
    """Can itself start a run once others have succeeded, and never where one of them has not."""

    def following(self, launch: Launch, handles: Sequence[str]) -> Launch:
        """Pure: the same launch, begun once the attempts with these handles have succeeded."""
        ...


@runtime_checkable
class GpuBackend(Backend, Protocol):
    """Starts runs on GPUs that the registry gives out."""

    def gpus(self, launch: Launch) -> Sequence[Gpu]:
        """Those that runs started like this one may be given; none where they are not known."""
        ...

    def on_gpus(self, launch: Launch, names: Sequence[str]) -> Launch:
        """Pure: the same launch, on some of these GPUs and no others."""
        ...


@runtime_checkable
class FarBackend(Backend, Protocol):
    """Keeps run directories elsewhere."""

    def fetch(self, run_dirs: Sequence[Path]) -> None:
        """Bring the logs of runs here, as far as they are written.

        Raises:
            BackendError: They cannot be reached.
        """
        ...

    def place(self, run_dir: Path) -> Place | None:
        """Where the files of a run are now; None where the ones on this machine are all that there is."""
        ...


def in_folder(folder: Path, command: Sequence[str], variables: Mapping[str, str]) -> tuple[str, ...]:
    """A command that runs in a folder of its machine with variables besides those that are there."""
    return ("env", "-C", str(folder), *(f"{name}={value}" for name, value in variables.items()), *command)
