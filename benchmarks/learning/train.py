"""Learning curves of our trainer: what it learns, in how many frames and seconds.

    python benchmarks/learning/train.py dmc-cartpole-swingup dmc-walker-walk --seeds 0 1 2 --budget 480
    python benchmarks/learning/train.py mjlab-go1 --budget 480 agent.optimizer.lr=1e-4

Runs that have not come to their end when the budget is spent save themselves, and the same command goes on with them.
Run directories lie below runs/learning, results in benchmarks/results, written anew every few seconds.

Runs of dm_control go side by side in one process, each in a thread and on a CUDA stream of its own: small networks
leave most of a GPU idle, and processes would get it in turns. Runs of mjlab go one after the other, and those with a
GPU for either side as `python -m trainer` does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script

from benchmarks.learning.curves import Curve, curve_of
from benchmarks.learning.experiments import EXPERIMENTS, FIXED
from benchmarks.results import result_path, write_result
from trainer.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "mujoco")


def curves(name: str, folder: Path) -> list[Curve]:
    """Of all seeds that have been begun."""
    found = sorted((folder / name).glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
    return [
        curve_of(RunDir(path), int(path.name.removeprefix("seed-")), EXPERIMENTS[name].repeat)
        for path in found
        if RunDir(path).metrics.exists()
    ]


def save(name: str, folder: Path, out: Path | None) -> None:
    """Write the result file of an experiment."""
    experiment, overrides = EXPERIMENTS[name], folder / name / "overrides"
    settings = {
        "task": experiment.task,
        "variant": experiment.variant,
        "action_repeat": experiment.repeat,
        "overrides": [*experiment.overrides, *FIXED, *overrides.read_text(encoding="utf-8").split()],
    }
    path = result_path(f"learning-{name}")
    path = path if out is None else out / path.name
    whole = path.with_suffix(".new")
    write_result(whole, curves(name, folder), (*PACKAGES, experiment.simulator), settings)
    whole.replace(path)


def check_overrides(name: str, folder: Path, overrides: Sequence[str]) -> None:
    """Keep what a run was begun with: a curve is of one setting.

    Raises:
        SystemExit: It was begun with something else.
    """
    file, words = folder / name / "overrides", "\n".join(overrides)
    if file.exists() and file.read_text(encoding="utf-8") != words:
        raise SystemExit(f"{folder / name} was begun with other overrides; name another --folder, or remove it")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(words, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    # Not above: processes that step dm_control import this file.
    from benchmarks.learning.runs import Run, apart, side_by_side

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="EXPERIMENT", help=f"{', '.join(EXPERIMENTS)}; then KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for all of it, saving included")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "learning", help="of the run directories")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_intermixed_args(arguments)
    names = [word for word in options.names if "=" not in word]
    overrides = [word for word in options.names if "=" in word]
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        raise SystemExit(f"{', '.join(unknown)}: no such experiment; there are {', '.join(EXPERIMENTS)}")

    def save_all() -> None:
        for name in names:
            save(name, options.folder, options.out)

    deadline = time.monotonic() + options.budget
    runs = []
    for name in names:
        check_overrides(name, options.folder, overrides)
        runs += [Run(name, seed, options.folder, overrides, deadline) for seed in options.seeds]
    runs = [run for run in runs if not run.run_dir.summary.exists()]
    together = [run for run in runs if run.here and EXPERIMENTS[run.name].together]
    for group in [together, *([run] for run in runs if run not in together)]:
        if not group or time.monotonic() >= deadline:
            continue
        if group[0].here:
            side_by_side(group, save_all)
        else:
            apart(group[0], save_all)
    save_all()
    for name in names:
        for curve in curves(name, options.folder):
            last = f"{curve.returns[-1]:.1f} at {curve.frames[-1]:,} frames" if curve.returns else "no episode yet"
            ended = f", {curve.trained_return:.1f} without noise" if curve.trained_return is not None else ""
            print(f"{name} seed {curve.seed}: {last}{ended}{'' if curve.finished else ' (not finished)'}")
    if any(run.failed for run in runs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
