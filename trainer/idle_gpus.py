"""Tells when a GPU of the run does nothing for long: nobody pays for one that waits. Imports no torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from trainer.nvidia_smi import is_installed, read_gpus


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
        if is_installed():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        used_at: dict[str, float] = {}
        told: set[str] = set()
        while not self._stop.wait(self._interval):
            now = time.monotonic()
            for gpu in read_gpus():
                index = gpu.index
                if self._visible is not None and not {index, gpu.uuid} & self._visible:
                    continue
                if gpu.utilization > 0:
                    used_at[index] = now
                    told.discard(index)
                elif now - used_at.setdefault(index, now) >= self._limit and index not in told:
                    told.add(index)
                    self._tell(f"GPU {index} has done nothing for {self._limit:g} s (watchdog.idle_gpu)")
