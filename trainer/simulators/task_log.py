"""What a task reports of itself in `extras["log"]`: its rewards term by term, why episodes ended, curricula."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PREFIX = "task/"  # of these figures' names


class TaskLog:
    """Keeps the reports of steps until they are asked for.

    A step costs nothing but the keeping: the figures are on the GPU, and go to the host together, once a chunk.
    """

    def __init__(self) -> None:
        self._reports: list[Mapping[str, Any]] = []
        self._last: Mapping[str, Any] | None = None

    def add(self, extras: Mapping[str, Any]) -> None:
        """Take in the extras of a step. Isaac Lab shows the same report again until there is a new one."""
        report = extras.get("log")
        if report and report is not self._last:
            self._last = report
            self._reports.append(report)

    def pop(self) -> dict[str, list[float]]:
        """What the reports since the last call said, by name; whatever is no number is left out."""
        figures = [
            (PREFIX + name, value.float().mean() if value.numel() > 1 else value.detach().float().reshape(()))
            if isinstance(value, Tensor)
            else (PREFIX + name, float(value))
            for report in self._reports
            for name, value in report.items()
            if _is_number(value)
        ]
        self._reports = []
        tensors = [value for _, value in figures if isinstance(value, Tensor)]
        numbers = iter(torch.stack(tensors).tolist() if tensors else ())
        popped: dict[str, list[float]] = {}
        for name, value in figures:
            popped.setdefault(name, []).append(next(numbers) if isinstance(value, Tensor) else value)
        return popped


def _is_number(value: Any) -> bool:
    return value.numel() > 0 if isinstance(value, Tensor) else isinstance(value, int | float)
