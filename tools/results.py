"""Write docs/results.md and its curves from benchmarks/results/learning-*.json.

Usage: .venv/bin/python tools/results.py
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

from benchmarks.learning.curves import Curve, over_last, returns_between
from tools.performance import RESULTS, Row, origin, table

DOCS = Path(__file__).resolve().parents[1] / "docs"
PUBLISHED = "published"  # result file of figures that others have measured
WINDOW = 25_000  # frames around which the published figures are means
GOALS: Mapping[str, float] = {"Mjlab-Cartpole-Swingup": 40.0, "Mjlab-Velocity-Flat-Unitree-Go1": 80.0}
EPISODES = 100  # that a point of a curve is the mean of: rsl_rl's own choice
SUITE_EPISODES = 16  # likewise in the control suite, where a run has 128 of them: as many as end together
INTRODUCTION = """\
# What is learnt, and how fast

`make results` writes this page from the files in benchmarks/results/, which the scripts in benchmarks/learning/ write;
[settings, seeds and budgets](../benchmarks/learning/experiments.py) stand in each file. Frames are steps of the
simulator's own, over all environments; seconds count from the first simulated step, without start-up and compilation.
Returns are means of episodes that the training itself ran, exploration included: in the suite's tables of all around so
many frames, with those of each seed in brackets, in its curves of the last sixteen or more, beside PPO of the last
hundred or more. `Without noise` is the deterministic policy after the end.
"""
NOTHING = "No curve of this has been recorded yet.\n"
Result = Mapping[str, Any]


def main(folder: Path = RESULTS) -> str:
    """The whole page."""
    published = json.loads((folder / f"{PUBLISHED}.json").read_text(encoding="utf-8"))
    results = learning_results(folder)
    parts = [INTRODUCTION, "## The control suite from states\n", _suite(results, published)]
    parts += ["## Beside PPO\n", _versus(results)]
    return "\n".join(parts)


def learning_results(folder: Path = RESULTS) -> dict[str, Result]:
    """Content of the result files, by name."""
    paths = sorted(folder.glob("learning-*.json"))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in paths}


def _suite(results: Mapping[str, Result], published: Result) -> str:
    parts = [f"Published: {published['source']}.\n"]
    for task in dict.fromkeys(theirs["task"] for theirs in published["figures"]):
        if not (found := of_task(results, task)):
            continue
        scores = [theirs for theirs in published["figures"] if theirs["task"] == task]
        cells = [f"{theirs['return']} ({_listed(theirs['seeds'])})" for theirs in scores]
        rows: list[Row] = [("published", *cells, "")]
        for name, result in found.items():
            curves = _curves(result)
            cells = [_around(curves, theirs["frames"]) for theirs in scores]
            rows.append((learner(name, result), *cells, _all_without_noise(curves)))
        header = (f"`{task}`", *(f"{theirs['frames']:,} frames" for theirs in scores), "without noise")
        parts += [table(header, rows) + "\n", *_origins(found), f"![{task}]({picture(task)})\n"]
    return "\n".join(parts) if len(parts) > 1 else NOTHING


def _around(curves: Sequence[Curve], frames: int) -> str:
    """Mean of the seeds around so many frames, where all came so far, and each seed."""
    means = returns_between(curves, frames - WINDOW, frames + WINDOW)
    mean = f"{statistics.mean(means):.0f} " if len(means) == len(curves) else ""
    return f"{mean}({_listed(means)})" if means else ""


def _all_without_noise(curves: Sequence[Curve]) -> str:
    """The deterministic policies' returns at the end, where every seed came so far, and when that was."""
    last = [curve.trained_return for curve in curves if curve.trained_return is not None]
    if len(last) < len(curves):
        return ""
    return f"{_listed(last)} at {curves[0].trained_frames or curves[0].frames[-1]:,}"


def _listed(returns: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in returns)


