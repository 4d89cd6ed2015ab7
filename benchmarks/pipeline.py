"""How fast whole runs are: frames and optimiser steps a second of `python -m trainer`, and seconds until they learn.

    python benchmarks/pipeline.py --seconds 60 --json
    python benchmarks/pipeline.py --layouts async async --cold
    python benchmarks/pipeline.py --layouts async experiment=debug

A run is a process of its own in a temporary run directory; what it measured is read from its metrics.jsonl. Both
pipelines run one after the other, `async` also with a GPU for either side where there are two. Without overrides task
and sizes are those of `benchmarks/reference.py pipeline`. A layout that is named twice runs twice: the second time its
learner knows what the task shows, and prepares while the simulator starts.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results import save_result
from benchmarks.timing import Rate
from trainer.run_dir import ExitCode, RunDir

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "tensordict")
SIZES = (
    "agent=dreamer",
    "env.backend=mjlab",
    "env.name=Mjlab-Velocity-Flat-Unitree-Go1",
    "env.num_envs=4096",
    "collector.frames_per_batch=204800",  # 50 steps of every environment
    "collector.init_random_frames=409600",
    "replay_buffer.batch_size=50000",
    "replay_buffer.batch_length=50",
    "replay_buffer.buffer_size=1000000",
    "optimization.autocast=bfloat16",
)
# Nothing but collecting and training, until the run is stopped.
ENDLESS = (
    "optimization.total_optim_steps=1000000000",
    "eval.episodes=0",
    "eval.fraction=0",
    "checkpoint.interval=1000000000",
    "checkpoint.replay=false",
    "logger.tensorboard=false",
    "logger.wandb.mode=disabled",
)
CAPTURED = "the optimiser step is compiled and captured, after "  # in the log; on a CPU there is nothing to capture
REMEMBERED = "preparing for what "  # likewise
START = 1800.0  # seconds until a run must have written a line: cold kernel caches take a quarter of an hour
STOP = 120.0  # seconds that a run may take to save and end: more than `watchdog.grace`, after which it ends its roles
POLL = 0.1  # seconds

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Figure:
    """What one run measured.

    Attributes:
        layout: One of `layouts()`.
        steps_per_s: Optimiser steps a second of the log lines.
        frames_per_s: Frames collected a second, over all of the measured time: they come a chunk at a time, and a line
            may have one chunk more than the next one.
        seconds: Measured.
        captured_s: From the start of the process until its optimiser step was captured; None on a CPU.
        compiling_s: Of these, what compiling and capturing took.
        remembered: Whether the learner prepared for what the task had shown in an earlier run.
        first_step_s: From the start of the process until it began to learn, random frames collected.
    """

    layout: str
    steps_per_s: Rate
    frames_per_s: float
    seconds: float
    captured_s: float | None
    compiling_s: float | None
    remembered: bool
    first_step_s: float


def layouts(gpus: int) -> dict[str, tuple[str, ...]]:
    """Where a run's two halves are, by name: overrides of the trainer's config."""
    device = "cuda:0" if gpus else "cpu"
    found = {"sync": ("pipeline=sync", f"device={device}"), "async": ("pipeline=async", f"device={device}")}
    if gpus > 1:
        found["async-two-gpus"] = (
            "pipeline=async",
            "pipeline.simulator_device=cuda:0",
            "pipeline.learner_device=cuda:1",
        )
    return found


def measure(layout: str, overrides: Sequence[str], *, seconds: float, warm_up: int, cold: bool = False) -> Figure:
    """Start a run, let it train for some seconds, and stop it.

    Args:
        layout: Name for the figure.
        overrides: Of the trainer's config.
        seconds: To measure, after the warm-up.
        warm_up: Log lines that do not count, at least one.
        cold: Give torch's compiler an empty cache.

    Raises:
        SystemExit: The run failed, or wrote no line in time.
    """
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        run_dir, log = RunDir(Path(folder, "run")), Path(folder, "log.txt")
        begun = time.time()
        captured = compiling = None
        with log.open("wb") as output:
            process = start(run_dir, overrides, output.fileno(), cache=Path(folder, "cache") if cold else None)
        try:
            while not measured(lines := list(run_dir.read_metrics()), seconds, warm_up):
                if captured is None and (compiling := _compiling(log)) is not None:
                    captured = time.time() - begun
                if process.poll() is not None or (not lines and time.time() - begun > START):
                    raise SystemExit(_explained(layout, process.poll(), log))
                time.sleep(POLL)
        finally:
            code = stop(process)
        if code not in (ExitCode.DONE, ExitCode.RESUMABLE):
            raise SystemExit(_explained(layout, code, log))
        remembered = REMEMBERED in log.read_text(encoding="utf-8", errors="replace")
        return summarise(layout, lines, warm_up, begun, captured, compiling, remembered=remembered)


def start(
    run_dir: RunDir, overrides: Sequence[str], output: int, *, cache: Path | None = None
) -> subprocess.Popen[bytes]:
    """`python -m trainer` in a process of its own.

    Args:
        run_dir: Of the run.
        overrides: Of the trainer's config.
        output: File descriptor that gets what it says.
        cache: Folder for torch's compiler, instead of the user's.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LONGSHORE_")}
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "LONGSHORE_RUN_DIR": str(run_dir.root)}
    if cache is not None:
        paths |= {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache / "triton")}
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", *overrides],
        cwd=ROOT,
        env={**inherited, **paths},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
    )


