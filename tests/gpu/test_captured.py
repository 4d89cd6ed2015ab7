"""Optimiser and policy step as CUDA graphs, against the same steps run eagerly."""

from __future__ import annotations

import pytest
import torch

from benchmarks.trainer_parts import KEY, learner_config, noise_agent, noise_learner, noise_replay
from trainer.learner import Learner
from trainer.policy import Policy
from trainer.simulators.base import Space

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
GPU = torch.device("cuda:0")
OBSERVATION, ACTION, ENVIRONMENTS = 47, 11, 64  # no multiples of 8
AGENTS = ("dreamer", "dreamer_v3")


def learner_of(agent: str, *overrides: str) -> Learner:
    config = learner_config(agent, 512, 16, overrides)
    return noise_learner(config, ENVIRONMENTS, ENVIRONMENTS * 40, OBSERVATION, ACTION, GPU)


def figures(learner: Learner, steps: int) -> dict[str, float]:
    for _ in range(steps):
        learner.learn()
    return dict(learner.pop_metrics())


@pytest.mark.parametrize("agent", AGENTS)
def test_a_captured_step_learns_what_an_eager_one_does(agent):
    # Without a warm-up: its first steps are about as small as the rounding of the weights.
    overrides = ("agent.optimizer.warmup=1",) if agent == "dreamer_v3" else ()
    eager, captured = learner_of(agent, *overrides), learner_of(agent, *overrides)
    captured.prepare()
    expected = figures(eager, 3)
    assert figures(captured, 3) == pytest.approx(expected, rel=1e-2, abs=1e-3)
    # The first steps move a weight by the learning rate however small its gradient, whose sign is rounding where it is
    # all but 0: a tensor that has many of those is further off than all weights together.
    started = list(learner_of(agent, *overrides).agent.parameters())
    off = [(a - b).norm() for a, b in zip(captured.agent.parameters(), eager.agent.parameters(), strict=True)]
    moved = [(a - b).norm() for a, b in zip(eager.agent.parameters(), started, strict=True)]
    assert all(one <= 1e-1 * whole for one, whole in zip(off, moved, strict=True))
    assert torch.stack(off).norm() <= 2e-2 * torch.stack(moved).norm()


@pytest.mark.parametrize("agent", AGENTS)
def test_preparing_learns_and_forgets_nothing(agent):
    learner, earlier = learner_of(agent), learner_of(agent)
    figures(earlier, 2)
    learner.load_state_dict(earlier.state_dict())
    before = [tensor.detach().clone() for tensor in learner._tensors()]
    generator = learner._generator.get_state()
    learner.prepare()
    assert all(torch.equal(now, was) for now, was in zip(learner._tensors(), before, strict=True))
    assert torch.equal(learner._generator.get_state(), generator)


@pytest.mark.parametrize("agent", AGENTS)
def test_captured_steps_do_not_repeat_their_noise(agent):
    learner = learner_of(agent, "agent.optimizer.lr=0" if agent == "dreamer_v3" else "agent.optimizer.actor_lr=0")
    learner.prepare()
    assert figures(learner, 1) != figures(learner, 1)


def test_bfloat16_stays_close_to_float32():
    half, full = learner_of("dreamer_v3", "optimization.autocast=bfloat16"), learner_of("dreamer_v3")
    half.prepare()
    full.prepare()
    assert figures(half, 1) == pytest.approx(figures(full, 1), rel=5e-2, abs=5e-2)


def test_a_replay_in_main_memory_feeds_a_captured_step():
    config = learner_config("dreamer", 512, 16, ["replay_buffer.gpu_storage=false"])
    agent = noise_agent(config, OBSERVATION, ACTION, GPU)
    replay = noise_replay(agent, ENVIRONMENTS, ENVIRONMENTS * 40, OBSERVATION, ACTION, torch.device("cpu"))
    learner = Learner(agent, replay, config, 0, GPU)
    learner.prepare()
    first = figures(learner, 5)
    assert figures(learner, 5)["loss/total"] < first["loss/total"]


@pytest.mark.parametrize("agent", AGENTS)
def test_a_captured_policy_acts_as_an_eager_one(agent):
    network = noise_agent(learner_config(agent, 512, 16), OBSERVATION, ACTION, GPU)
    space = {KEY: Space((OBSERVATION,))}
    eager, captured = (Policy(network, space, ENVIRONMENTS, 4, 0, GPU) for _ in range(2))
    captured.capture()
    generator = torch.Generator(GPU).manual_seed(1)
    for step in range(4):
        observation = {KEY: torch.randn(ENVIRONMENTS, OBSERVATION, generator=generator, device=GPU)}
        first = torch.full((ENVIRONMENTS,), step == 0, device=GPU)
        for policy in (eager, captured):
            policy.step(policy.action.clone(), observation, first)
        torch.testing.assert_close(captured.action, eager.action, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(captured.state.deter, eager.state.deter, rtol=1e-4, atol=1e-5)


def test_weights_written_in_place_reach_a_captured_policy():
    network = noise_agent(learner_config("dreamer", 512, 16), OBSERVATION, ACTION, GPU)
    policy = Policy(network, {KEY: Space((OBSERVATION,))}, ENVIRONMENTS, ENVIRONMENTS, 0, GPU)
    policy.capture()
    observation = {KEY: torch.ones(ENVIRONMENTS, OBSERVATION, device=GPU)}
    first = torch.ones(ENVIRONMENTS, dtype=torch.bool, device=GPU)
    with torch.no_grad():
        for parameter in network.actor.parameters():
            parameter.zero_()
    policy.step(torch.zeros_like(policy.action), observation, first)
    assert not policy.action.any(), "an actor of zeros takes the action zero where it does not explore"
