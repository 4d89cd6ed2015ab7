"""What a backend is: states in data, one pure plan, and three verbs that touch the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from orchestrator.states import FailureClass, RunState

if TYPE_CHECKING:
    from orchestrator.job import Mount, Resources


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
    """

    run_id: str
    run_dir: Path
    script: Path
    attempt: int
    secrets: tuple[str, ...] = ()
    time_limit: float | None = None
    container: ContainerRequest | None = None


@dataclass(frozen=True)
class Launch:
    """What a backend would do to start a run: shown by `plan`, executed by `launch`.

    Attributes:
        request: What it was made from.
        commands: Words of each command, in order.
        environment: Variables of those commands.
        container: What the container engine is asked to create, in its own words; None where no engine is asked.
        engine: The engine's address; None for the one of the environment.
    """

    request: LaunchRequest
    commands: tuple[tuple[str, ...], ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    container: Mapping[str, Any] | None = None
    engine: str | None = None


@dataclass(frozen=True)
class Observation:
    """What a backend knows of a handle right now."""

    state: RunState
    failure_class: FailureClass | None = None
    exit_code: int | None = None
    message: str = ""


class Backend(Protocol):
    """Starts attempts and says what became of them. Knows nothing of the CLI or of the registry."""

    name: ClassVar[str]

    def plan(self, request: LaunchRequest) -> Launch:
        """Pure: what `launch` will do."""
        ...

    def launch(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        """Start it and return a handle: a string that finds the attempt again from another process.

        An attempt is started once. Where it has been started before, by this process or by one that died before it
        could tell, nothing is started and its handle is returned.

        Raises:
            BackendError: It could not be started, and was not.
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
