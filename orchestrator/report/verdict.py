"""What a report says first: how the runs ended, in a sentence, and the figures that matter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from orchestrator.report.data import Report, RunEntry
from orchestrator.states import TERMINAL, RunState
from orchestrator.tables import age, number


@dataclass(frozen=True)
class Verdict:
    """`level` is `good`, `bad` or `open`; `facts` are pairs of label and value."""

    level: str
    headline: str
    facts: tuple[tuple[str, str], ...]


def verdict(report: Report) -> Verdict:
    """Judge the runs of a report."""
    runs = report.runs
    states = Counter(run.record.state for run in runs)
    ended = sum(states[state] for state in TERMINAL)
    bad = states[RunState.FAILED] + states[RunState.CANCELLED]
    level = "bad" if bad else "good" if ended == len(runs) else "open"
    return Verdict(level, _headline(runs, states, len(runs) - ended), tuple(_facts(runs)))


def _headline(runs: Sequence[RunEntry], states: Counter[RunState], going: int) -> str:
    if len(runs) == 1:
        [run] = runs
        why = f" ({run.record.failure_class})" if run.record.failure_class else ""
        message = f": {run.record.message}" if run.record.message and run.record.state in TERMINAL else ""
        return f"{str(run.record.state).capitalize()}{why}{message}"
    parts = []
    if succeeded := states[RunState.SUCCEEDED]:
        all_of_them = succeeded == len(runs)
        parts.append(f"All {len(runs)} runs succeeded" if all_of_them else f"{succeeded} of {len(runs)} runs succeeded")
    if failed := states[RunState.FAILED]:
        classes = Counter(
            str(run.record.failure_class or "crash") for run in runs if run.record.state is RunState.FAILED
        )
        parts.append(f"{failed} failed ({', '.join(f'{count} {name}' for name, count in classes.most_common())})")
    if cancelled := states[RunState.CANCELLED]:
        parts.append(f"{cancelled} cancelled")
    if stopped := states[RunState.STOPPED]:
        parts.append(f"{stopped} stopped by the sweep")
    if going:
        parts.append(f"{going} not ended yet")
    return ", ".join(parts) or "No runs"


def _facts(runs: Sequence[RunEntry]) -> list[tuple[str, str]]:
    facts = []
    if returns := [run.final_return for run in runs if run.final_return is not None]:
        facts.append(("Return" if len(returns) == 1 else "Return, median", spread(returns)))
    if random := [float(run.summary["random_return"]) for run in runs if run.summary.get("random_return") is not None]:
        facts.append(("Random policy", number(median(random))))
    if beaten := [_beats_random(run) for run in runs if _beats_random(run) is not None]:
        facts.append(("Better than random", f"{sum(map(bool, beaten))} of {len(beaten)}"))
    facts.append(("Frames", compact(sum(run.frames for run in runs))))
    facts.append(("Training time", age(sum(run.seconds for run in runs))))
    for label, rates in (
        ("Frames/s", [run.fps for run in runs if run.fps]),
        ("Steps/s", [run.steps_per_s for run in runs if run.steps_per_s]),
    ):
        if rates:
            facts.append((label if len(rates) == 1 else f"{label}, median", number(median(rates))))
    restarts = sum(max(0, len(run.attempts) - 1) for run in runs)
    if restarts:
        facts.append(("Restarts", str(restarts)))
    return facts


def _beats_random(run: RunEntry) -> bool | None:
    random, trained = run.summary.get("random_return"), run.summary.get("trained_return")
    return None if random is None or trained is None else trained > random


def spread(values: Sequence[float]) -> str:
    """`21.9`, or median and quartiles of several: `21.9 (20.8–22.4)`."""
    if len(values) == 1:
        return number(values[0])
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return f"{number(middle)} ({number(low)}–{number(high)})"


def compact(value: float) -> str:
    """A large number in three digits: `463k`, `1.2M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"
