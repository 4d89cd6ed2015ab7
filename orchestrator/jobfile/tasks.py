"""The tasks that each simulator knows, from a list made ahead of time: no simulator is imported here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from orchestrator.jobfile.nodes import shown

TASKS_FILE = Path(__file__).with_name("tasks.json")  # written by tools/list_tasks.py

_SIMULATOR_OF_PREFIX: Mapping[str, str] = {"Isaac-": "isaaclab", "Mjlab-": "mjlab", "Debug-": "debug"}


@dataclass(frozen=True)
class Task:
    """One task of one simulator.

    Attributes:
        name: As `env.name` takes it.
        simulator: As `env.backend` takes it.
        kind: What its agent sees: `state`, or `camera` where it has one of its own; `multi-agent` where several act,
            which the trainer refuses.
    """

    name: str
    simulator: str
    kind: str


@dataclass(frozen=True)
class Simulator:
    """What one release of a simulator registers."""

    name: str
    version: str
    tasks: Mapping[str, Task]


@cache
def simulators() -> Mapping[str, Simulator]:
    """Simulators whose tasks are known, by name. Others take any task name."""
    listed = json.loads(TASKS_FILE.read_text(encoding="utf-8"))
    return MappingProxyType(
        {
            name: Simulator(
                name,
                content["version"],
                MappingProxyType({task: Task(task, name, kind) for task, kind in content["tasks"].items()}),
            )
            for name, content in listed.items()
        }
    )


def simulator_of(task: str) -> str | None:
    """The simulator that a task's name tells, or None where it tells none."""
    return next((name for prefix, name in _SIMULATOR_OF_PREFIX.items() if task.startswith(prefix)), None)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` was probably meant to be, or None."""
    import difflib  # only wrong input needs it

    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(word.lower()[:200], by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None


def task_error(task: str, simulator: str) -> str | None:
    """What is wrong with `task` on `simulator`, and what is accepted; None where nothing is known to be wrong."""
    known = simulators().get(simulator)
    if known is None or task in known.tasks:
        return None
    others = [name for name, other in simulators().items() if task in other.tasks]
    if others:
        return f"{shown(task)} is a task of {others[0]}; set env.backend={others[0]}"
    near = nearest(task, known.tasks)
    hint = f"did you mean '{near}'?" if near else f"it knows {', '.join(list(known.tasks)[:3])} and others."
    own = " Tasks of your own are installed by setup.code" if simulator == "isaaclab" else ""
    return f"{simulator} {known.version} has no task {shown(task)}; {hint}{own}"
