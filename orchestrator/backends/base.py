"""What a backend is: states in data, one pure plan, and three verbs that touch the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Protocol

from orchestrator.states import FailureClass, RunState


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
    """

    run_id: str
    run_dir: Path
    script: Path
    attempt: int
    secrets: tuple[str, ...] = ()
    time_limit: float | None = None


@dataclass(frozen=True)
class Launch:
    """What a backend would do to start a run: shown by `plan`, executed by `launch`."""

    request: LaunchRequest
    commands: tuple[tuple[str, ...], ...]  # argv each, in order
    environment: Mapping[str, str] = field(default_factory=dict)


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