def stop(process: subprocess.Popen[bytes]) -> int:
    """Have a run end its own processes, which may hold a GPU, and end; returns its exit status."""
    process.terminate()
    try:
        return process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def measured(lines: Lines, seconds: float, warm_up: int) -> bool:
    """Whether the lines behind the warm-up's tell of so many seconds."""
    return len(lines) > warm_up and lines[-1]["time"] - lines[warm_up - 1]["time"] >= seconds


def _compiling(log: Path) -> float | None:
    """Seconds that the log says compiling took; None as long as it does not say so."""
    said = re.search(re.escape(CAPTURED) + r"(\d+) s", log.read_text(encoding="utf-8", errors="replace"))
    return float(said[1]) if said else None


def summarise(
    layout: str,
    lines: Lines,
    warm_up: int,
    begun: float,
    captured: float | None,
    compiling: float | None,
    *,
    remembered: bool = False,
) -> Figure:
    """The figure of a run from the lines of its metrics.jsonl.

    Args:
        layout: Name for the figure.
        lines: All, oldest first.
        warm_up: How many of them do not count, at least one.
        begun: Unix time of the start.
        captured: Seconds from then until the step was captured.
        compiling: Seconds of these that compiling and capturing took.
        remembered: See `Figure`.
    """
    first, since, last = lines[0], lines[warm_up - 1], lines[-1]
    rates = [line["throughput/steps_per_s"] for line in lines[warm_up:]]
    seconds = last["time"] - since["time"]
    return Figure(
        layout,
        Rate(statistics.median(rates), min(rates), max(rates), last["step"] - since["step"]),
        (last["frames"] - since["frames"]) / seconds,
        seconds,
        captured,
        compiling,
        remembered,
        first["time"] - first["step"] / first["throughput/steps_per_s"] - begun,
    )


def show(figures: Sequence[Figure]) -> None:
    """Print figures side by side."""
    table = Table("", title="Whole runs")
    for figure in figures:
        table.add_column(figure.layout, justify="right")

    def row(name: str, text: Callable[[Figure], str]) -> None:
        table.add_row(name, *(text(figure) for figure in figures))

    row("frames/s", lambda figure: f"{figure.frames_per_s:,.0f}")
    row("optimiser steps/s", lambda figure: f"{figure.steps_per_s.median:.2f}")
    row("slowest, fastest", lambda figure: f"{figure.steps_per_s.slowest:.2f}, {figure.steps_per_s.fastest:.2f}")
    row("measured", lambda figure: f"{figure.seconds:.0f} s, {figure.steps_per_s.steps} steps")
    row("captured after", lambda figure: "" if figure.captured_s is None else f"{figure.captured_s:.0f} s")
    row("of that compiling", lambda figure: "" if figure.compiling_s is None else f"{figure.compiling_s:.0f} s")
    row("task known", lambda figure: "yes" if figure.remembered else "")
    row("learning after", lambda figure: f"{figure.first_step_s:.0f} s")
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    possible = layouts(torch.cuda.device_count())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", default=list(SIZES), help="of the trainer's config, for all runs")
    parser.add_argument("--layouts", nargs="+", choices=possible, default=list(possible), metavar="LAYOUT")
    parser.add_argument("--seconds", type=float, default=60.0, help="to measure of each run")
    parser.add_argument("--cold", action="store_true", help="with an empty cache of torch's compiler for each run")
    parser.add_argument("--warm-up", type=int, default=3, help="log lines that do not count")
    parser.add_argument(
        "--interval",
        type=int,
        default=100,
        help="optimiser steps of a log line; with pipeline=sync a multiple of optimization.optim_steps_per_batch",
    )
    parser.add_argument("--json", type=Path, nargs="?", const=Path(), metavar="FILE")
    options = parser.parse_args(arguments)
    if options.warm_up < 1:
        raise SystemExit("--warm-up: the first line tells what the run took to start; at least 1")
    figures = []
    for layout in options.layouts:
        words = (*options.overrides, *possible[layout], *ENDLESS, f"logger.interval={options.interval}")
        figures.append(measure(layout, words, seconds=options.seconds, warm_up=options.warm_up, cold=options.cold))
    show(figures)
    given = {key: value for key, value in vars(options).items() if key != "json"}
    save_result(options.json, "pipeline", figures, PACKAGES, given)


def _explained(layout: str, code: int | None, log: Path) -> str:
    said = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
    return f"{layout}: {'no line of metrics in time' if code is None else f'exited with {code}'}\n{said}"


if __name__ == "__main__":
    main()