def _versus(results: Mapping[str, Result]) -> str:
    parts = []
    for task, goal in GOALS.items():
        if not (found := of_task(results, task)):
            continue
        rows: list[Row] = []
        for name, result in found.items():
            for curve in _curves(result):
                frames, seconds = reached(curve, goal) or (None, None)
                rows.append(
                    (
                        f"{learner(name, result)}, seed {curve.seed}",
                        "never" if frames is None else f"{frames / 1e6:.2f} M",
                        "" if seconds is None else f"{seconds:.0f}",
                        f"{max(over_last(curve, EPISODES), default=0):.1f}",
                        f"{curve.frames[-1] / 1e6:.2f} M" if curve.frames else "0",
                        f"{curve.seconds[-1]:.0f}" if curve.seconds else "0",
                        _without_noise(curve),
                    )
                )
        header = (f"`{task}`", f"frames to {goal:.0f}", "seconds to it", "best", "frames", "seconds", "without noise")
        parts += [table(header, rows) + "\n", *_origins(found), f"![{task}]({picture(task)})\n"]
    return "\n".join(parts) or NOTHING


def _origins(results: Mapping[str, Result]) -> list[str]:
    return [f"{learner(name, result)}: {origin(name, result)[:-1]}.\n" for name, result in results.items()]


def _without_noise(curve: Curve) -> str:
    """The deterministic policy's return at the end, and when that was."""
    if curve.trained_return is None:
        return ""
    if curve.trained_frames is None:
        return f"{curve.trained_return:.1f}"
    return f"{curve.trained_return:.1f} at {curve.trained_frames / 1e6:.2f} M, {curve.trained_seconds:.0f} s"


def reached(curve: Curve, goal: float) -> tuple[int, float] | None:
    """Frames and seconds at which the curve first was at the goal; None where it never was."""
    for frames, seconds, mean in zip(curve.frames, curve.seconds, over_last(curve, EPISODES), strict=True):
        if mean >= goal:
            return frames, seconds
    return None


def of_task(results: Mapping[str, Result], task: str) -> dict[str, Result]:
    """Those that learnt it, by who learnt."""
    found = {name: result for name, result in results.items() if result["settings"]["task"] == task}
    return dict(sorted(found.items(), key=lambda item: learner(*item)))


def learner(name: str, result: Result) -> str:
    """Who learnt in a result file, and what sets that apart from others of its task."""
    if name.startswith("learning-upstream-"):
        method = f"danijar/dreamerv3 at {result['settings']['code']}"
    else:
        method = "PPO" if name.startswith("learning-ppo-") else "DreamerV3"
    words = result["settings"].get("variant")
    return f"{method} {words}" if words else method


def picture(task: str) -> str:
    """File of the curves of a task."""
    return f"learning-{task.lower().replace('_', '-')}.svg"


def pictures(results: Mapping[str, Result]) -> dict[str, list[str]]:
    """Files of curves -> names of the results that they show."""
    tasks = dict.fromkeys(result["settings"]["task"] for result in results.values())
    return {picture(task): list(of_task(results, task)) for task in tasks}


def fingerprint(results: Sequence[Result]) -> str:
    """Of what a picture shows; it stands in the picture."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]


def draw(path: Path, results: Mapping[str, Result]) -> None:
    """Curves by frames and by seconds, every seed of every result a line."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = path.name  # the same picture from the same figures
    from matplotlib import pyplot

    height = 3.6 + 0.22 * len(results)  # the names are too long to lie over the curves
    figure, panels = pyplot.subplots(1, 2, figsize=(10, height), sharey=True, layout="constrained")
    for index, (name, result) in enumerate(results.items()):
        episodes = EPISODES if result["settings"]["task"] in GOALS else SUITE_EPISODES
        for number, curve in enumerate(_curves(result)):
            label = None if number else learner(name, result)
            for panel, places in zip(panels, (curve.frames, curve.seconds), strict=True):
                panel.plot(places, over_last(curve, episodes), color=f"C{index}", alpha=0.8, label=label)
    for panel, label in zip(panels, ("frames", "seconds"), strict=True):
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("return of episodes")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False)
    description = fingerprint(list(results.values()))
    figure.savefig(path, metadata={"Date": None, "Creator": None, "Description": description})
    pyplot.close(figure)


def _curves(result: Result) -> list[Curve]:
    return [Curve(**figure) for figure in result["figures"]]


if __name__ == "__main__":
    results = learning_results()
    for file, names in pictures(results).items():
        draw(DOCS / file, {name: results[name] for name in names})
    (DOCS / "results.md").write_text(main(), encoding="utf-8")
