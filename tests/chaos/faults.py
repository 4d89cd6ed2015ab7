"""What can go wrong with a run, each as a function that makes it go wrong."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.registry import REGISTRY
from tests.chaos.subject import ROLES, Subject, eventually

EARLY = 60  # optimiser steps after which things go wrong


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        name: What happens.
        make: Submits the run and makes it happen; returns the optimiser steps done by then.
        classes: Failure classes that the attempts before the last one may have, None for an end without one.
        state: How the run must end.
        loses_checkpoint: It may cost as much as two checkpoint intervals: the newest checkpoint is gone too.
        short: Among the few that are tried with every change.
        place: Where the run is: `here`, in a container of `docker`, or on `slurm`.
    """

    name: str
    make: Callable[[Subject], int]
    classes: frozenset[str | None] = frozenset({"crash"})
    state: str = "succeeded"
    loses_checkpoint: bool = False
    short: bool = False
    place: str = "here"


def begun(run: Subject, *train: str) -> int:
    """Submit a run and wait until it has a step and a checkpoint to lose; returns the optimiser steps done."""
    run.submit(*train)
    run.until_step(EARLY)
    run.until_checkpoint()
    return run.step()


def kill_of(part: str, *train: str) -> Callable[[Subject], int]:
    """SIGKILL of one process in the middle of training."""

    def make(run: Subject) -> int:
        step = begun(run, *train)
        run.kill(part)
        return step

    return make


def kill_of_the_script(run: Subject) -> int:
    step = begun(run)
    os.kill(run.script(), signal.SIGKILL)
    return step


def kill_of_the_orchestrator(run: Subject) -> int:
    run.submit()
    waiting = run.start_command("wait", run.run_id)
    run.until_step(EARLY)
    waiting.kill()
    waiting.wait()
    return 0  # nothing is lost


def sigterm_at(moment: float) -> Callable[[Subject], int]:
    """SIGTERM to the script after some seconds: in the set-up, in the middle of a step, of a checkpoint …"""

    def make(run: Subject) -> int:
        run.submit()
        time.sleep(moment)
        step = run.step()
        os.kill(run.script(), signal.SIGTERM)
        return step

    return make


