"""Processes of the tests: how long they may take, and whether they are gone."""

from __future__ import annotations

from pathlib import Path

PATIENCE = 60.0  # seconds that a loaded machine may take for what takes none


def gone(pid: int) -> bool:
    """Ended, or waiting for whoever is its parent now to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
