"""DreamerV3's actor by gradients through imagined dynamics: what reaches it, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.trainer.agents import assert_equal_to_rounding, noise_of, observe, random_rows, sequences_of, small_agent
from trainer.agents.base import Agent
from trainer.agents.dreamer_v3 import DreamerV3
from trainer.agents.returns import lambda_returns
from trainer.errors import ConfigError
from trainer.world_model.functional import two_hot_mean
from trainer.world_model.rssm import stacked

T, B = 5, 3
DYNAMICS = "agent.behaviour.actor_gradient=dynamics"


def gradients(agent: Agent) -> dict[str, Tensor]:
    loss = agent.loss(sequences_of(agent, random_rows(T + 1, B)), noise_of(agent, T, B))
    loss.total.backward()
    return {name: parameter.grad for name, parameter in agent.named_parameters() if parameter.grad is not None}


def test_all_but_the_actor_learns_as_it_does_beside_a_reinforced_one():
    expected, found = gradients(small_agent()), gradients(small_agent(DYNAMICS))
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        if name.startswith("actor."):
            assert not torch.allclose(gradient, expected[name], rtol=0.1), name
        else:
            assert_equal_to_rounding(gradient, expected[name], name)


def test_the_actors_gradient_is_that_of_the_advantages_over_all_that_it_imagines():
    agent = small_agent(DYNAMICS)
    assert isinstance(agent, DreamerV3)
    found, noise = gradients(agent), noise_of(agent, T, B)
    sequences = sequences_of(agent, random_rows(T + 1, B))
    with torch.no_grad():
        rollout = observe(agent, sequences.rows.window(1), sequences.context)
    states, entropy = [rollout.departure.flatten()], []
    for latent, draw in zip(noise.imagined, noise.action, strict=True):
        policy = agent.actor(states[-1].features().detach())
        entropy.append(policy.entropy())
        states.append(agent.world_model.rssm.imagine(states[-1], policy.sample(draw), latent))
    features = stacked(states).features()
    discount = torch.sigmoid(agent.world_model.continuation(features))
    value = two_hot_mean(agent.critic(features), agent.critic.bins)
    returns = lambda_returns(agent.world_model.reward(features), discount, value, lam=agent.config.behaviour.lambda_)
    behaviour = agent.config.behaviour
    reach = torch.cat([torch.ones_like(discount[:1]), discount[1:]]).cumprod(0)[:-1].detach()
    scale = (agent.return_scale.high - agent.return_scale.low).clamp_min(behaviour.return_scale.limit)
    gain = (returns - value[:-1]) / scale + behaviour.entropy_scale * torch.stack(entropy)
    names = [name for name in found if name.startswith("actor.")]
    expected = torch.autograd.grad(-(reach * gain).mean(), [dict(agent.named_parameters())[name] for name in names])
    for name, gradient in zip(names, expected, strict=True):
        assert gradient.any(), name
        assert_equal_to_rounding(found[name], gradient, name, share=1e-4)


def test_another_gradient_is_refused():
    with pytest.raises(
        ConfigError, match=r"agent\.behaviour\.actor_gradient: 'both' is neither reinforce nor dynamics"
    ):
        small_agent("agent.behaviour.actor_gradient=both")
