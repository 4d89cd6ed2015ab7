"""What the process of a role needs: its config, its heartbeat, when to stop, and how to say how it ended.

A role is started by the coordinator with a bare argv, because Isaac's Kit reads `sys.argv`; everything else it learns
from the JSON file that LONGSHORE_ROLE_CONFIG names. Imports no torch: Isaac's AppLauncher must come first.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from trainer.errors import PeerLost, Stopped, describe, failure_class
from trainer.exchange.rendezvous import Rendezvous
from trainer.outcome import Outcome, OutcomeKind
from trainer.run_dir import ExitCode, FailureClass, Heartbeat, Phase, RunDir, Status

ROLE_CONFIG_VARIABLE = "LONGSHORE_ROLE_CONFIG"
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
DUMP_SIGNAL = signal.SIGUSR2  # prints the stack of every thread: where a stalled role hangs
BEAT_SECONDS = 1.0  # heartbeat and status.json are not written more often
TRACEBACK_CHARACTERS = 16_000  # the end of it; the reserve on a full disk holds no more

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class RoleConfig:
    """Content of the JSON file that LONGSHORE_ROLE_CONFIG names."""

    role: str
    config: dict[str, Any]
    run_dir: str
    attempt: int
    outcome: str  # where the role writes its last word
    reserve: str  # given up for it when the disk is full
    coordinator: int  # process id; the role does not outlive it
    reports: bool = True  # status.json shows what this role says
    rendezvous: Rendezvous | None = None  # with the other role, where there is one

    @staticmethod
    def read(path: Path) -> RoleConfig:
        raw = json.loads(path.read_text(encoding="utf-8"))
        rendezvous = Rendezvous(**raw["rendezvous"]) if raw["rendezvous"] else None
        return RoleConfig(**raw | {"rendezvous": rendezvous})


class RoleContext:
    """What a role's main function works with.

    Attributes:
        config: The trainer's resolved config.
        run_dir: Where everything is written.
        attempt: Number of this start of the run, from 1.
        role: Own name.
        rendezvous: With the other role, None where this is the only one.
        exits_at_once: End the process without the interpreter's own clearing up, once the last word is written. A
            simulator sets it whose end may hang, or pass for success.
    """

    def __init__(self, role: RoleConfig, clock: Callable[[], float] = time.time) -> None:
        self.config: dict[str, Any] = role.config
        self.run_dir = RunDir(Path(role.run_dir))
        self.attempt = role.attempt
        self.role = role.role
        self.rendezvous = role.rendezvous
        self.exits_at_once = False
        self._reports = role.reports
        self._clock = clock
        self._stop = False
        optimization: Mapping[str, Any] = role.config.get("optimization") or {}
        total = int(optimization.get("total_optim_steps", 0))
        self._status = Status(Phase.STARTING, total_optim_steps=total, attempt=role.attempt)
        self._alive: float | None = None
        self._worked: float | None = None
        self._written: Status | None = None

    @property
    def should_stop(self) -> bool:
        """A signal has asked this role to stop: save, then raise `trainer.errors.Stopped`."""
        return self._stop

    def beat(
        self,
        phase: Phase,
        *,
        waiting: bool = False,
        optim_step: int | None = None,
        frames: int | None = None,
        fps: float | None = None,
        steps_per_s: float | None = None,
        episode_return: float | None = None,
    ) -> None:
        """Say that work has gone on: call it from the loop that does the work, and from nowhere else.

        Cheap enough for every step: the files are replaced once a second and whenever the phase changes. What is left
        out keeps its last value.

        Args:
            phase: What the role is doing now.
            waiting: It only waits for another role, alive itself. That other one is the one which must go on.
            optim_step: Optimiser steps done.
            frames: Environment frames collected.
            fps: Frames per second over the last log interval.
            steps_per_s: Optimiser steps per second over the last log interval.
            episode_return: Mean return of the episodes of the last log interval.

        Raises:
            OSError: The disk is full.
        """
        given = {
            "optim_step": optim_step,
            "frames": frames,
            "fps": fps,
            "steps_per_s": steps_per_s,
            "episode_return": episode_return,
        }
        now = self._clock()
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        status = self._status = replace(self._status, phase=phase, heartbeat=now, **changes)
        works = phase is not Phase.STARTING and not waiting
        self._alive = now if works or waiting else self._alive
        self._worked = now if works else self._worked
        last = self._written
        if last is None or last.phase is not phase or not 0 <= now - last.heartbeat < BEAT_SECONDS:
            heartbeat = Heartbeat(phase, status.optim_step, status.frames, self._alive, self._worked)
            self.run_dir.write_heartbeat(self.attempt, self.role, heartbeat)
            if self._reports:
                self.run_dir.write_status(status)
            self._written = status

    def reinstall_signals(self) -> None:
        """Put the role's signal handlers in place; again after Isaac's AppLauncher, which replaces them."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._request_stop)
        with suppress(RuntimeError, ValueError, OSError):  # no stderr with a file number: nothing to print to
            faulthandler.disable()  # else it would leave alone what has taken its place
            faulthandler.enable()
            faulthandler.register(DUMP_SIGNAL, all_threads=True)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self._stop = True


def run_role(main: Callable[[RoleContext], None]) -> NoReturn:
    """Run a role's main function as this process's only purpose, and end the process.

    `main` returns when the training is done, raises `Stopped` after it has saved because `should_stop` became true, and
    `PeerLost` when another role is gone.
    Exit status: 0 done, 75 stopped, 2 a wrong config, 1 anything else.
    """
    role = RoleConfig.read(Path(os.environ[ROLE_CONFIG_VARIABLE]))
    _die_with(role.coordinator)
    context = RoleContext(role)
    context.reinstall_signals()
    outcome = _run(main, context)
    with suppress(OSError):
        sys.stderr.write(outcome.traceback)
    outcome.write(Path(role.outcome), Path(role.reserve))
    if context.exits_at_once:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(_exit_code(outcome))
    sys.exit(_exit_code(outcome))


def _run(main: Callable[[RoleContext], None], context: RoleContext) -> Outcome:
    try:
        context.beat(Phase.STARTING)
        main(context)
    except Stopped:
        return Outcome(OutcomeKind.STOPPED)
    except PeerLost as error:
        # Roles that are all asked to stop do not end at the same moment.
        kind = OutcomeKind.STOPPED if context.should_stop else OutcomeKind.PEER_LOST
        return Outcome(kind, message=describe(error, context.run_dir.root))
    except BaseException as error:
        # SystemExit too: libraries that call sys.exit() must not pass for a finished training.
        text = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
        return Outcome(OutcomeKind.FAILED, failure_class(error), describe(error, context.run_dir.root), text)
    with suppress(OSError):  # the training is done, whether or not the disk has room for a heartbeat
        context.beat(Phase.DONE)
    return Outcome(OutcomeKind.DONE)


def _exit_code(outcome: Outcome) -> int:
    match outcome.kind:
        case OutcomeKind.DONE:
            return ExitCode.DONE
        case OutcomeKind.STOPPED:
            return ExitCode.RESUMABLE
        case _:
            return ExitCode.USAGE if outcome.failure_class is FailureClass.SPEC else ExitCode.CRASH


def _die_with(coordinator: int) -> None:
    """Have the kernel kill this process when its parent dies, so that even `kill -9` leaves no orphan on a GPU."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != coordinator:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)
