"""Who keeps the registry up to date: while one process does nothing else, it is enough for all others to read."""

from __future__ import annotations

import time
from pathlib import Path

from orchestrator.processes import Process
from trainer.run_dir import write_atomically

KEEPER = ".keeper"  # in the folder of all runs: the process that has looked last and goes on looking
KEPT_FOR = 5.0  # seconds that its look is good for, while it lives


def note_keeper(home: Path) -> None:
    """This process has looked at the runs of a folder just now, and will look again at once."""
    write_atomically(home / KEEPER, str(Process.current()), durable=False)


def is_kept_up(home: Path) -> bool:
    """Whether somebody else keeps the registry of a folder up to date right now."""
    mark = home / KEEPER
    try:
        fresh = 0.0 <= time.time() - mark.stat().st_mtime <= KEPT_FOR
        return fresh and Process.parse(mark.read_text(encoding="utf-8")).is_alive
    except (FileNotFoundError, ValueError):
        return False
