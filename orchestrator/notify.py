"""Tell a user's own command what has happened."""

from __future__ import annotations

import os
import subprocess

from orchestrator.runs import Event
from orchestrator.surroundings import say

TIMEOUT = 30.0  # seconds: whoever does not take the message by then misses it


def tell(command: str, change: Event) -> None:
    """Run a command, in a shell, for one change of a run; that it fails is said, and nothing more.

    Args:
        command: What happened stands in its environment: LONGSHORE_RUN_ID, LONGSHORE_STATE and LONGSHORE_MESSAGE.
        change: Of a run's state.
    """
    about = {
        "LONGSHORE_RUN_ID": change.run_id,
        "LONGSHORE_STATE": str(change.new),
        "LONGSHORE_MESSAGE": change.message,
    }
    try:
        done = subprocess.run(
            command, shell=True, env=os.environ | about, stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        say(f"warning: --notify did not end within {TIMEOUT:g} s, and was ended")
        return
    if done.returncode:
        say(f"warning: --notify ended with exit code {done.returncode}")
