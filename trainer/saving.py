"""Checkpoints while training goes on: copied at once, written by a thread."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from trainer.checkpoint import save
from trainer.run_dir import RunDir


class BackgroundSaver:
    """Writes the checkpoints of a run, one at a time.

    Args:
        run_dir: Of the run.
        keep: How many stay.
    """

    def __init__(self, run_dir: RunDir, keep: int) -> None:
        self._run_dir, self._keep = run_dir, keep
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether the last checkpoint is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def save(
        self,
        step: int,
        parts: Mapping[str, Any],
        *,
        score: float | None,
        compress: Collection[str],
        background: bool,
    ) -> None:
        """Save; arguments as in `trainer.checkpoint.save`.

        Args:
            step: Optimiser steps done.
            parts: In the background copies of their tensors are written, so that training may go on.
            score: How good the policy is.
            compress: Names of parts to compress, in the background alone: who waits does not want that.
            background: Return before it is written.

        Raises:
            OSError: This checkpoint could not be written or, in the background, the one before it.
        """
        if background:
            self.wait()
            copies = {name: _copied(part) for name, part in parts.items()}
            self._thread = threading.Thread(target=self._write, args=(step, copies, score, compress), name="checkpoint")
            self._thread.start()
        else:
            self._join()  # if that one failed, this one will tell
            save(self._run_dir, step, parts, self._keep, score=score)

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            OSError: What was written last could not be.
        """
        error = self._join()
        if error is not None:
            raise error

    def _join(self) -> BaseException | None:
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        return error

    def _write(self, step: int, parts: Mapping[str, Any], score: float | None, compress: Collection[str]) -> None:
        try:
            save(self._run_dir, step, parts, self._keep, score=score, compress=compress)
        except BaseException as error:  # raised where the next checkpoint is due
            self._error = error


def _copied(part: Any) -> Any:
    """The same with tensors of its own, in main memory."""
    match part:
        case Tensor():
            return part.detach().clone() if part.device.type == "cpu" else part.detach().cpu()
        case Mapping():
            return {key: _copied(value) for key, value in part.items()}
        case list() | tuple():
            return type(part)(_copied(value) for value in part)
        case _:
            return part
