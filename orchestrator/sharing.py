"""A folder of runs that several people share: whose a run is, and that the others can write beside it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

GROUP = stat.S_IRWXG
SHARED = stat.S_ISGID | stat.S_IWGRP  # of a folder whose files are its group's


def user() -> str:
    """Name of whoever this process belongs to; the number of a user whom nobody has named."""
    import pwd

    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


@contextlib.contextmanager
def for_the_group(home: Path) -> Iterator[None]:
    """What is written and started inside is open to the group where the folder of runs is, whatever the umask.

    The folder says so as one does for others too: it belongs to the group, which may write in it, and hands that group
    on to what is made in it (`chmod g+ws`).
    """
    try:
        shared = home.stat().st_mode & SHARED == SHARED
    except OSError:
        shared = False
    if not shared:
        yield
        return
    before = os.umask(0)
    os.umask(before & ~GROUP)
    try:
        yield
    finally:
        os.umask(before)
