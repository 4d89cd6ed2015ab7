"""A check, what it finds, and how many of them are made side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from orchestrator.errors import BackendError

if TYPE_CHECKING:
    from orchestrator.doctor.site import Site

AT_ONCE = 8  # OpenSSH's server takes ten sessions of one connection


class Outcome(StrEnum):
    """How a check ended."""

    OK = "OK"
    WARNING = "warning"
    FAILURE = "failure"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Attributes:
        outcome: How it ended.
        message: What there is, or why nothing was looked at.
        remedy: What to do about it; every failure and every warning has one.
    """

    outcome: Outcome
    message: str
    remedy: str = ""


def ok(message: str) -> Finding:
    """All is well."""
    return Finding(Outcome.OK, message)


def warning(message: str, remedy: str) -> Finding:
    """It may do, and what would make it better."""
    return Finding(Outcome.WARNING, message, remedy)


def failure(message: str, remedy: str) -> Finding:
    """It will not do, and what to do about it."""
    return Finding(Outcome.FAILURE, message, remedy)


def skipped(message: str) -> Finding:
    """Nothing was looked at, and why."""
    return Finding(Outcome.SKIPPED, message)


@dataclass(frozen=True)
class Check:
    """One question about a site.

    Attributes:
        name: A word or two.
        look: Answers it; a BackendError that it raises is a failure.
        remedy: What to do where it raises one.
        needs: Name of the door that it goes through, a check itself: without it there is no point.
        backends: Whom it concerns; nobody means all.
    """

    name: str
    look: Callable[[Site], Finding]
    remedy: str = ""
    needs: str = "ssh"
    backends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examined:
    """A check and what it has found."""

    name: str
    finding: Finding


def examine(site: Site, doors: Sequence[Check], checks: Sequence[Check]) -> list[Examined]:
    """Make all checks, side by side.

    Args:
        site: What is looked at.
        doors: Whether host and engine can be reached; what needs one that has failed is not looked at.
        checks: In the order of the answer; those that do not concern the backend are left out.
    """
    doors, checks = ([c for c in some if not c.backends or site.backend in c.backends] for some in (doors, checks))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        opened = {door.name: pool.submit(_look, door, site) for door in doors}
        free = {check.name: pool.submit(_look, check, site) for check in checks if not check.needs}
        closed = {name for name, door in opened.items() if door.result().outcome is Outcome.FAILURE}
        open_to = [check for check in checks if check.needs and check.needs not in closed]
        looks = opened | free | {check.name: pool.submit(_look, check, site) for check in open_to}
    shut = {check.name: skipped(f"{check.needs} has failed") for check in checks if check.needs in closed}
    return [Examined(c.name, shut.get(c.name) or looks[c.name].result()) for c in (*doors, *checks)]


def _look(check: Check, site: Site) -> Finding:
    try:
        return check.look(site)
    except BackendError as error:
        return failure(str(error), check.remedy or "see the message")
