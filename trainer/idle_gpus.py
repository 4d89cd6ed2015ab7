"""Tells when a GPU of the run does nothing for long: nobody pays for one that waits. Imports no torch."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence

QUERY = ("nvidia-smi", "--query-gpu=index,uuid,utilization.gpu", "--format=csv,noheader,nounits")
TIMEOUT = 20.0  # seconds; a driver in trouble answers late or never


class IdleGpus:
    """Looks at the GPUs in a thread of its own, for as long as it is entered.

    Args:
        limit: Seconds without any use after which it is told, once for each time.
        tell: Gets the line.
        visible: CUDA_VISIBLE_DEVICES; None for all GPUs.
        interval: Seconds between two looks.
    """

    def __init__(self, limit: float, tell: Callable[[str], None], visible: str | None, interval: float = 30.0) -> None:
        self._limit, self._tell, self._interval = limit, tell, interval
        self._visible = None if visible is None else {name.strip() for name in visible.split(",")}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="idle-gpus", daemon=True)

    def __enter__(self) -> IdleGpus:
        if shutil.which(QUERY[0]) is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        used_at: dict[str, float] = {}
        told: set[str] = set()
        while not self._stop.wait(self._interval):
            now = time.monotonic()
            for index, use in self._uses():
                if use > 0:
                    used_at[index] = now
                    told.discard(index)
                elif now - used_at.setdefault(index, now) >= self._limit and index not in told:
                    told.add(index)
                    self._tell(f"GPU {index} has done nothing for {self._limit:g} s (watchdog.idle_gpu)")

    def _uses(self) -> Sequence[tuple[str, float]]:
        """Index and use in percent of each GPU of the run; nothing where the driver does not say."""
        try:
            done = subprocess.run(QUERY, capture_output=True, text=True, timeout=TIMEOUT, check=True)
            rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines()]
            return [
                (index, float(use))
                for index, uuid, use in rows
                if self._visible is None or index in self._visible or uuid in self._visible
            ]
        except (OSError, subprocess.SubprocessError, ValueError):
            return []
