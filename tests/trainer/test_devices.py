"""Which device each role works on."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.agents import debug_config
from trainer.errors import ConfigError
from trainer.pipelines.parts import choose_devices


@pytest.mark.parametrize(
    ("gpus", "overrides", "devices"),
    [
        (0, [], ("cpu", "cpu")),
        (1, [], ("cuda:0", "cuda:0")),
        (2, [], ("cuda:0", "cuda:1")),
        (8, [], ("cuda:0", "cuda:1")),
        (2, ["device=cpu"], ("cpu", "cpu")),
        (2, ["device=cuda:1"], ("cuda:1", "cuda:1")),
        (2, ["pipeline.simulator_device=cuda:1"], ("cuda:1", "cuda:0")),
        (2, ["pipeline.learner_device=cuda"], ("cuda:0", "cuda:0")),
        (4, ["pipeline.simulator_device=cuda:3", "pipeline.learner_device=cuda:2"], ("cuda:3", "cuda:2")),
    ],
)
def test_each_role_has_a_gpu_of_its_own_where_there_are_two(
    monkeypatch: pytest.MonkeyPatch, gpus: int, overrides: list[str], devices: tuple[str, str]
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    config = debug_config("pipeline=async", *overrides)
    assert tuple(str(device) for device in choose_devices(config)) == devices


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("pipeline.simulator_device=gpu", r"pipeline\.simulator_device: 'gpu' is no device"),
        ("pipeline.learner_device=cuda:4", r"pipeline\.learner_device: cuda:4 is not there: 2 GPUs"),
    ],
)
def test_a_device_that_is_not_there_is_the_jobs_fault(monkeypatch: pytest.MonkeyPatch, override: str, words: str):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=words):
        choose_devices(debug_config("pipeline=async", override))
