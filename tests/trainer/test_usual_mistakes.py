"""The ten usual mistakes of Dreamer implementations. Each test puts its mistake back and must then fail.

Where both agents could make a mistake, both are checked.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.trainer.agents import (
    ACTION,
    CPU,
    KEY,
    OBSERVATION,
    debug_config,
    end_episode,
    make_replay,
    noise_of,
    observe,
    random_rows,
    sequences_of,
    small_agent,
    state_of,
)
from tests.trainer.mistakes import mistake, must_fail
from trainer.agents import actor_critic, dreamer, dreamer_v3, make_agent, returns
from trainer.agents.base import Agent
from trainer.agents.dreamer_v3 import DreamerV3
from trainer.agents.returns import ReturnScale
from trainer.collection import Collector
from trainer.replay import Replay, Rows, Sequences
from trainer.simulators.base import Step
from trainer.world_model import functional, model, rssm
from trainer.world_model.latents import Categorical, Gaussian, Latent
from trainer.world_model.model import WorldModel
from trainer.world_model.rssm import RSSM, Rollout, State

T, B = 6, 3

both_agents = pytest.mark.parametrize("agent", ["dreamer_v3", "dreamer"])


@contextlib.contextmanager
def recorded(module: ModuleType, name: str) -> Iterator[list[tuple[Any, ...]]]:
    """Positional arguments that the module's function `name` gets, call by call."""
    seen: list[tuple[Any, ...]] = []
    kept = getattr(module, name)

    def record(*arguments: Any, **named: Any) -> Any:
        seen.append(arguments)
        return kept(*arguments, **named)

    setattr(module, name, record)
    try:
        yield seen
    finally:
        setattr(module, name, kept)


def context_of(agent: Agent, fill: float) -> State:
    state = agent.initial(B)
    return State(torch.full_like(state.deter, fill), torch.full_like(state.stoch, fill))


def model_losses(agent: Agent, rows: Rows, rollout: Rollout) -> model.WorldModelLosses:
    return model.world_model_losses(
        agent.world_model,
        rollout,
        rows.observation,
        rows.reward,
        rows.is_first,
        rows.is_last,
        rows.is_terminal,
        discount=1 - 1 / 333,
        free_nats=1.0,
    )


# 1. The latents and the previous action are reset where an episode begins, and only there.


def check_episode_starts_forget_everything(name: str) -> None:
    agent, start = small_agent(f"agent={name}"), 2
    rows = end_episode(random_rows(T, B), start, terminal=False)
    other = end_episode(random_rows(T, B), start, terminal=False)
    other.action[: start + 1] *= -1
    other.observation[KEY][:start] += 1
    one, two = (observe(agent, r, context_of(agent, c)) for r, c in ((rows, 0.2), (other, -0.5)))
    assert torch.equal(one.departure.deter[start:], two.departure.deter[start:])
    assert torch.equal(one.posterior[start:], two.posterior[start:])
    assert not torch.equal(one.arrival.deter[start], two.arrival.deter[start]), "the arrival belongs to the past"


def check_sequences_that_begin_within_an_episode_keep_their_context(name: str) -> None:
    agent, rows = small_agent(f"agent={name}"), random_rows(T, B)
    one, two = (observe(agent, rows, context_of(agent, c)) for c in (0.2, -0.5))
    assert not torch.allclose(one.departure.deter[0], two.departure.deter[0])


@both_agents
def test_1_latents_and_action_are_reset_at_episode_starts_and_not_at_sequence_starts(agent: str):
    check_episode_starts_forget_everything(agent)
    check_sequences_that_begin_within_an_episode_keep_their_context(agent)
    with mistake(RSSM, "_observe_step", "torch.where(first, first_deter, arrived)", "arrived"), must_fail():
        check_episode_starts_forget_everything(agent)
    keeps_the_action = "first, self.core(self.initial(len(arrived)), action)"
    with mistake(RSSM, "_observe_step", "first, first_deter", keeps_the_action), must_fail():
        check_episode_starts_forget_everything(agent)
    right, at_sequence_starts = "is_first.unsqueeze(-1).unbind(0)", "[is_first.new_ones(()), *is_first[1:, :, None]]"
    with mistake(RSSM, "observe", right, at_sequence_starts), must_fail():
        check_sequences_that_begin_within_an_episode_keep_their_context(agent)


