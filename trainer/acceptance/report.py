"""The report of an acceptance run, for people and for programs. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.acceptance.checks import Check
from trainer.run_dir import write_atomically

MARKS: Mapping[bool | None, str] = {True: "ok", False: "**FAIL**", None: ""}


@dataclass(frozen=True)
class Training:
    """What became of one of the short trainings.

    Attributes:
        name: Of the stage.
        arguments: Of `python -m trainer`.
        failure: Why it failed; None where it did not.
        fps: Frames collected per second.
        steps_per_s: Optimiser steps per second.
        published: Figures that this project starts from, in words.
        seconds: From its start to its end, Isaac Sim's own start included.
        random_return: Mean return of random actions.
        trained_return: Mean return of what was trained.
    """

    name: str
    arguments: Sequence[str]
    failure: str | None
    fps: float | None
    steps_per_s: float | None
    published: str
    seconds: float
    random_return: float | None = None
    trained_return: float | None = None


def failures(checks: Sequence[Check], trainings: Sequence[Training]) -> list[str]:
    """One line for each check and training that failed."""
    failed = [f"{check.name}: {check.found}" for check in checks if check.passed is False]
    return failed + [f"{training.name}: {training.failure}" for training in trainings if training.failure]


def write_report(folder: Path, checks: Sequence[Check], trainings: Sequence[Training]) -> None:
    """Write acceptance.md, and acceptance.json with the same content.

    Raises:
        OSError: The disk is full.
    """
    content: dict[str, Any] = {
        "checks": [asdict(check) for check in checks],
        "trainings": [asdict(training) for training in trainings],
    }
    write_atomically(folder / "acceptance.json", json.dumps(content, indent=1))
    write_atomically(folder / "acceptance.md", markdown(checks, trainings))


def markdown(checks: Sequence[Check], trainings: Sequence[Training]) -> str:
    """The report as a page."""
    failed = failures(checks, trainings)
    lines = [
        "# Longshore on Isaac Sim",
        "",
        f"{len(failed)} of {len(checks) + len(trainings)} failed." if failed else "All is well.",
        "",
        "| | check | found | trap | s |",
        "| --- | --- | --- | ---: | ---: |",
        *(
            f"| {MARKS[check.passed]} | {check.name} | {_cell(check.found)} | {check.trap or ''} | "
            f"{check.seconds or ''} |"
            for check in checks
        ),
        "",
        "| | training | frames/s | optimiser steps/s | published | return, random → trained | s |",
        "| --- | --- | ---: | ---: | --- | --- | ---: |",
        *(
            f"| {MARKS[training.failure is None]} | {training.name} | {_number(training.fps)} | "
            f"{_number(training.steps_per_s)} | {training.published} | {_number(training.random_return)} → "
            f"{_number(training.trained_return)} | {training.seconds:.0f} |"
            for training in trainings
        ),
        "",
        *(f"- {training.name}: `python -m trainer {' '.join(training.arguments)}`" for training in trainings),
        "",
        *(f"- **{_cell(failure)}**" for failure in failed),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