def truncation_at(tenth: int) -> Callable[[Subject], int]:
    """The newest checkpoint's largest file is cut, and the trainer killed."""

    def make(run: Subject) -> int:
        step = begun(run)
        run.kill(ROLES["trainer"], signal.SIGSTOP)
        newest = (run.run_dir.checkpoints / "latest").resolve()
        largest = max(newest.glob("*.pt*"), key=lambda path: path.stat().st_size)
        os.truncate(largest, largest.stat().st_size * tenth // 10)
        run.kill(ROLES["trainer"])
        return step

    return make


def full_disk(run: Subject) -> int:
    """No room for the next checkpoint, until there is room again."""
    step = begun(run)
    hog = run.home / "hog"
    with hog.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        except OSError:
            pass  # now it is full
    eventually(lambda: len(run.run_dir.attempts()) > 1 or not run.processes(), "the end of the attempt")
    hog.unlink()
    return step


def locked_registry(run: Subject) -> int:
    """Another process holds the registry for ten seconds, while somebody looks."""
    run.submit()
    run.until_step(EARLY)
    database = sqlite3.connect(run.home / REGISTRY, isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")
    looking = run.start_command("status", run.run_id)
    time.sleep(10)
    database.execute("ROLLBACK")
    database.close()
    if looking.wait(60) != 0:
        raise AssertionError("`status` gave up on a registry that was locked for ten seconds")
    return 0


def clock_jump(seconds: int) -> Callable[[Subject], int]:
    """The machine's clock is set: every process of the trainer sees it at once."""

    def make(run: Subject) -> int:
        clock, library = run.folder / "clock", run.folder / "clock.so"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-O1", "-o", library, Path(__file__).with_name("clock.c")], check=True
        )
        clock.write_text("0")
        run.submit(environment={"LD_PRELOAD": str(library), "CLOCK_FILE": str(clock)})
        run.until_step(EARLY)
        run.until_checkpoint()
        clock.write_text(str(seconds))

        def has_jumped() -> bool:
            status = run.run_dir.read_status()
            return status is not None and abs(status.heartbeat - time.time() - seconds) < 60

        eventually(has_jumped, "a heartbeat by the clock that was set")
        return 0

    return make


def spoilt_simulator(how: str) -> Callable[[Subject], int]:
    """A simulator that goes wrong once, as `tests.chaos.spoilt` knows how."""

    def make(run: Subject) -> int:
        packages, mark = run.packages, run.packages / "spoilt"
        shutil.copy(Path(__file__).with_name("spoilt.py"), packages / "sitecustomize.py")
        run.submit(environment={"PYTHONPATH": str(packages), "SPOILT": how, "SPOILT_ONCE": str(mark)})
        eventually(mark.exists, "a step that is spoilt")
        return run.step()

    return make


def hanging_simulator(run: Subject) -> int:
    """A simulator that answers no more: the watchdog ends the attempt."""
    step = begun(run, "pipeline: async")
    run.kill(ROLES["simulator"], signal.SIGSTOP)
    return step


def death_at_start(run: Subject) -> int:
    """Dead three times as soon as it is there, then it works."""
    run.submit()
    for attempt in (1, 2, 3):
        run.until_attempt(attempt)
        run.kill(ROLES["trainer"])
        eventually(lambda: not run.processes(ROLES["trainer"]), "the end of the trainer")
    return 0


def not_a_number(run: Subject) -> int:
    """Training that diverges, again and again."""
    run.submit("agent.optimizer.lr: 1e30", "agent.optimizer.agc: 1e30")
    return 0


def time_limit(run: Subject) -> int:
    run.submit(time_limit="20s")
    return 0


def moments() -> Mapping[str, float]:
    """Ten moments between the start and the end of a run, other ones each time, but told."""
    seconds = sorted(random.uniform(0.5, 15.0) for _ in range(10))
    return {f"SIGTERM after {moment:.1f} s": moment for moment in seconds}


def faults() -> list[Fault]:
    """All of them."""
    either = frozenset({"crash", "preempted", "setup"})
    return [
        Fault("kill -9 of the trainer (sync)", kill_of(ROLES["trainer"])),
        Fault("kill -9 of the simulator (async)", kill_of(ROLES["simulator"], "pipeline: async")),
        Fault("kill -9 of the learner (async)", kill_of(ROLES["learner"], "pipeline: async"), short=True),
        Fault("kill -9 of the coordinator", kill_of("-m trainer ")),
        Fault("kill -9 of setup-and-run.sh", kill_of_the_script, frozenset({"crash", "preempted"}), short=True),
        Fault("kill -9 of whoever waits for the run", kill_of_the_orchestrator, frozenset()),
        *(Fault(name, sigterm_at(moment), frozenset({"preempted"})) for name, moment in moments().items()),
        *(
            Fault(
                f"checkpoint cut at {tenth}/10, then kill -9",
                truncation_at(tenth),
                loses_checkpoint=True,
                short=tenth == 5,
            )
            for tenth in range(10)
        ),
        Fault("disk full while a checkpoint is written", full_disk),
        Fault("registry locked for 10 s", locked_registry, frozenset(), short=True),
        Fault("clock set an hour forward", clock_jump(3600), frozenset(), short=True),
        Fault("clock set an hour back", clock_jump(-3600), frozenset()),
        Fault("simulator returns NaN once", spoilt_simulator("nan"), frozenset({"nan"}), loses_checkpoint=True),
        Fault("simulator hangs", hanging_simulator, frozenset({"stalled"})),
        Fault("trainer dies at its start, three times", death_at_start, either),
        Fault("training diverges", not_a_number, frozenset({"nan"}), state="failed"),
        Fault("time limit of 20 s", time_limit, frozenset({"timeout"})),
    ]


def small_disk(folder: os.PathLike[str], megabytes: int) -> None:
    """Mount a disk of its own on a folder; needs root."""
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", os.fspath(folder)]
    subprocess.run(words, check=True)
