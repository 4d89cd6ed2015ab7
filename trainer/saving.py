"""Checkpoints while training goes on: copied at once, written by a thread."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from trainer.checkpoint import save
from trainer.run_dir import RunDir

COMPRESSED = 1 << 30  # bytes at most: gzip takes half a minute for them, and a run that is to stop waits for that


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
            parts: Copies of their tensors in main memory are written; in the background training may go on meanwhile.
            score: How good the policy is.
            compress: Names of parts to compress, if they are small enough to be done soon, and in the background alone:
                who waits does not want that.
            background: Return before it is written.

        Raises:
            OSError: This checkpoint could not be written or, in the background, the one before it.
        """
        if background:
            self.wait()
            copies = {name: _copied(part, own=True) for name, part in parts.items()}
            packed = [name for name in compress if _bytes(copies[name]) <= COMPRESSED]
            self._thread = threading.Thread(target=self._write, args=(step, copies, score, packed), name="checkpoint")
            self._thread.start()
        else:
            self._join()  # if that one failed, this one will tell
            copies = {name: _copied(part, own=False) for name, part in parts.items()}
            save(self._run_dir, step, copies, self._keep, score=score)

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


def _copied(part: Any, *, own: bool) -> Any:
    """The same in main memory, each tensor copied once at most.

    Args:
        part: Tensors, and lists, tuples and mappings of them.
        own: Nobody else changes them. Without, only what lies elsewhere is copied, and views of something larger, which
            would be written with all of it.
    """
    match part:
        case Tensor():
            part = part.detach()
            if part.device.type != "cpu":
                return part.cpu()
            return part.clone() if own or part.nbytes < part.untyped_storage().nbytes() else part
        case Mapping():
            return {key: _copied(value, own=own) for key, value in part.items()}
        case list() | tuple():
            return type(part)(_copied(value, own=own) for value in part)
        case _:
            return part


def _bytes(part: Any) -> int:
    """Of all tensors in a part."""
    match part:
        case Tensor():
            return part.nbytes
        case Mapping():
            return sum(map(_bytes, part.values()))
        case list() | tuple():
            return sum(map(_bytes, part))
        case _:
            return 0
