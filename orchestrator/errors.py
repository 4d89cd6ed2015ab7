"""Errors that the command line shows as one line each, and the exit code that each stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class LongshoreError(Exception):
    """The action failed; the message says what to do next."""

    exit_code = 1


class BackendError(LongshoreError):
    """The backend cannot be reached or answered something unexpected."""

    exit_code = 3


class UnclearStart(BackendError):
    """A run may have been started or not, and nobody can say now."""


class RefusedStart(BackendError):
    """A run was not started, and no earlier try has done so unseen."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a job file or a command line."""

    file: str
    line: int  # from 1
    column: int  # from 1
    key: str  # dotted, empty for the file as a whole
    message: str  # what is wrong; what is accepted

    def __str__(self) -> str:
        parts = [f"{self.file}:{self.line}:{self.column}", self.key, self.message]
        return ": ".join(part for part in parts if part)


class SpecError(LongshoreError):
    """The job file, the profile or the command line is wrong."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class UsageError(LongshoreError):
    """The command line asks for something that does not exist."""

    exit_code = 2
