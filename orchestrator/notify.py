"""Tell a user's own command, or an address of theirs, what has happened."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request

from orchestrator.runs import Event
from orchestrator.surroundings import say

TIMEOUT = 30.0  # seconds: whoever does not take the message by then misses it


def tell(where: str, change: Event) -> None:
    """Run a command in a shell, or post to an address, for one change of a run; a failure is said, and nothing more.

    Args:
        where: A command, in whose environment stands what happened: LONGSHORE_RUN_ID, LONGSHORE_STATE and
            LONGSHORE_MESSAGE. Or an address, which gets a JSON object with run_id, state, message and text.
        change: Of a run's state.
    """
    if where.startswith(("http://", "https://")):
        _post(where, change)
    else:
        _run(where, change)


def _run(command: str, change: Event) -> None:
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


def _post(address: str, change: Event) -> None:
    text = f"{change.run_id} {change.new}" + (f": {change.message}" if change.message else "")
    # `text` is what Slack and Mattermost show.
    about = {"run_id": change.run_id, "state": str(change.new), "message": change.message, "text": text}
    request = urllib.request.Request(
        address, json.dumps(about).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            pass
    except (OSError, ValueError) as error:  # an answer of 400 and above is an OSError too
        say(f"warning: --notify could not post: {error}")
