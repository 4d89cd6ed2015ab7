"""How a run's return has gone lately: read from the end of metrics.jsonl, drawn in one line of text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from orchestrator.states import TERMINAL
from trainer.run_dir import RunDir, Status

if TYPE_CHECKING:
    from orchestrator.runs import RunRecord

RETURN = "episode/return"
TAIL_BYTES = 64_000  # of metrics.jsonl: some sixty lines of a kilobyte, whatever the run's length
WIDTH = 16  # characters
ENDED = 30  # runs that have ended and still get a trend, the newest ones: a look at 5000 runs must not read them all
BLOCKS = "▁▂▃▄▅▆▇█"


def trends(records: Sequence[RunRecord]) -> dict[str, str]:
    """Trends by run id, of the runs that go on and of the last ones that have ended."""
    ended = [record for record in records if record.state in TERMINAL][-ENDED:]
    looked_at = [record for record in records if record.state not in TERMINAL] + ended
    return {record.run_id: sparkline(recent_returns(RunDir(record.run_dir))) for record in looked_at}


def recent_returns(run_dir: RunDir) -> list[float]:
    """Episode returns of the last lines of metrics.jsonl, the oldest first; none where nothing can be read."""
    try:
        with run_dir.metrics.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines()[1 if size > TAIL_BYTES else 0 :]
    except OSError:
        return []
    return [value for line in lines if (value := _return(line)) is not None]


def _return(line: bytes) -> float | None:
    try:
        record = json.loads(line)
    except ValueError:  # cut short by a crash
        return None
    value = record.get(RETURN) if isinstance(record, Mapping) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def sparkline(values: Iterable[float], width: int = WIDTH) -> str:
    """Values as blocks of different height, each the mean of its share; empty where there are not two."""
    values = list(values)
    if len(values) < 2:
        return ""
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    low, size = min(means), max(means) - min(means)
    if size == 0:
        return BLOCKS[3] * count
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int((mean - low) / size * len(BLOCKS)))] for mean in means)


def eta(status: Status) -> float | None:
    """Seconds until the last optimiser step at the present rate; None where there is none."""
    left = status.total_optim_steps - status.optim_step
    return left / status.steps_per_s if status.steps_per_s > 0 and left >= 0 else None
