"""Durations and amounts of memory, as Slurm writes them, in seconds and MiB."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.jobfile.nodes import shown

LONGEST = 366 * 24 * 3600  # seconds; more is a slip of the keyboard
LARGEST = 1 << 30  # MiB, 1 PiB

_SUFFIXED = re.compile(r"(\d{1,9})([smhd])")
_UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CLOCK = re.compile(r"(?:(?P<days>\d{1,9})-)?(?P<fields>\d{1,9}(?::\d{1,2}){0,2})")
_MEMORY = re.compile(r"(\d{1,12})([KMGT]?)", re.IGNORECASE)
_KIB: Mapping[str, int] = {"K": 1, "": 1 << 10, "M": 1 << 10, "G": 1 << 20, "T": 1 << 30}


def duration_seconds(text: str) -> int:
    """Seconds of a duration.

    Args:
        text: `MM`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM` or `D-HH:MM:SS` as in Slurm, or a number with its unit:
            `15s`, `30m`, `2h`, `1d`.

    Raises:
        ValueError: It has another form, a field is out of its range, or it is zero or longer than a year.

    Source: sbatch(1), `--time`.
    """
    seconds = _suffixed_seconds(text)
    if seconds is None:
        seconds = _clock_seconds(text)
    if seconds is None:
        what = f"{shown(text)} is no duration; write HH:MM:SS, D-HH:MM:SS or minutes, as Slurm does, or 30m, 2h"
        raise ValueError(what)
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"{shown(text)} is out of range; a duration is at least a second and at most a year")
    return seconds


def _suffixed_seconds(text: str) -> int | None:
    match = _SUFFIXED.fullmatch(text) if text.isascii() else None
    return int(match[1]) * _UNITS[match[2]] if match else None


def _clock_seconds(text: str) -> int | None:
    match = _CLOCK.fullmatch(text) if text.isascii() else None
    if match is None:
        return None
    fields = [int(field) for field in match["fields"].split(":")]
    if any(field > 59 for field in fields[1:]):
        return None
    if match["days"] is not None:
        hours, minutes, seconds = [*fields, 0, 0][:3]
        if hours > 23:
            return None
        return ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    if len(fields) == 3:
        hours, minutes, seconds = fields
    else:
        hours, minutes, seconds = 0, *[*fields, 0][:2]
    return (hours * 60 + minutes) * 60 + seconds


def memory_mib(text: str) -> int:
    """MiB of an amount of memory, rounded up.

    Args:
        text: A number with a unit of K, M, G or T (powers of 1024), or a number of MiB, as in Slurm.

    Raises:
        ValueError: It has another form, or is zero or more than 1 PiB.

    Source: sbatch(1), `--mem`.
    """
    match = _MEMORY.fullmatch(text) if text.isascii() else None
    if match is None:
        raise ValueError(f"{shown(text)} is no amount of memory; write 128G, 500M or a number of MiB, as Slurm does")
    mib = -(-int(match[1]) * _KIB[match[2].upper()] // (1 << 10))
    if not 0 < mib <= LARGEST:
        raise ValueError(f"{shown(text)} is out of range; write at least 1M and at most 1024T")
    return mib
