"""What a task reports of itself, term by term."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.agents import CPU, debug_config
from trainer.config import Config
from trainer.simulators import make_simulator
from trainer.simulators.task_log import TaskLog


def test_each_report_counts_once_however_often_it_is_shown():
    """Isaac Lab leaves the last reset's report in place until the next reset."""
    log = TaskLog()
    first, second = {"a": torch.tensor(1.0), "b": 2}, {"a": torch.tensor(3.0)}
    for report in (first, first, second, second):
        log.add({"log": report})
    assert log.pop() == {"task/a": [1.0, 3.0], "task/b": [2.0]}
    log.add({"log": second})
    assert log.pop() == {}, "shown again in the next chunk"


def test_what_is_no_number_is_left_out_and_vectors_are_their_means():
    log = TaskLog()
    log.add({"log": {"levels": torch.tensor([1, 2]), "none": torch.tensor([]), "words": "flat", "on": True}})
    log.add({"log": {}})
    log.add({})
    assert log.pop() == {"task/levels": [1.5], "task/on": [1.0]}


def test_mjlab_reports_its_rewards_term_by_term():
    pytest.importorskip("mjlab")
    names = {"backend": "mjlab", "name": "Mjlab-Cartpole-Balance", "observation_key": "actor", "num_envs": 3}
    simulator = make_simulator(Config(**{**vars(debug_config().env), **names}), 0, CPU)
    simulator.reset()
    reward = sum(simulator.step(torch.zeros(3, 1)).reward for _ in range(10))
    assert simulator.pop_log() == {}, "no episode has ended"
    simulator._raw.episode_length_buf[1] = 10**6
    reward += simulator.step(torch.zeros(3, 1)).reward
    popped = simulator.pop_log()
    seconds = simulator._raw.max_episode_length_s
    assert popped["task/Episode_Reward/smooth_reward"] == [pytest.approx(reward[1].item() / seconds, rel=1e-4)]
    assert popped["task/Episode_Termination/time_out"] == [1.0]
    simulator.close()
