"""Who keeps the registry up to date: while one process of a user does nothing else, the others need only read.

Each user has one of their own, because each starts their own runs alone.
"""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.processes import Process
from orchestrator.registry import Registry
from trainer.run_dir import write_atomically

KEEPER = ".keeper-"  # and the user, in the folder of all runs: whose process has looked last and goes on looking
KEPT_FOR = 5.0  # seconds that its look is good for, while it lives


def note_keeper(registry: Registry) -> None:
    """This process has looked at the runs just now, and will look again at once."""
    write_atomically(_mark(registry), str(Process.current()), durable=False)


def forget_keeper(registry: Registry) -> None:
    """Nobody knows how the runs stand: whoever looks is to ask, and to be told so."""
    _mark(registry).unlink(missing_ok=True)


def is_kept_up(registry: Registry) -> bool:
    """Whether another process of the same user keeps the registry up to date right now."""
    mark = _mark(registry)
    try:
        fresh = 0.0 <= time.time() - mark.stat().st_mtime <= KEPT_FOR
        return fresh and Process.parse(mark.read_text(encoding="utf-8")).is_alive
    except (FileNotFoundError, ValueError):
        return False


def _mark(registry: Registry) -> Path:
    return registry.home / f"{KEEPER}{registry.user}"
