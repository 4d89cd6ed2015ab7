"""GPUs that do nothing are told of; what the driver says is played by a program that says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.idle_gpus import IdleGpus

SMI = """#!/bin/sh
[ "$*" = "--query-gpu=index,uuid,utilization.gpu,memory.used --format=csv,noheader,nounits" ] || exit 9
cat "{answer}"
"""


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has nvidia-smi say something from now on."""
    program, text = tmp_path / "bin" / "nvidia-smi", tmp_path / "answer"
    program.parent.mkdir()
    program.write_text(SMI.format(answer=text))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")

    def write(lines: str) -> None:
        text.with_suffix(".new").write_text(lines)
        text.with_suffix(".new").replace(text)

    return write


def told_within(seconds: float, visible: str | None = None) -> list[str]:
    told: list[str] = []
    with IdleGpus(0.2, told.append, visible, interval=0.02):
        time.sleep(seconds)
    return told


def test_a_gpu_that_does_nothing_is_told_of_once_and_a_busy_one_never(answer: Callable[[str], None]):
    answer("0, GPU-a, 97, 500\n1, GPU-b, 0, 500\n")
    assert told_within(1.5) == ["GPU 1 has done nothing for 0.2 s (watchdog.idle_gpu)"]


def test_a_gpu_that_worked_meanwhile_is_told_of_again(answer: Callable[[str], None]):
    answer("0, GPU-a, 0, 500\n")
    told: list[str] = []
    with IdleGpus(0.2, told.append, None, interval=0.02):
        _until(lambda: len(told) == 1)
        answer("0, GPU-a, 50, 500\n")
        time.sleep(0.5)
        answer("0, GPU-a, 0, 500\n")
        _until(lambda: len(told) == 2)


@pytest.mark.parametrize("visible", ["0", "GPU-a", "0,GPU-c"])
def test_gpus_that_are_not_the_runs_own_are_nobodys_business(answer: Callable[[str], None], visible: str):
    answer("0, GPU-a, 50, 500\n1, GPU-b, 0, 500\n")
    assert told_within(1.0, visible) == []


@pytest.mark.parametrize("text", ["", "No devices were found\n", "0, GPU-a, [N/A], 500\n"])
def test_a_driver_that_does_not_say_is_no_idle_gpu(answer: Callable[[str], None], text: str):
    answer(text)
    assert told_within(0.6) == []


def test_without_a_driver_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert told_within(0.3) == []


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
