"""Successive halving: which runs of a sweep are not worth going on with.

At some points of training the best of the runs go on and the others are stopped. A run is stopped as soon as so many
others were better than it at that point as may go on, and not before: the same runs go on whenever anybody looks,
none waits for another, and one that has gone past the point meanwhile is judged by what it was worth there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.states import TERMINAL, RunState
from trainer.run_dir import RunDir, write_atomically

if TYPE_CHECKING:
    from orchestrator.records import RunRecord
    from orchestrator.runs import RunStore

# A run by its values at the points that it has reached, in the order of the points.
Values = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class StopRule:
    """`sweep.stop:` of a job.

    Attributes:
        metric: Name in metrics.jsonl; more of it is better.
        at: The points, as shares of all optimiser steps, ascending.
        keep: Share of the runs at each point that goes on.
    """

    metric: str
    at: tuple[float, ...]
    keep: float

    def places(self, runs: int) -> list[int]:
        """How many of so many runs go on at each point; one at least."""
        left = [runs]
        for _ in self.at:
            left.append(max(1, math.ceil(self.keep * left[-1] - 1e-9)))
        return left[1:]


def losers(rule: StopRule, values: Values, runs: int) -> dict[str, str]:
    """The runs that are to be stopped, and why.

    Args:
        rule: Of the sweep.
        values: What its runs were worth, in the order of the sweep: of two that are equal the first goes on.
        runs: How many there are, those included that have not come to the first point yet.
    """
    found: dict[str, str] = {}
    for point, places in enumerate(rule.places(runs)):
        reached = {run: worth[point] for run, worth in values.items() if len(worth) > point and run not in found}
        for run in sorted(reached, key=lambda run: -reached[run])[places:]:
            share = f"{rule.at[point]:.0%} of its steps"
            why = f"{rule.metric} of {reached[run]:g} at {share} is not among the best {places}"
            found[run] = f"stopped by its sweep: {why}"
    return found


def value_at(lines: Iterable[Mapping[str, Any]], metric: str, step: float) -> float | None:
    """The first value of a metric at a step or after it; what is no number is worth nothing."""
    for line in lines:
        if line.get("step", -1) >= step and metric in line:
            value = float(line[metric])
            return value if math.isfinite(value) else -math.inf
    return None


def halve(store: RunStore) -> None:
    """Stop what the rules of sweeps say: each run is asked through its folder, saves itself, and ends."""
    for sweep_id, rule in store.stop_rules().items():
        records = store.resolve(sweep_id)
        values = store.worths([record.run_id for record in records])
        known = {record.run_id: values.get(record.run_id, ()) for record in records}
        news = {
            record.run_id: (*known[record.run_id], *found)
            for record in records
            if record.state not in TERMINAL and (found := _new_values(record, rule, len(known[record.run_id])))
        }
        store.add_worths(news)
        known |= news
        # What ended before its first point takes nobody's place.
        counted = [r for r in records if known[r.run_id] or r.state not in {RunState.FAILED, RunState.CANCELLED}]
        spared = store.ever(RunState.STOPPED)  # whoever resumed them by hand wants them to go on
        going = {r.run_id: r for r in records if r.state not in TERMINAL and r.run_id not in spared}
        for run_id, why in losers(rule, known, len(counted)).items():
            if run_id in going:
                _stop(store, going[run_id], why)


def _new_values(record: RunRecord, rule: StopRule, known: int) -> tuple[float, ...]:
    """What a run was worth at the points that it has reached since the last look."""
    run_dir = RunDir(record.run_dir)
    status = run_dir.read_status()
    if status is None or not status.total_optim_steps:
        return ()
    due = [share * status.total_optim_steps for share in rule.at[known:]]
    due = [step for step in due if status.optim_step >= step]
    if not due:
        return ()
    lines = list(run_dir.read_metrics())
    found: list[float] = []
    for step in due:
        value = value_at(lines, rule.metric, step)
        if value is None:
            break
        found.append(value)
    return tuple(found)


def _stop(store: RunStore, record: RunRecord, why: str) -> None:
    wish = RunDir(record.run_dir).stop
    if not wish.exists():
        write_atomically(wish, why + "\n")
    if record.handle is None:
        store.stop_waiting(record.run_id, why)


def as_rule(raw: Mapping[str, Any]) -> StopRule:
    """The rule that the registry has kept."""
    return StopRule(raw["metric"], tuple(raw["at"]), raw["keep"])
