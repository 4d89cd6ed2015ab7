"""How long the command line takes, as whole processes: `make bench`, or `python benchmarks/cli.py`.

Prints a table, writes benchmarks/results/cli.json, and exits with 1 where a limit is missed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

from rich.console import Console
from rich.table import Table

from benchmarks.results import write_result

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cli.json"
RUNS = 7
SWEEP = """\
name: thousand
backend: local
train:
  env.backend: mjlab
  env.name: Mjlab-Cartpole-Balance
sweep:
  seed: [{seeds}]
"""


@dataclass(frozen=True)
class Case:
    """A command line and the time that it may take."""

    name: str
    arguments: tuple[str, ...]
    limit: float  # seconds, median on two cores


@dataclass(frozen=True)
class Figure:
    """Wall times of one case, in seconds."""

    name: str
    limit: float
    median: float
    fastest: float
    slowest: float
    runs: int

    @property
    def kept(self) -> bool:
        """Whether the median is within the limit."""
        return self.median <= self.limit


def measure(case: Case, home: Path) -> Figure:
    """Run a case once to warm the disk's cache and `RUNS` times for the figure.

    Raises:
        SystemExit: The command failed.
    """
    seconds = [run_once(case, home) for _ in range(RUNS + 1)][1:]
    return Figure(case.name, case.limit, statistics.median(seconds), min(seconds), max(seconds), RUNS)


def run_once(case: Case, home: Path) -> float:
    """Seconds from the start of the process to its end."""
    environment = {**os.environ, "LONGSHORE_HOME": str(home)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the second start of a command is what counts
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "orchestrate.py", *case.arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{case.name} exited with {done.returncode}:\n{done.stderr}")
    return seconds


def show(figures: Sequence[Figure]) -> None:
    """Print the figures as a table."""
    table = Table("command", "median", "fastest", "slowest", "limit", "")
    for figure in figures:
        times = (figure.median, figure.fastest, figure.slowest, figure.limit)
        table.add_row(figure.name, *(f"{seconds:.2f} s" for seconds in times), "" if figure.kept else "missed")
    Console().print(table)


def main() -> int:
    """Measure all cases; 1 where a limit is missed."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder, "thousand.yaml")
        sweep.write_text(SWEEP.format(seeds=", ".join(map(str, range(1000)))), encoding="utf-8")
        cases = (
            Case("--help", ("--help",), 0.3),
            Case("plan jobs/quickstart.yaml", ("plan", "jobs/quickstart.yaml"), 0.6),
            Case("plan, sweep of 1000 runs", ("plan", str(sweep)), 2.0),
        )
        figures = [measure(case, Path(folder, "runs")) for case in cases]
    show(figures)
    write_result(RESULTS, figures, ("jinja2", "pydantic", "typer"))
    return 0 if all(figure.kept for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
