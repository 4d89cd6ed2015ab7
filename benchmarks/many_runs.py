"""A sweep of a thousand local runs while `status` and `runs` are typed all the time: `python benchmarks/many_runs.py`.

    python benchmarks/many_runs.py [--runs N] [--parallel N] [--json [FILE]]

Everything is what a user has: command line, registry, set-up script, and the trainer with `experiment=debug`, each run
of which takes some three seconds of a core, most of them for importing torch. The commands are typed on a terminal. A
run is lost when it has not succeeded in one attempt.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import termios
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

from rich.console import Console
from rich.table import Table

from benchmarks.results import save_result
from orchestrator.registry import REGISTRY
from tests.orchestrator.command_line import Project

JOB = """\
name: many
backend: local
resources: {gpus: 0}
train: {experiment: debug, threads: 1, optimization.total_optim_steps: 4, eval.episodes: 0}
sweep:
  seed: [%s]
  max_parallel: %d
"""
PAUSE = 0.5  # seconds from an answer to the next question of whoever looks
PATIENCE = 0.5  # seconds that an answer may take
LINES, COLUMNS = 50, 132  # of the terminal


@dataclass(frozen=True)
class Command:
    """How a command answered while the runs went on: seconds of wall time, and of a core."""

    name: str
    count: int
    median: float
    slowest_of_twenty: float  # 95 of 100 were faster
    slowest: float
    late: int  # answers that took longer than PATIENCE
    cpu: float  # median
    memory_mb: float  # at most


@dataclass(frozen=True)
class Figure:
    """What became of the sweep."""

    runs: int
    parallel: int
    lost: int
    seconds: float
    submit_s: float
    registry_mb: float
    registry_sound: bool
    watcher_memory_mb: float
    load: float  # mean of the machine's load averages over the time
    commands: tuple[Command, ...]


@dataclass
class Looker:
    """Types a command again and again until it is told to stop."""

    project: Project
    words: tuple[str, ...]
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    def look(self, stop: threading.Event) -> None:
        while not stop.wait(PAUSE):
            terminal, end = pty.openpty()
            termios.tcsetwinsize(end, (LINES, COLUMNS))
            started = time.perf_counter()
            process = subprocess.Popen(
                self.project.command(*self.words),
                cwd=self.project.folder,
                env=self.project.variables(),
                stdin=end,
                stdout=end,
            )
            os.close(end)
            with contextlib.suppress(OSError):  # the terminal's way of saying that nobody writes any more
                while os.read(terminal, 1 << 16):
                    pass
            os.close(terminal)
            _, status, usage = os.wait4(process.pid, 0)
            self.seconds.append(time.perf_counter() - started)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(f"{' '.join(self.words)} exited with {process.returncode}")
            self.cpu.append(usage.ru_utime + usage.ru_stime)
            self.memory.append(usage.ru_maxrss / 1e3)

    def figure(self) -> Command:
        return Command(
            self.words[0],
            len(self.seconds),
            statistics.median(self.seconds),
            sorted(self.seconds)[int(len(self.seconds) * 0.95)],
            max(self.seconds),
            sum(seconds > PATIENCE for seconds in self.seconds),
            statistics.median(self.cpu),
            max(self.memory),
        )


def measure(folder: Path, runs: int, parallel: int) -> Figure:
    """Submit a sweep, look at it until its end, and count what is lost.

    Args:
        folder: Where the project is made.
        runs: Of the sweep.
        parallel: How many at a time.
    """
    project = Project(folder)
    (folder / "profiles.yaml").write_text(f"default:\n  python: {sys.executable}\n")
    (folder / "many.yaml").write_text(JOB % (", ".join(map(str, range(runs))), parallel))
    started = time.perf_counter()
    first = project.run("submit", "many.yaml", "--yes", timeout=600).stdout.split()[0]
    submitted = time.perf_counter() - started
    sweep = first.rpartition("-")[0]
    lookers = [Looker(project, ("status", sweep)), Looker(project, ("runs",))]
    stop, loads = threading.Event(), list[float]()
    threads = [threading.Thread(target=looker.look, args=(stop,)) for looker in lookers]
    for thread in threads:
        thread.start()
    waiting = subprocess.Popen(
        project.command("wait", sweep),
        cwd=folder,
        env=project.variables(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not (ended := os.wait4(waiting.pid, os.WNOHANG))[0]:
            loads.append(os.getloadavg()[0])
            time.sleep(1.0)
        waiting.returncode, memory = os.waitstatus_to_exitcode(ended[1]), ended[2].ru_maxrss / 1e3
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    seconds = time.perf_counter() - started
    found = json.loads(project.run("runs", "--json").stdout)
    whole = [run for run in found if (run["state"], run["attempt"]) == ("succeeded", 1)]
    registry = project.home / REGISTRY
    with sqlite3.connect(registry) as database:
        sound = database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    return Figure(
        runs,
        parallel,
        runs - len(whole),
        seconds,
        submitted,
        sum(path.stat().st_size for path in registry.parent.glob(f"{REGISTRY}*")) / 1e6,
        sound,
        memory,
        statistics.mean(loads),
        tuple(looker.figure() for looker in lookers),
    )


def show(figure: Figure) -> None:
    """Print a figure as tables."""
    console = Console()
    console.print(
        f"{figure.runs} runs, {figure.parallel} at a time, in {figure.seconds:.0f} s (submitted in "
        f"{figure.submit_s:.1f} s): {figure.lost} lost; registry {figure.registry_mb:.1f} MB, "
        f"{'sound' if figure.registry_sound else 'DAMAGED'}; load {figure.load:.1f}"
    )
    late = f"later than {PATIENCE:g} s"
    table = Table("command", "times", "median", "95 of 100 below", "slowest", "of a core", late, "memory")
    for command in figure.commands:
        times = (command.median, command.slowest_of_twenty, command.slowest, command.cpu)
        row = (f"{seconds:.2f} s" for seconds in times)
        table.add_row(command.name, str(command.count), *row, str(command.late), f"{command.memory_mb:.0f} MB")
    console.print(table)


def main() -> int:
    """Measure; 1 where a run is lost or the registry is damaged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--parallel", type=int, default=8)
    parser.add_argument("--json", nargs="?", type=Path, const=Path(), metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figure = measure(Path(folder), options.runs, options.parallel)
    show(figure)
    save_result(options.json, "many-runs", [figure], ("torch",))
    return int(figure.lost > 0 or not figure.registry_sound)


if __name__ == "__main__":
    sys.exit(main())
