"""Figures carry what they were measured on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.results import Machine, result_path, write_result


@dataclass(frozen=True)
class Figure:
    name: str
    median: float


@pytest.mark.parametrize(
    ("gpus", "label"),
    [
        ((), "cpu"),
        (("NVIDIA H200", "NVIDIA H200"), "h200"),
        (("NVIDIA H100 80GB HBM3",), "h100"),
        (("Tesla V100",), "tesla-v100"),
    ],
)
def test_results_are_named_by_the_gpu(gpus: tuple[str, ...], label: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Machine, "here", lambda: Machine(2, "a CPU", "a system", gpus))
    assert result_path("reference").name == f"reference-{label}.json"


def test_figures_are_written_with_machine_and_versions(tmp_path: Path):
    path = tmp_path / "new" / "figures.json"
    write_result(path, [Figure("step", 0.5)], ("rich",), {"batch": 7})
    written = json.loads(path.read_text())
    assert written["figures"] == [{"name": "step", "median": 0.5}]
    assert written["settings"] == {"batch": 7}
    assert {"python", "rich"} == set(written["versions"])
    assert {"cores", "cpu", "system"} <= set(written["machine"])
