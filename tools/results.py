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
INTRODUCTION = """\
# What is learnt, and how fast

`make results` writes this page from the files in benchmarks/results/, which the scripts in benchmarks/learning/ write;
[settings, seeds and budgets](../benchmarks/learning/experiments.py) stand in each file. Frames are steps of the
simulator's own, over all environments; seconds count from the first simulated step, without start-up and compilation.
Returns are means of the last hundred episodes or more that the training itself ran, exploration included; `without
noise` is the deterministic policy after the end.
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
    names = [name for name in results if name.startswith("learning-dmc-")]
    if not names:
        return NOTHING
    parts = [f"Published: {published['source']}.\n"]
    for name in names:
        result, code = results[name], results.get(upstream(name))
        curves = _curves(result)
        rows: list[Row] = []
        for theirs in published["figures"]:
            at = theirs["frames"]
            if theirs["task"] == result["settings"]["task"]:
                here = [*_around(curves, at), *(_around(_curves(code), at) if code else ())]
                rows.append((f"{at:,}", *here, f"{theirs['return']}", _listed(theirs["seeds"])))
        last = [curve.trained_return for curve in curves]
        header = ["frames", "mean of the seeds", "each seed"]
        header += ["their code here", "each seed of it"] if code else []
        text = f"{origin(name, result)}\n\n{table([*header, 'published', 'each seed of theirs'], rows)}\n"
        parts += [f"`{result['settings']['task']}`{variant(result)}, {text}"]
        if code:
            parts.append(f"Their code, at {code['settings']['code']}: {origin(upstream(name), code)[:-1]}.\n")
        if None in last:
            parts.append("The budget of frames was not reached by every seed.\n")
        else:
            ended = _listed([value for value in last if value is not None])
            parts.append(f"Without noise after {curves[0].trained_frames or curves[0].frames[-1]:,} frames: {ended}.\n")
        parts += [f"![{result['settings']['task']}]({picture(name)})\n"]
    return "\n".join(parts)


def _around(curves: Sequence[Curve], frames: int) -> tuple[str, str]:
    """Mean of the seeds around so many frames, where all came so far, and each seed."""
    means = returns_between(curves, frames - WINDOW, frames + WINDOW)
    return f"{statistics.mean(means):.0f}" if len(means) == len(curves) else "", _listed(means)


def _listed(returns: Sequence[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in returns)


def _versus(results: Mapping[str, Result]) -> str:
    parts = []
    for task, goal in GOALS.items():
        found = [name for name in results if results[name]["settings"]["task"] == task]
        if not found:
            continue
        parts.append(f"`{task}`:\n")
        rows: list[Row] = []
        for name in found:
            for curve in _curves(results[name]):
                frames, seconds = reached(curve, goal) or (None, None)
                rows.append(
                    (
                        f"{learner(name, results[name])}, seed {curve.seed}",
                        "never" if frames is None else f"{frames / 1e6:.2f} M",
                        "" if seconds is None else f"{seconds:.0f}",
                        f"{max(over_last(curve, EPISODES), default=0):.1f}",
                        f"{curve.frames[-1] / 1e6:.2f} M" if curve.frames else "0",
                        f"{curve.seconds[-1]:.0f}" if curve.seconds else "0",
                        _without_noise(curve),
                    )
                )
        header = ("", f"frames to {goal:.0f}", "seconds to it", "best", "frames", "seconds", "without noise")
        parts.append(table(header, rows) + "\n")
        parts += [f"{learner(name, results[name])}: {origin(name, results[name])[:-1]}.\n" for name in found]
        parts.append(f"![{task}]({picture(task.lower())})\n")
    return "\n".join(parts) or NOTHING


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


def learner(name: str, result: Result) -> str:
    """Who learnt in a result file."""
    if name.startswith("learning-upstream-"):
        method = "danijar/dreamerv3"
    else:
        method = "PPO" if name.startswith("learning-ppo-") else "DreamerV3"
    return method + variant(result)


def variant(result: Result) -> str:
    """What sets it apart from others of its task, in words that follow a name; mostly none."""
    words = result["settings"].get("variant")
    return f" {words}" if words else ""


def upstream(name: str) -> str:
    """What the result of danijar/dreamerv3 on the same task and GPU is called."""
    return name.replace("learning-", "learning-upstream-", 1)


def picture(name: str) -> str:
    """File of the curves of a result, or of a task."""
    return f"{name if name.startswith('learning-') else 'learning-' + name}.svg"


def pictures(results: Mapping[str, Result]) -> dict[str, list[str]]:
    """Files of curves -> names of the results that they show."""
    suite = [name for name in results if name.startswith("learning-dmc-")]
    wanted = {picture(name): [found for found in (name, upstream(name)) if found in results] for name in suite}
    for task in GOALS:
        found = [name for name in results if results[name]["settings"]["task"] == task]
        if found:
            wanted[picture(task.lower())] = found
    return wanted


def fingerprint(results: Sequence[Result]) -> str:
    """Of what a picture shows; it stands in the picture."""
    return hashlib.sha256(json.dumps(results, sort_keys=True).encode()).hexdigest()[:16]


def draw(path: Path, results: Mapping[str, Result]) -> None:
    """Curves by frames and by seconds, every seed of every result a line."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = path.name  # the same picture from the same figures
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
    for index, (name, result) in enumerate(results.items()):
        for number, curve in enumerate(_curves(result)):
            label = None if number else learner(name, result)
            for panel, places in zip(panels, (curve.frames, curve.seconds), strict=True):
                panel.plot(places, over_last(curve, EPISODES), color=f"C{index}", alpha=0.8, label=label)
    for panel, label in zip(panels, ("frames", "seconds"), strict=True):
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("return of episodes")
    panels[0].legend()
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