@both_agents
def test_1_acting_and_learning_compute_the_same_latents(agent: str):
    """TorchRL 0.14.1 erases the first action in training and not while collecting; here both agree row by row."""
    policy = small_agent(f"agent={agent}")
    rows = end_episode(random_rows(T, B), 3, terminal=True)
    noise = noise_of(policy, T, B)
    rollout = observe(policy, rows, context_of(policy, 0.2))
    state = context_of(policy, 0.2)
    for t in range(T):
        row = rows.map(lambda field, t=t: field[t])
        state = policy.advance(state, row.action, row.observation, row.is_first, noise.departure[t])
        torch.testing.assert_close(state.deter, rollout.departure.deter[t])
        torch.testing.assert_close(state.stoch, rollout.departure.stoch[t])


# 2. A row's reward belongs to the latent that its own action led to.


class Echo:
    """A simulator whose reward is the first axis of the action that it was just given."""

    environments, observation, action, max_return = B, OBSERVATION, ACTION, None

    def reset(self) -> dict[str, Tensor]:
        return {KEY: torch.zeros(B, 3)}

    def step(self, action: Tensor) -> Step:
        no = torch.zeros(B, dtype=torch.bool)
        return Step({KEY: torch.randn(B, 3)}, action[:, 0].clone(), no, no)

    def pop_log(self) -> dict[str, list[float]]:
        return {}


def check_reward_depends_on_the_rows_own_action(name: str) -> None:
    agent, rows, row = small_agent(f"agent={name}"), random_rows(T, B), 2
    rows.action.requires_grad_()
    arrival = observe(agent, rows, context_of(agent, 0.2)).arrival
    (gradient,) = torch.autograd.grad(agent.world_model.reward(arrival.features())[row].sum(), rows.action)
    assert gradient[row].abs().sum() > 0
    assert gradient[row + 1 :].abs().sum() == 0


def check_collected_rewards_stand_beside_the_action_that_earned_them() -> None:
    rows = Collector(Echo(), small_agent(), 0, CPU).collect(T, random=True).rows
    assert torch.equal(rows.reward[1:], rows.action[1:, :, 0])


def check_returns_leave_out_the_root_reward() -> None:
    reward, value = torch.ones(4, 2), torch.zeros(4, 2)
    first = returns.lambda_returns(reward, torch.full((4, 2), 0.9), value)
    assert torch.equal(
        first, returns.lambda_returns(torch.cat([reward[:1] + 99, reward[1:]]), torch.full((4, 2), 0.9), value)
    )


@both_agents
def test_2_reward_belongs_to_the_latent_arrived_at(agent: str):
    check_reward_depends_on_the_rows_own_action(agent)
    with mistake(RSSM, "observe", "actions.unbind(0)", "[*actions[1:], actions[-1]]"), must_fail():
        check_reward_depends_on_the_rows_own_action(agent)


def test_2_reward_stands_beside_the_action_that_earned_it():
    check_collected_rewards_stand_beside_the_action_that_earned_them()
    right = "reward = self._reward_scale * step.reward"
    wrong = f"{right}; action = rows[-1].action if rows else action"  # the row gets the action of the row before
    with mistake(Collector, "collect", right, wrong), must_fail():
        check_collected_rewards_stand_beside_the_action_that_earned_them()


def test_2_returns_leave_out_the_reward_of_the_root():
    check_returns_leave_out_the_root_reward()
    with mistake(returns, "lambda_returns", "one_step = reward +", "one_step = reward.roll(1, 0) +"), must_fail():
        check_returns_leave_out_the_root_reward()


# 3. The continuation is 1 - terminated, and the discount is applied once.


def check_truncated_rows_continue() -> None:
    agent = small_agent()
    assert isinstance(agent, DreamerV3)
    rows = end_episode(random_rows(T, B), 1, terminal=False)
    rows = end_episode(rows, 3, terminal=True)
    rollout = observe(agent, rows, context_of(agent, 0.2))
    logits = agent.world_model.continuation(rollout.arrival.features())
    target = torch.full((T, B), agent.discount)
    target[3] = 0
    expected = F.binary_cross_entropy_with_logits(logits, target)
    torch.testing.assert_close(model_losses(agent, rows, rollout).continuation, expected)


