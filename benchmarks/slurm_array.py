"""A sweep of 500 runs as one array on a real Slurm, and submitit with the same array beside it.

As root, with Debian's slurm-wlm, slurmdbd, munge and mariadb-server: python benchmarks/slurm_array.py [PYTHON]
PYTHON is an interpreter that has submitit: python -m venv DIR && DIR/bin/pip install submitit

Whole processes, start of Python included. Prints a table, writes benchmarks/results/slurm-array.json, and exits with 1
where a limit is missed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

from rich.console import Console
from rich.table import Table

from benchmarks.results import write_result
from tests.services.slurm_cluster import SlurmCluster
from tests.services.slurm_project import end, started

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "slurm-array.json"
RUNS = 7
SIZE = 500
JOB = """\
name: many
backend: slurm
resources: {gpus: 0, time: "30:00", extra: {begin: now+1hour}}
train: {env.backend: debug, experiment: debug}
"""
SWEEP = f"sweep: {{seed: [{', '.join(map(str, range(SIZE)))}], max_parallel: 4}}\n"
SUBMITIT = f"""
import time, sys
import submitit
executor = submitit.SlurmExecutor("jobs")
executor.update_parameters(time=30, array_parallelism=4, additional_parameters={{"begin": "now+1hour"}})
began = time.perf_counter()
executor.map_array(print, range({SIZE}))
print(time.perf_counter() - began, submitit.__version__)
"""


@dataclass(frozen=True)
class Figure:
    """Wall times of one case, in seconds, and what it types of Slurm's commands."""

    name: str
    limit: float | None
    median: float
    fastest: float
    slowest: float
    runs: int
    commands: Mapping[str, int]


def measure(name: str, limit: float | None, once: Callable[[], float], calls: Path) -> Figure:
    """`RUNS` figures of `once`, after one that warms the disk's cache."""
    once()
    calls.write_text("")
    seconds = [once() for _ in range(RUNS)]
    typed = calls.read_text().split()
    commands = {word: typed.count(word) // RUNS for word in sorted(set(typed))}
    return Figure(name, limit, statistics.median(seconds), min(seconds), max(seconds), RUNS, commands)


def counted(folder: Path) -> str:
    """A PATH on which each of Slurm's commands writes down its call: one fork of a shell more than without."""
    for name in ("sbatch", "squeue", "sacct", "scontrol"):
        path = folder / name
        path.write_text(f'#!/bin/sh\necho {name} >>"{folder}/calls"\nexec /usr/bin/{name} "$@"\n')
        path.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


class Bench:
    """One cluster and one folder of runs, filled by every case."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self.cluster, self.folder, self.number = cluster, folder, 0
        self.calls = folder / "calls"
        self.environment = {**os.environ, **cluster.variables, "XDG_CONFIG_HOME": str(folder), "PATH": counted(folder)}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def run(self, *words: str) -> tuple[str, float]:
        """Output and seconds of a process."""
        began = time.perf_counter()
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"{words} exited with {done.returncode}:\n{done.stderr}")
        return done.stdout, seconds

    def submit(self, sweep: str, expected: int) -> float:
        """Seconds to submit a new job; the code that it ships is there since the first one."""
        self.number += 1
        (self.folder / "job.yaml").write_text(JOB.replace("many", f"many-{self.number}") + sweep)
        printed, seconds = self.run(sys.executable, str(ROOT / "orchestrate.py"), "submit", "--yes", "job.yaml")
        assert len(printed.split()) == expected, printed
        return seconds

    def status(self) -> float:
        """Seconds to look at the last sweep that was submitted."""
        printed, seconds = self.run(sys.executable, str(ROOT / "orchestrate.py"), "status", "last")
        assert printed.count("queued") >= SIZE, printed
        return seconds

    def submitit(self, python: str) -> tuple[float, float, str]:
        """Seconds of the whole process, seconds of `map_array` alone, and submitit's version."""
        (self.folder / "submit_array.py").write_text(SUBMITIT)
        printed, seconds = self.run(python, "submit_array.py")
        alone, version = printed.split()
        return seconds, float(alone), version

    def clear(self) -> None:
        """Take everything out of the queue."""
        self.cluster.run("scancel", "--me")


def main(python: str | None) -> int:
    """Measure all cases; 1 where a limit is missed."""
    load, _, _ = os.getloadavg()  # of what else the machine does
    cluster = started(accounting=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            figures, versions = cases(Bench(cluster, Path(folder)), python)
        slurm = cluster.run("sbatch", "--version").split()[-1]
    finally:
        end(cluster)
    table = Table("", "median", "fastest", "slowest", "limit", "Slurm's commands")
    for figure in figures:
        limit = "" if figure.limit is None else f"{figure.limit:.2f} s"
        times = (f"{seconds:.2f} s" for seconds in (figure.median, figure.fastest, figure.slowest))
        table.add_row(figure.name, *times, limit, ", ".join(f"{n} {name}" for name, n in figure.commands.items()))
    Console().print(table)
    settings = {"slurm": slurm, "runs": SIZE, "load": round(load, 2), **versions}
    write_result(RESULTS, figures, ("jinja2", "pydantic", "typer"), settings=settings)
    return 0 if all(figure.limit is None or figure.median <= figure.limit for figure in figures) else 1


def cases(bench: Bench, python: str | None) -> tuple[list[Figure], dict[str, str]]:
    """All figures, and the versions of what else was measured."""

    def submitted(sweep: str, expected: int) -> float:
        bench.clear()
        return bench.submit(sweep, expected)

    figures = [
        measure("submit, one run", None, lambda: submitted("", 1), bench.calls),
        measure(f"submit, sweep of {SIZE} runs", 1.0, lambda: submitted(SWEEP, SIZE), bench.calls),
        measure(f"status, sweep of {SIZE} runs", 0.5, bench.status, bench.calls),
    ]
    if python is None:
        return figures, {}
    bench.clear()
    *_, version = bench.submitit(python)
    figures.append(
        measure(f"submitit, array of {SIZE}, whole process", None, lambda: bench.submitit(python)[0], bench.calls)
    )
    bench.clear()
    figures.append(
        measure(f"submitit, array of {SIZE}, map_array alone", None, lambda: bench.submitit(python)[1], bench.calls)
    )
    return figures, {"submitit": version}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2] or [None]))
