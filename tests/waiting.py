"""Waiting for what other processes do, on a machine that may be busy."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something holds. What is waited for needs the cores too: looking takes a third of one at most."""
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return
        ended = time.monotonic()
        assert ended < deadline, "did not happen in time"
        time.sleep(max(0.02, 2 * (ended - began)))