def check_imagination_discounts_once() -> None:
    agent = small_agent()
    head = agent.world_model.continuation_head[-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(torch.logit(torch.tensor(0.9)))  # the continuation that the targets above teach
    with recorded(dreamer_v3, "actor_loss") as actor, recorded(dreamer_v3, "lambda_returns") as imagined:
        agent.loss(sequences_of(agent, random_rows(T + 1, B)), noise_of(agent, T, B))
    weight, discount = actor[0][3], imagined[0][1]
    torch.testing.assert_close(discount, torch.full_like(discount, 0.9))
    torch.testing.assert_close(weight[:, 0], 0.9 ** torch.arange(len(weight)).float())


def test_3_continuation_is_one_minus_terminated_with_the_discount_in_it_once():
    check_truncated_rows_continue()
    check_imagination_discounts_once()
    with mistake(model, "world_model_losses", "(~is_terminal).float()", "(~is_last).float()"), must_fail():
        check_truncated_rows_continue()
    with mistake(DreamerV3, "_behaviour_loss", "torch.sigmoid(", "self.discount * torch.sigmoid("), must_fail():
        check_imagination_discounts_once()


# 4. Free nats bound the sum over a state's latents; dynamics weigh 1, representation 0.1.


def check_free_nats_bound_the_sum_of_each_state(latent: Latent, far: Tensor, near: Tensor, each: float) -> None:
    """One state whose three latents are `each` nats away from the prior's, and one without any distance."""
    assert each < 1 < 3 * each, "one latent alone is below the free nat, three are above"
    posterior, prior = torch.stack([far, near]), torch.stack([near, near])
    dynamics, representation, divergence = functional.balanced_kl(latent.kl, posterior, prior, 1.0)
    torch.testing.assert_close(dynamics, torch.tensor([3 * each, 1.0]))
    torch.testing.assert_close(representation, torch.tensor([3 * each, 1.0]))
    torch.testing.assert_close(divergence, torch.tensor([3 * each, 0.0]))


CATEGORICAL = (
    Categorical(3, 2, 0.0),
    torch.tensor([0.95, 0.05] * 3).log(),
    torch.tensor([0.5, 0.5] * 3).log(),
    0.95 * math.log(1.9) + 0.05 * math.log(0.1),
)
GAUSSIAN = (Gaussian(3), torch.tensor([0.9] * 3 + [1.0] * 3), torch.tensor([0.0] * 3 + [1.0] * 3), 0.9**2 / 2)


@pytest.mark.parametrize(
    ("latents", "divergence", "right", "per_latent"),
    [
        (CATEGORICAL, "categorical_kl", ".sum((-2, -1))", ".sum(-1).clamp_min(1.0).sum(-1)"),
        (GAUSSIAN, "gaussian_kl", "- ratio.log()).sum(-1)", "- ratio.log()).clamp_min(1.0).sum(-1)"),
    ],
    ids=["categorical", "gaussian"],
)
def test_4_free_nats_bound_the_sum_per_state(latents: Any, divergence: str, right: str, per_latent: str):
    check_free_nats_bound_the_sum_of_each_state(*latents)
    with mistake(functional, divergence, right, per_latent), must_fail():
        check_free_nats_bound_the_sum_of_each_state(*latents)
    right, per_batch = "representation.clamp_min(", "representation.mean().clamp_min("
    with mistake(functional, "balanced_kl", right, per_batch), must_fail():
        check_free_nats_bound_the_sum_of_each_state(*latents)


def test_4_dynamics_weigh_more_than_representation():
    assert vars(debug_config().agent.loss_scale)["dynamics"] == 1.0
    assert vars(debug_config().agent.loss_scale)["representation"] == 0.1


# 5. The return scale: smoothed 5th to 95th percentile, at least 1, not centred.


def check_return_scale() -> None:
    scale = ReturnScale(decay=0.99, low=0.05, high=0.95, limit=1.0)
    spread = torch.linspace(-100, 300, 401)
    torch.testing.assert_close(scale.update(spread), torch.tensor(0.01 * 360.0))
    torch.testing.assert_close(scale.update(spread), torch.tensor((1 - 0.99**2) * 360.0))
    assert ReturnScale(decay=0.99, low=0.05, high=0.95, limit=1.0).update(spread / 1000) == 1.0


def test_5_returns_are_scaled_by_smoothed_percentiles_of_at_least_one():
    check_return_scale()
    right, extremes = "percentiles(returns, *self.percentiles)", "(returns.min(), returns.max())"
    with mistake(ReturnScale, "update", right, extremes), must_fail():
        check_return_scale()
    with mistake(ReturnScale, "update", ".clamp_min(self.limit)", ""), must_fail():
        check_return_scale()
    with mistake(ReturnScale, "update", "self.low.lerp_(low, 1 - self.decay)", "self.low.copy_(low)"), must_fail():
        check_return_scale()


def check_advantages_are_not_centred() -> None:
    """Where every action is better than the critic thought, every one is reinforced."""
    agent = small_agent()
    with torch.no_grad():
        agent.critic.network[-1].weight.zero_()
        agent.critic.network[-1].bias.zero_()
        agent.world_model.reward_head[-1].weight.zero_()
        bias = agent.world_model.reward_head[-1].bias
        bias.zero_()
        bias[len(agent.world_model.bins) // 2 + 1] = 30.0  # a reward of one bin above zero, everywhere
    with recorded(dreamer_v3, "actor_loss") as calls:
        agent.loss(sequences_of(agent, random_rows(T + 1, B)), noise_of(agent, T, B))
    advantage = calls[0][2]
    assert (advantage > 0).all()


def test_5_advantages_are_not_centred():
    check_advantages_are_not_centred()
    right = "(returns - value[:-1]) / scale"
    with mistake(DreamerV3, "_behaviour_loss", right, "(returns - returns.mean()) / scale"), must_fail():
        check_advantages_are_not_centred()


# 6. The slow critic regularises; targets come from the critic itself.


def check_targets_do_not_come_from_the_slow_critic() -> None:
    agent = small_agent()
    sequences, noise = sequences_of(agent, random_rows(T + 1, B)), noise_of(agent, T, B)
    before = agent.loss(sequences, noise).metrics
    with torch.no_grad():
        bias = agent.slow_critic.network[-1].bias
        bias.add_(torch.linspace(0, 3, len(bias)))
    after = agent.loss(sequences, noise).metrics
    assert torch.equal(before["behaviour/imagined_return"], after["behaviour/imagined_return"])
    assert torch.equal(before["behaviour/value"], after["behaviour/value"])
    assert not torch.equal(before["loss/critic"], after["loss/critic"])
    assert not torch.equal(before["loss/replay_critic"], after["loss/replay_critic"])


def test_6_slow_critic_regularises_and_is_not_the_target():
    check_targets_do_not_come_from_the_slow_critic()
    right, slow = "two_hot_mean(logits, ", "two_hot_mean(self.slow_critic(features), "
    with mistake(DreamerV3, "_behaviour_loss", right, slow), must_fail():
        check_targets_do_not_come_from_the_slow_critic()
    with mistake(actor_critic, "critic_loss", " + scale * two_hot(slow_value.detach(), bins)", ""), must_fail():
        check_targets_do_not_come_from_the_slow_critic()


def test_6_slow_critic_follows_at_its_rate():
    agent = small_agent()
    with torch.no_grad():
        agent.critic.network[-1].bias.add_(1)
    gap = agent.critic.network[-1].bias - agent.slow_critic.network[-1].bias
    agent.after_step()
    torch.testing.assert_close(agent.critic.network[-1].bias - agent.slow_critic.network[-1].bias, 0.98 * gap)


# 7. Observations are squashed, and reward and value start out at exactly zero.


def check_observations_are_squashed() -> None:
    agent = small_agent()
    observation = torch.tensor([[1e4, -1e4, 0.5]])
    expected = agent.world_model.encoder(functional.symlog(observation))
    torch.testing.assert_close(agent.world_model.encode({KEY: observation}), expected)
    rows = random_rows(T, B)
    rows.observation[KEY].mul_(1e4)
    rollout = observe(agent, rows, context_of(agent, 0.2))
    assert model_losses(agent, rows, rollout).reconstruction < 1e3


def check_reward_and_value_start_at_zero() -> None:
    torch.manual_seed(0)
    agent = make_agent(debug_config().agent, OBSERVATION, ACTION)
    features = 10 * torch.randn(50, agent.world_model.features)
    assert agent.world_model.reward(features).tolist() == [0.0] * 50
    assert agent.critic.value(features).tolist() == [0.0] * 50


def test_7_inputs_are_symlogged_and_two_hot_heads_start_at_zero():
    check_observations_are_squashed()
    check_reward_and_value_start_at_zero()
    with mistake(WorldModel, "flatten", "symlog(vector)", "vector"), must_fail():
        check_observations_are_squashed()
    with mistake(WorldModel, "encode", "self.flatten(observation)", f"observation[{KEY!r}]"), must_fail():
        check_observations_are_squashed()
    with mistake(WorldModel, "reconstruction_loss", "self.flatten(observation)", f"observation[{KEY!r}]"), must_fail():
        check_observations_are_squashed()
    # Adding up products instead of weighing differences leaves rounding errors of the outermost bins, 4.8e8.
    wrong = "return (torch.softmax(logits.float() + 0, -1) * bins * 1.0000001).sum(-1); surplus ="
    with mistake(functional, "two_hot_mean", "surplus =", wrong):
        assert functional.two_hot_mean(torch.zeros(1, 255), functional.symexp_bins(255)).abs() > 0


# 8. Stored latents are refreshed, and never into rows that have been overwritten.


def filled_replay(agent: Agent, rows: int) -> Replay:
    replay = make_replay(agent, rows, B)
    replay.extend(random_rows(rows, B), state_of(agent, rows, B, fill=0.0))
    return replay


def check_refreshed_latents_come_back_as_context(name: str) -> None:
    agent = small_agent(f"agent={name}")
    replay = filled_replay(agent, 5)
    sequences = replay.sample(8, 3, torch.Generator().manual_seed(0))
    replay.refresh(sequences, state_of(agent, 3, 8, fill=0.7))
    again = replay.sample(64, 1, torch.Generator().manual_seed(1))
    covered = {
        (int(time) + k, int(environment))
        for time, environment in zip(sequences.time, sequences.environment, strict=True)
        for k in (1, 2, 3)
    }
    for deter, time, environment in zip(again.context.deter, again.time, again.environment, strict=True):
        expected = 0.7 if (int(time), int(environment)) in covered else 0.0
        torch.testing.assert_close(deter, torch.full_like(deter, expected))


def check_recycled_rows_are_left_alone(name: str) -> None:
    agent = small_agent(f"agent={name}")
    replay = filled_replay(agent, 6)
    sequences = replay.sample(8, 3, torch.Generator().manual_seed(0))
    replay.extend(random_rows(6, B, seed=1), state_of(agent, 6, B, fill=0.2))  # every slot recycled
    replay.refresh(sequences, state_of(agent, 3, 8, fill=0.9))
    again = replay.sample(64, 1, torch.Generator().manual_seed(1))
    torch.testing.assert_close(again.context.deter, torch.full_like(again.context.deter, 0.2))


@both_agents
def test_8_latents_are_written_back_and_recycled_rows_are_guarded(agent: str):
    check_refreshed_latents_come_back_as_context(agent)
    check_recycled_rows_are_left_alone(agent)
    with mistake(Replay, "refresh", "torch.arange(1, length + 1,", "torch.arange(0, length,"), must_fail():
        check_refreshed_latents_come_back_as_context(agent)
    with mistake(Replay, "refresh", "times >= self._written[environment] - self.capacity", "times >= 0"), must_fail():
        check_recycled_rows_are_left_alone(agent)


# 9. A step that ended an episode: its reward is kept, the observation after the reset is nobody's last one.


def check_the_new_episodes_observation_does_not_reach_the_old_one(name: str) -> None:
    agent, row = small_agent(f"agent={name}"), 3
    rows = end_episode(random_rows(T, B), row, terminal=False)
    rows.observation[KEY].requires_grad_()
    rollout = observe(agent, rows, context_of(agent, 0.2))
    reward = agent.world_model.reward(rollout.arrival.features())[row].sum()
    (gradient,) = torch.autograd.grad(reward, rows.observation[KEY])
    assert gradient[row].abs().sum() == 0
    assert gradient[row - 1].abs().sum() > 0


def check_the_last_reward_is_learnt(name: str) -> None:
    agent, row = small_agent(f"agent={name}"), 3
    rows = end_episode(random_rows(T, B), row, terminal=True)
    losses = []
    for fall in (0.0, -1000.0):
        rows.reward[row] = fall
        losses.append(model_losses(agent, rows, observe(agent, rows, context_of(agent, 0.2))).reward)
    assert losses[0] != losses[1]


def check_truncation_bootstraps_from_the_old_episode() -> None:
    agent, row = small_agent(), 3
    sequences = sequences_of(agent, end_episode(random_rows(T + 1, B), row, terminal=False))
    replayed = []
    for shift in (0.0, 5.0):  # another first observation of the new episode changes nothing before it
        rows = sequences.rows.map(Tensor.clone)
        rows.observation[KEY][row] += shift
        with recorded(dreamer_v3, "critic_loss") as calls:
            agent.loss(Sequences(rows, *sequences[1:]), noise_of(agent, T, B))
        targets = calls[1][1]
        replayed.append(targets[: row - 1])  # returns of the rows before the end
    torch.testing.assert_close(*replayed)


@both_agents
def test_9_an_ended_episode_keeps_its_reward_and_sees_nothing_of_the_next(agent: str):
    check_the_new_episodes_observation_does_not_reach_the_old_one(agent)
    check_the_last_reward_is_learnt(agent)
    arrival = "arrival = State(deter, torch.where(is_first.unsqueeze(-1), imagined, departure.stoch))"
    with mistake(RSSM, "_after_steps", arrival, "arrival = departure"), must_fail():
        check_the_new_episodes_observation_does_not_reach_the_old_one(agent)
    with mistake(model, "world_model_losses", "(is_last | ~is_first).float()", "(~is_first).float()"), must_fail():
        check_the_last_reward_is_learnt(agent)


def test_9_truncation_bootstraps_from_the_old_episode():
    check_truncation_bootstraps_from_the_old_episode()
    with mistake(DreamerV3, "_replay_critic_loss", "torch.where(rows.is_last, arrival_value, ", "("), must_fail():
        check_truncation_bootstraps_from_the_old_episode()


# 10. bfloat16 stays out of divergences, two-hot losses, returns and recurrent carries; no gradient scaler.


def check_autocast_leaves_float32_where_it_matters(*overrides: str) -> None:
    agent, rows = small_agent(*overrides), random_rows(T, B)
    with (
        torch.autocast("cpu", torch.bfloat16),
        recorded(dreamer_v3 if isinstance(agent, DreamerV3) else dreamer, "lambda_returns") as calls,
    ):
        assert agent.world_model.encode(rows.observation).dtype == torch.bfloat16, "autocast is not on at all"
        rollout = observe(agent, rows, context_of(agent, 0.2))
        losses = model_losses(agent, rows, rollout) if isinstance(agent, DreamerV3) else None
        loss = agent.loss(sequences_of(agent, random_rows(T + 1, B)), noise_of(agent, T, B))
        imagined, _ = agent.imagine(rollout.departure.flatten(), noise_of(agent, T, B))
    reward, discount, value = calls[0][:3]
    tensors = {
        "carry": rollout.departure.deter,
        "posterior": rollout.posterior,
        "prior": rollout.prior,
        "imagined carry": imagined[-1].deter,
        "discount": discount,
        "imagined reward": reward,
        "value": value,
        "total": loss.total,
        **loss.metrics,
        **(losses._asdict() if losses else {}),
    }
    assert {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype != torch.float32} == {}


@pytest.mark.parametrize(
    "overrides",
    [[], ["agent.world_model.recurrence=gru"], ["agent=dreamer"]],
    ids=["block_gru", "gru", "dreamer"],
)
def test_10_bfloat16_stays_out_of_carries_divergences_and_returns(overrides: list[str]):
    check_autocast_leaves_float32_where_it_matters(*overrides)


def test_10_the_check_notices_bfloat16_carries_and_values():
    carry = "torch.lerp(state.deter, candidate, torch.sigmoid(update - 1))"
    wrong = "torch.lerp(state.deter.bfloat16(), candidate.bfloat16(), torch.sigmoid(update - 1).bfloat16())"
    with mistake(rssm.BlockGRU, "forward", carry, wrong), must_fail():
        check_autocast_leaves_float32_where_it_matters()
    carry = "torch.lerp(candidate, state.deter, update)"
    wrong = "torch.lerp(candidate.bfloat16(), state.deter.bfloat16(), update.bfloat16())"
    with mistake(rssm.GRU, "forward", carry, wrong), must_fail():
        check_autocast_leaves_float32_where_it_matters("agent=dreamer")
    mean, wrong = ".sum(-1) / likelihood.sum(-1)", ".sum(-1).bfloat16() / likelihood.sum(-1).bfloat16()"
    with mistake(functional, "two_hot_mean", mean, wrong), must_fail():
        check_autocast_leaves_float32_where_it_matters()


def test_10_nothing_scales_gradients():
    sources = Path(dreamer_v3.__file__).parents[1].rglob("*.py")
    assert not [path for path in sources if "GradScaler" in path.read_text(encoding="utf-8")]
