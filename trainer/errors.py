"""Errors that end a training run, and the failure class that each stands for. Imports no torch."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from trainer.run_dir import FailureClass

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_ALLOCATION = re.compile(r"out of memory|can't allocate memory|not enough memory|failed to allocate", re.IGNORECASE)


class ConfigError(Exception):
    """A key or a value of the trainer's config is wrong; one line that says what is accepted."""


class NotFinite(Exception):
    """A loss or a gradient is NaN or infinite; going on would only spoil the weights."""


class PeerLost(Exception):
    """Another role of the run is gone. What became of that one is why the run ends; this is only a consequence."""


class Stopped(Exception):
    """The role was asked to stop, has saved what a later attempt needs, and left its loop."""


def failure_class(error: BaseException) -> FailureClass:
    """The class that an exception of a role's main function counts as."""
    if isinstance(error, ConfigError):
        return FailureClass.SPEC
    if isinstance(error, NotFinite):
        return FailureClass.NAN
    if isinstance(error, ImportError):
        return FailureClass.SETUP
    if _out_of_memory(error):
        return FailureClass.OUT_OF_MEMORY
    return FailureClass.CRASH


def describe(error: BaseException, folder: Path) -> str:
    """One line for people: the exception's own words, or which path the full disk is under.

    Args:
        error: What was raised.
        folder: Named where a full disk is the reason and the exception does not say which file was written.
    """
    full = disk_full(error)
    if full is not None:
        return f"disk full: {full.filename or folder}: {full.strerror}"
    words = " ".join(str(error).split())
    if isinstance(error, ConfigError | NotFinite | PeerLost) and words:
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def disk_full(error: BaseException) -> OSError | None:
    """The out-of-space error behind `error`, or None. PyTorch's file writer wraps it in errors of its own."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in _NO_ROOM:
            return link
    return None


def _out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # where torch was never imported, it did not raise either
    kinds = (MemoryError, getattr(torch, "OutOfMemoryError", MemoryError))
    # Allocators without a class of their own (CPU, Warp, CUDA graphs) raise RuntimeError.
    return isinstance(error, kinds) or (isinstance(error, RuntimeError) and _ALLOCATION.search(str(error)) is not None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
