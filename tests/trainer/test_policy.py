"""Acting, and the share of the environments that acts without noise."""

from __future__ import annotations

import torch

from tests.trainer.agents import debug_config, small_agent
from trainer.collection import Collector
from trainer.policy import Policy
from trainer.simulators.debug import DebugSimulator

CPU = torch.device("cpu")


def simulator(environments: int) -> DebugSimulator:
    return DebugSimulator(debug_config(f"env.num_envs={environments}").env, 0, CPU)


def policy_of(environments: int, deterministic: int, seed: int = 0) -> Policy:
    return Policy(small_agent(), DebugSimulator.observation, environments, deterministic, seed, CPU)


def step(policy: Policy) -> None:
    """Every environment shows the same."""
    number = len(policy.action)
    observation = {key: torch.full((number, *space.shape), 0.5) for key, space in DebugSimulator.observation.items()}
    policy.step(torch.zeros_like(policy.action), observation, torch.ones(number, dtype=torch.bool))


def test_the_first_environments_act_without_noise():
    """Latents are sampled in every environment, actions only where it explores: equal latents give equal actions."""
    policy = policy_of(64, 32)
    step(policy)
    expected = policy._agent.act(policy.state, None)
    assert torch.equal(policy.action[:32], expected[:32])
    assert not torch.isclose(policy.action[32:], expected[32:]).all(-1).any()


def test_state_and_action_stay_where_they_are():
    policy = policy_of(4, 0)
    before = [tensor.data_ptr() for tensor in (*policy.state, policy.action)]
    step(policy)
    assert [tensor.data_ptr() for tensor in (*policy.state, policy.action)] == before
    assert policy.action.any()


def test_a_policy_goes_on_from_a_saved_state():
    policy = policy_of(4, 0)
    step(policy)
    other = policy_of(4, 0, seed=1)
    other.load_state_dict(policy.state_dict())
    step(policy)
    step(other)
    assert torch.equal(policy.action, other.action)
    assert torch.equal(policy.state.deter, other.state.deter)


def test_evaluating_environments_give_episodes_and_no_rows():
    collector = Collector(simulator(8), small_agent(), 0, CPU, evaluating=2)
    chunk = collector.collect(30)
    assert chunk.rows.reward.shape == (31, 6), "30 steps and the row that begins the run, of the exploring environments"
    assert chunk.states.deter.shape[:2] == (31, 6)
    assert chunk.ended.is_last.shape == (30, 6)
    assert chunk.evaluated.is_last.shape == (30, 2)
    assert len(chunk.evaluated.returns()) >= 2, "episodes of the debug simulator last 25 steps at most"


def test_evaluating_environments_do_not_change_what_the_others_see():
    """The rows that come back are those of the exploring environments, not of the first ones."""
    steps = []
    kept = simulator(8)
    original = kept.step

    def record(action):
        result = original(action)
        steps.append((action.clone(), result.reward.clone()))
        return result

    kept.step = record
    chunk = Collector(kept, small_agent(), 0, CPU, evaluating=3).collect(5)
    for row, (action, reward) in enumerate(steps, 1):
        assert torch.equal(chunk.rows.action[row], action[3:])
        assert torch.equal(chunk.rows.reward[row], reward[3:])
