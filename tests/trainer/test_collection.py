"""Acting in a simulator: rows as the design lays them down, returns of whole episodes, deterministic evaluation."""

from __future__ import annotations

import math

import torch

from tests.trainer.agents import CPU, KEY, debug_config, small_agent
from trainer.collection import Collector, evaluate
from trainer.simulators.debug import EPISODE_STEPS, DebugSimulator


def make_collector(reward_scale: float = 1.0) -> Collector:
    return Collector(DebugSimulator(debug_config().env, 0, CPU), small_agent(), 0, CPU, reward_scale=reward_scale)


def test_the_first_row_begins_the_run_and_later_chunks_go_on():
    collector = make_collector()
    first, second = collector.collect(5), collector.collect(5)
    assert first.rows.reward.shape == (6, 4)
    assert second.rows.reward.shape == (5, 4)
    assert first.rows.is_first[0].all()
    assert not first.rows.is_last[0].any()
    assert first.rows.action[0].abs().sum() == 0


def test_an_episode_begins_on_the_row_on_which_one_ended():
    rows = make_collector().collect(3 * EPISODE_STEPS).rows
    assert rows.is_last.any()
    assert torch.equal(rows.is_first[1:], rows.is_last[1:])
    assert (rows.observation[KEY][..., 2][rows.is_first] == 0).all(), "the observation is the one after the reset"
    assert (rows.is_terminal & ~rows.is_last).sum() == 0


def test_episode_returns_are_sums_over_whole_episodes_across_chunks():
    collector = make_collector(reward_scale=10.0)
    chunks = [collector.collect(7) for _ in range(12)]
    reward = torch.cat([chunk.rows.reward for chunk in chunks])[1:] / 10
    is_last = torch.cat([chunk.rows.is_last for chunk in chunks])[1:]
    expected: list[float] = []
    running, length, lengths = torch.zeros(4), torch.zeros(4), []
    for r, last in zip(reward, is_last, strict=True):
        running, length = running + r, length + 1
        expected += running[last].tolist()
        lengths += length[last].tolist()
        running, length = running * ~last, length * ~last
    returns = [value for chunk in chunks for value in chunk.ended.returns()]
    assert [value for chunk in chunks for value in chunk.ended.lengths()] == lengths
    torch.testing.assert_close(torch.tensor(returns), torch.tensor(expected))


def test_random_actions_are_uniform_within_the_bounds():
    action = make_collector().collect(500, random=True).rows.action[1:]
    assert action.abs().max() <= 1
    assert abs(action.mean()) < 0.05
    assert abs(action.std() - 1 / math.sqrt(3)) < 0.03


def test_policy_actions_stay_within_the_bounds_that_the_simulator_has():
    assert make_collector().collect(100).rows.action.abs().max() <= 1


def test_evaluation_counts_the_first_episode_of_every_environment():
    agent = small_agent()
    returns = evaluate(DebugSimulator(debug_config().env, 0, CPU), agent, 6, 0, CPU)
    assert len(returns) == 8  # two rounds of four environments
    again = evaluate(DebugSimulator(debug_config().env, 0, CPU), agent, 6, 0, CPU)
    assert returns == again


def test_a_restored_collector_goes_on_within_its_episodes():
    one = make_collector()
    one.collect(9)
    two = make_collector()
    two.load_state_dict(one.state_dict())
    ours, theirs = one.collect(40), two.collect(40)
    assert all(torch.equal(a, b) for a, b in zip(ours.rows.tensors(), theirs.rows.tensors(), strict=True))
    assert ours.ended.returns() == theirs.ended.returns()
