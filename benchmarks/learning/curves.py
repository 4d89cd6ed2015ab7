"""Learning curves as figures: what was reached, after how many frames and after how many seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from trainer.run_dir import RunDir


@dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        seed: Of the run.
        frames: Steps of the simulator's own so far, over all environments, at each point.
        seconds: From the first step that was simulated, over all calls; without start-up and compilation.
        returns: Mean return of the episodes that ended since the point before, exploration included.
        optim_steps: Optimiser steps done.
        finished: Whether the budget of frames was reached.
        random_return: Of random actions; None where that was not measured.
        trained_return: Of the deterministic policy at the end; None before, or where that was not measured.
        episodes: Of each point; empty where they were not counted.
        trained_frames: Collected when `trained_return` was measured; the last episodes may have ended long before.
        trained_seconds: Gone by then.
    """

    seed: int
    frames: Sequence[int]
    seconds: Sequence[float]
    returns: Sequence[float]
    optim_steps: int
    finished: bool
    random_return: float | None = None
    trained_return: float | None = None
    episodes: Sequence[int] = field(default_factory=tuple)
    trained_frames: int | None = None
    trained_seconds: float | None = None


def over_last(curve: Curve, episodes: int) -> list[float]:
    """Mean return of the last episodes at each point, whole points that hold at least `episodes`; of all before that.

    A point by itself misleads where episodes end together: between two such moments only those end that failed early.
    A curve that does not count its episodes, rsl_rl's, is such a mean already.
    """
    if not curve.episodes:
        return list(curve.returns)
    means = []
    for index in range(len(curve.returns)):
        total, count = 0.0, 0
        for value, ended in zip(curve.returns[index::-1], curve.episodes[index::-1], strict=True):
            total, count = total + value * ended, count + ended
            if count >= episodes:
                break
        means.append(total / count)
    return means


def curve_of(run_dir: RunDir, seed: int, repeat: int) -> Curve:
    """The curve of a run of the trainer from its metrics.jsonl.

    Args:
        run_dir: Of the run.
        seed: Of the run.
        repeat: Steps of the simulator's own in one frame.
    """
    lines = list(run_dir.read_metrics())
    points = [line for line in lines if line.get("episode/return") is not None]
    summary = json.loads(run_dir.summary.read_text(encoding="utf-8")) if run_dir.summary.exists() else {}
    return Curve(
        seed,
        [line["frames"] * repeat for line in points],
        [round(line["elapsed"], 2) for line in points],
        [round(line["episode/return"], 3) for line in points],
        lines[-1]["step"] if lines else 0,
        bool(summary),
        summary.get("random_return"),
        summary.get("trained_return"),
        [int(line["episode/count"]) for line in points],
        summary["frames"] * repeat if summary else None,
        round(summary["seconds"], 2) if summary else None,
    )


def returns_between(curves: Iterable[Curve], first: int, last: int) -> list[float]:
    """Mean return of each run's episodes that ended between two numbers of frames; runs without any are left out."""
    means = []
    for curve in curves:
        chosen = [
            (value, count)
            for value, count, frames in zip(curve.returns, curve.episodes, curve.frames, strict=True)
            if first <= frames <= last
        ]
        if chosen:
            means.append(sum(value * count for value, count in chosen) / sum(count for _, count in chosen))
    return means
