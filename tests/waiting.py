"""Waiting for what other processes do, on a machine that may be busy, and whether they are gone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 60.0  # seconds that a loaded machine may take for what takes none


def eventually(condition: Callable[[], object], seconds: float = PATIENCE, what: str = "what is waited for") -> None:
    """Wait until something holds. What is waited for needs the cores too: looking takes a third of one at most."""
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return
        ended = time.monotonic()
        assert ended < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(max(0.02, 2 * (ended - began)))


def gone(pid: int) -> bool:
    """Ended, or waiting for whoever is its parent now to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
