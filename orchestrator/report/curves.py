"""Curves of runs: read, thinned, and summed up over seeds. Numbers only; nothing here knows of a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.data import Band, Curve

AXES = ("frames", "seconds")
# What the page draws, the first one first: name in metrics.jsonl -> what it is called there.
METRICS: Mapping[str, str] = {
    "episode/return": "Episode return",
    "eval/return": "Return without exploration",
    "episode/length": "Episode length (steps)",
    "loss/total": "Loss",
    "loss/reward": "Reward loss",
    "loss/reconstruction": "Reconstruction loss",
    "world_model/kl": "KL divergence (nats)",
    "optimizer/gradient_norm": "Gradient norm",
    "throughput/fps": "Frames per second",
    "throughput/steps_per_s": "Optimiser steps per second",
}
COUNTS = ("step", "frames", "elapsed")  # on every line
RATES: Mapping[str, str] = {"throughput/fps": "frames", "throughput/steps_per_s": "step"}  # metric -> what it counts
LINES = 2000  # of metrics.jsonl that are parsed; of a longer one, evenly chosen lines
SPANS = 20  # points of a throughput: frames come a chunk at a time, so that a short span has none or too many
GRID = 80  # points of a median

Numbers = NDArray[np.float64]


def points_for(runs: int) -> int:
    """How many points a curve may have, so that a page of 200 runs stays about as large as one of 20."""
    return max(60, min(200, 12_000 // max(1, runs)))


def read_curve(path: Path, points: int) -> Curve:
    """The curve in a metrics.jsonl; an empty one where there is none, or nothing in it.

    Args:
        path: The file; a line cut short is passed over.
        points: At most that many; each is the mean of the lines that it stands for.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return Curve()
    chosen = np.unique(np.linspace(0, max(0, len(lines) - 1), min(len(lines), LINES)).astype(int))
    records = [record for index in chosen if (record := _parsed(lines[index])) is not None]
    if not records:
        return Curve()
    bins = np.array_split(np.arange(len(records)), min(points, len(records)))
    columns = {name: _means([record.get(name) for record in records], bins) for name in (*COUNTS, *METRICS)}
    columns |= {name: _rates(columns[count], columns["elapsed"]) for name, count in RATES.items()}
    return Curve(
        frames=tuple(columns["frames"].tolist()),
        seconds=tuple(columns["elapsed"].tolist()),
        values={
            name: tuple(None if np.isnan(value) else float(value) for value in columns[name])
            for name in METRICS
            if not np.isnan(columns[name]).all()
        },
    )


def band(curves: Sequence[Curve], metric: str, axis: str) -> Band | None:
    """Median and quartiles of a metric, as far as half of the curves go; None where nothing is known.

    Args:
        curves: Of runs that are alike but for their seed.
        metric: A key of `METRICS`.
        axis: `frames` or `seconds`.
    """
    known = [pair for curve in curves if len((pair := _known(curve, metric, axis))[0])]
    if not known:
        return None
    grid = np.linspace(min(x[0] for x, _ in known), max(x[-1] for x, _ in known), GRID)
    table = np.stack([np.interp(grid, x, y, left=np.nan, right=np.nan) for x, y in known])  # [curves, GRID]
    enough = 2 * (~np.isnan(table)).sum(axis=0) >= len(known)
    if not enough.any():
        return None
    low, middle, high = np.nanquantile(table[:, enough], (0.25, 0.5, 0.75), axis=0)
    return Band(*(tuple(column.tolist()) for column in (grid[enough], low, middle, high)))


def _known(curve: Curve, metric: str, axis: str) -> tuple[Numbers, Numbers]:
    """The points where the metric is known."""
    y = np.array(curve.values.get(metric, ()), dtype=float)
    known = ~np.isnan(y)
    return np.array(curve.along(axis), dtype=float)[: len(y)][known], y[known]


def _means(values: Sequence[float | None], bins: Sequence[NDArray[np.int64]]) -> Numbers:
    """Means over bins, NaN where a bin has nothing."""
    column = np.array(values, dtype=float)  # None becomes NaN
    known = ~np.isnan(column)
    return np.array([column[part][known[part]].mean() if known[part].any() else np.nan for part in bins])


def _rates(counted: Numbers, elapsed: Numbers) -> Numbers:
    """What was counted per second, over longer spans, each in the middle of its own; NaN between them."""
    edges = np.unique(np.linspace(0, len(counted) - 1, SPANS + 1).astype(int))
    rates = np.full_like(counted, np.nan)
    seconds = np.maximum(np.diff(elapsed[edges]), 1e-9)
    rates[(edges[:-1] + edges[1:]) // 2] = np.diff(counted[edges]) / seconds
    return rates


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A record with its place on both axes, or None for a line that a crash has cut short."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    placed = isinstance(record, dict) and all(isinstance(record.get(key), int | float) for key in COUNTS)
    return record if placed else None
