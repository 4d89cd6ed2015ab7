"""The run directory: which files a run leaves, in which form, and how each is written.

Standard library only: the orchestrator reads what the trainer writes through this module, and nothing else is shared.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

RUN_ID_VARIABLE = "LONGSHORE_RUN_ID"
RUN_DIR_VARIABLE = "LONGSHORE_RUN_DIR"
ATTEMPT_VARIABLE = "LONGSHORE_ATTEMPT"
DEADLINE_VARIABLE = "LONGSHORE_DEADLINE"  # unix seconds; the attempt is over then
CODE_VARIABLE = "LONGSHORE_CODE"  # folder of the packages that `setup.code` installs


class ExitCode(IntEnum):
    """Exit codes of `python -m trainer`. Zero counts only together with SUCCESS."""

    DONE = 0
    CRASH = 1
    USAGE = 2
    RESUMABLE = 75  # EX_TEMPFAIL of sysexits.h: a checkpoint was saved, run the same command again


class FailureClass(StrEnum):
    """Why an attempt ended without SUCCESS; `retry.on` of a job names these."""

    SPEC = "spec"
    SETUP = "setup"
    CRASH = "crash"
    NAN = "nan"
    OUT_OF_MEMORY = "out-of-memory"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    NODE_FAILURE = "node-failure"
    STALLED = "stalled"
    LOST = "lost"
    STOPPED = "stopped"  # its sweep goes on without it


class Phase(StrEnum):
    """What the trainer is doing, as shown by `status`."""

    STARTING = "starting"
    PREFILL = "prefill"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"
    DONE = "done"


@dataclass(frozen=True)
class Status:
    """Content of status.json: where the attempt stands, as of `heartbeat`."""

    phase: Phase
    optim_step: int = 0
    total_optim_steps: int = 0
    frames: int = 0
    fps: float = 0.0  # environment frames per second over the last log interval
    steps_per_s: float = 0.0  # optimiser steps per second over the last log interval
    episode_return: float | None = None  # mean of the last log interval with completed episodes
    attempt: int = 1
    heartbeat: float = 0.0  # unix seconds


@dataclass(frozen=True)
class Heartbeat:
    """Content of heartbeat-<role>.json: when a role of the attempt last went on, and when it last worked.

    A role that waits for another one goes on without working. Preparations before the first work count as neither.
    """

    phase: Phase
    optim_step: int = 0
    frames: int = 0
    alive: float | None = None  # unix seconds
    worked: float | None = None  # unix seconds


@dataclass(frozen=True)
class Failure:
    """Content of failure.json: why the last attempt did not succeed."""

    failure_class: FailureClass
    message: str
    traceback: str = ""
    exit_code: int | None = None
    attempt: int = 1


@dataclass(frozen=True)
class RunDir:
    """Paths of one run and the only functions that write its markers."""

    root: Path

    @property
    def job(self) -> Path:
        return self.root / "job.yaml"

    @property
    def script(self) -> Path:
        return self.root / "setup-and-run.sh"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def git(self) -> Path:
        return self.root / "git.json"

    @property
    def config(self) -> Path:
        """The trainer's resolved Hydra config."""
        return self.root / "config.yaml"

    @property
    def interface(self) -> Path:
        """What a policy of the run is given and gives, as the simulator says."""
        return self.root / "interface.json"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Final figures, written before SUCCESS."""
        return self.root / "summary.json"

    @property
    def videos(self) -> Path:
        return self.root / "videos"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def success(self) -> Path:
        return self.root / "SUCCESS"

    @property
    def failure(self) -> Path:
        return self.root / "failure.json"

    @property
    def stop(self) -> Path:
        """Written by whoever wants the run to save and end, with the reason; the coordinator looks for it."""
        return self.root / "stop"

    def attempt(self, number: int) -> Path:
        """Folder of one attempt: log.txt, exit_code, heartbeat and outcome of each role."""
        return self.root / "attempts" / str(number)

    def log(self, number: int) -> Path:
        return self.attempt(number) / "log.txt"

    def heartbeat(self, number: int, role: str) -> Path:
        return self.attempt(number) / f"heartbeat-{role}.json"

    def exit_code(self, number: int) -> Path:
        """The set-up script's exit status in decimal, written by its EXIT trap."""
        return self.attempt(number) / "exit_code"

    def attempts(self) -> list[int]:
        """Numbers of the attempts that left a folder, ascending."""
        folder = self.root / "attempts"
        if not folder.is_dir():
            return []
        return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())

    def write_status(self, status: Status) -> None:
        write_atomically(self.status, json.dumps(asdict(status)), durable=False)

    def has_trained(self, number: int) -> bool:
        """Whether the trainer of an attempt has given a sign of life; a status that cannot be read is none."""
        with suppress(ValueError, KeyError, TypeError):
            status = self.read_status()
            return status is not None and status.attempt == number
        return False

    def read_exit_code(self, number: int) -> int | None:
        """The set-up script's exit status; None where it has left none, or an empty file on a full disk."""
        with suppress(FileNotFoundError, ValueError):
            return int(self.exit_code(number).read_text(encoding="ascii"))
        return None

    def read_status(self) -> Status | None:
        """Where the attempt stands, or None where nothing was written yet."""
        raw = read_json(self.status)
        if raw is None:
            return None
        return Status(**{**raw, "phase": Phase(raw["phase"])})

    def write_heartbeat(self, number: int, role: str, heartbeat: Heartbeat) -> None:
        write_atomically(self.heartbeat(number, role), json.dumps(asdict(heartbeat)), durable=False)

    def read_heartbeat(self, number: int, role: str) -> Heartbeat | None:
        """The last heartbeat of a role, or None where none was written yet."""
        raw = read_json(self.heartbeat(number, role))
        if raw is None:
            return None
        return Heartbeat(**{**raw, "phase": Phase(raw["phase"])})

    def write_failure(self, failure: Failure) -> None:
        raw = asdict(failure)
        raw["class"] = raw.pop("failure_class")
        write_atomically(self.failure, json.dumps(raw, indent=2))

    def read_failure(self, attempt: int | None = None) -> Failure | None:
        """Why the last attempt failed, or one before it that was followed by another in the same place."""
        raw = read_json(self.failure if attempt is None else self.attempt(attempt) / self.failure.name)
        if raw is None:
            return None
        raw = dict(raw)
        return Failure(failure_class=FailureClass(raw.pop("class")), **raw)

    def write_success(self, attempt: int) -> None:
        """Mark the run as done; a failure of an earlier attempt is history then."""
        write_atomically(self.success, json.dumps({"attempt": attempt, "time": time.time()}))
        self.failure.unlink(missing_ok=True)

    def point_checkpoint(self, name: str, target: str) -> None:
        """Have the link `name` in `checkpoints/` lead to the checkpoint `target`, in one step."""
        link = self.checkpoints / f".tmp-{name}"  # what a crash leaves is swept away with unfinished checkpoints
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        link.replace(self.checkpoints / name)

    def read_summary(self) -> Mapping[str, Any] | None:
        return read_json(self.summary)

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Lines of metrics.jsonl, oldest first; a line cut short by a crash is left out."""
        if not self.metrics.exists():
            return
        with self.metrics.open(encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):
                    yield json.loads(line)


def write_atomically(path: Path, text: str, *, durable: bool = True, mode: int = 0o666) -> None:
    """Replace `path` by `text` so that readers see the old content or the new, never a part.

    Args:
        path: File to replace; its folder is made when missing.
        text: The whole new content.
        durable: Wait until the disk has it. Heartbeats, rewritten within seconds, need not.
        mode: Permissions of the file, less what the umask takes away; 0o600 for what nobody else is to read.

    Raises:
        OSError: The disk is full or not writable; `path` is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, or None where the file does not exist."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
