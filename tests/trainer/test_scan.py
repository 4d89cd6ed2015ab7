"""Weight gradients that are computed once behind the scan equal those that autograd adds up step by step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.trainer.agents import (
    KEY,
    assert_equal_to_rounding,
    end_episode,
    noise_of,
    random_rows,
    sequences_of,
    small_agent,
)
from trainer.agents.base import Agent, Noise
from trainer.replay import Sequences
from trainer.world_model.rssm import Rollout, State, bound_action, stacked
from trainer.world_model.scan import directly

T, B = 6, 3

Roll = Callable[[Agent, Sequences, Noise], Rollout]

every_kind = pytest.mark.parametrize(
    "overrides",
    [
        ["agent=dreamer_v3"],
        ["agent=dreamer_v3", "agent.world_model.recurrence=gru"],
        ["agent=dreamer"],
        # Widths that no matrix likes: all layers are padded.
        [
            "agent=dreamer",
            "agent.world_model.deter=13",
            "agent.world_model.hidden=11",
            "agent.world_model.stochastic=5",
        ],
    ],
    ids=["block_gru-categorical", "gru-categorical", "gru-gaussian", "gru-gaussian-odd"],
)


def scanned(agent: Agent, sequences: Sequences, noise: Noise) -> Rollout:
    rows = sequences.rows
    embedding = agent.world_model.encode(rows.observation)
    return agent.world_model.rssm.observe(
        sequences.context, rows.action, embedding, rows.is_first, noise.departure, noise.arrival
    )


def looped(agent: Agent, sequences: Sequences, noise: Noise) -> Rollout:
    """The recurrence as one writes it down, with layers called directly."""
    rssm, rows, state = agent.world_model.rssm, sequences.rows, sequences.context
    embedding = agent.world_model.encode(rows.observation)
    arrivals: list[State] = []
    departures: list[State] = []
    posteriors: list[Tensor] = []
    for t in range(len(rows.reward)):
        first = rows.is_first[t].unsqueeze(-1)
        arrived = rssm.core(state, rssm.core.embed_action(bound_action(rows.action[t])), directly)
        deter = torch.where(first, rssm.first_deter(), arrived)
        posterior = rssm.posterior(deter, rssm.posterior_embedding(embedding[t]), directly)
        state = State(deter, rssm.latent.sample(posterior, noise.departure[t]))
        imagined = rssm.latent.sample(rssm.prior(arrived), noise.arrival[t])
        arrivals.append(State(arrived, torch.where(first, imagined, state.stoch)))
        departures.append(state)
        posteriors.append(posterior)
    departure = stacked(departures)
    return Rollout(departure, stacked(arrivals), torch.stack(posteriors), rssm.prior(departure.deter))


def tensors(rollout: Rollout) -> list[Tensor]:
    return [*rollout.departure, *rollout.arrival, rollout.posterior, rollout.prior]


def gradients(roll: Roll, agent: Agent, *, autocast: bool = False) -> dict[str, Tensor]:
    """Of everything that the rollout depends on, where every number of it counts."""
    rows = end_episode(end_episode(random_rows(T, B), 2, terminal=False), 4, terminal=True)
    rows.is_first[3, 0] = rows.is_last[3, 0] = True  # one that ends while the others go on
    sequences = sequences_of(agent, rows)
    inputs = {"action": rows.action, "observation": rows.observation[KEY], **sequences.context._asdict()}
    for tensor in inputs.values():
        tensor.requires_grad_()
    generator = torch.Generator().manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rollout = roll(agent, sequences, noise_of(agent, T, B))
        total = sum(
            (tensor.float() * torch.randn(tensor.shape, generator=generator)).sum() for tensor in tensors(rollout)
        )
    parameters = dict(agent.world_model.named_parameters())
    named = {**inputs, **{name: p for name, p in parameters.items() if name.startswith(("rssm", "encoder"))}}
    return dict(zip(named, torch.autograd.grad(total, list(named.values())), strict=True))


@every_kind
def test_the_scan_gives_what_a_plain_loop_gives(overrides: list[str]):
    agent = small_agent(*overrides)
    rows = end_episode(random_rows(T, B), 2, terminal=False)
    one, two = (roll(agent, sequences_of(agent, rows), noise_of(agent, T, B)) for roll in (scanned, looped))
    torch.testing.assert_close(tensors(one), tensors(two))


@every_kind
def test_gradients_of_all_weights_and_inputs_equal_a_plain_loops(overrides: list[str]):
    agent = small_agent(*overrides)
    scan, loop = (gradients(roll, agent) for roll in (scanned, looped))
    for name, gradient in loop.items():
        assert gradient.any(), f"nothing reaches {name}"
        assert_equal_to_rounding(scan[name], gradient, name)


@every_kind
def test_under_autocast_gradients_come_back_in_the_weights_type_and_as_exact_as_a_loops(overrides: list[str]):
    agent = small_agent(*overrides)
    exact, scan, loop = (
        gradients(looped, agent),
        gradients(scanned, agent, autocast=True),
        gradients(looped, agent, autocast=True),
    )

    def error(found: dict[str, Tensor]) -> float:
        """Of all gradients together, relative: single ones are mere rounding in bfloat16."""
        difference = torch.cat([(found[name] - exact[name]).flatten() for name in exact])
        return float(difference.norm() / torch.cat([gradient.flatten() for gradient in exact.values()]).norm())

    assert {gradient.dtype for gradient in scan.values()} == {torch.float32}
    assert error(scan) < 1.5 * error(loop) + 0.01


def test_a_second_backward_pass_of_another_batch_starts_afresh():
    """Inputs that the layers of one scan were given are no other scan's."""
    agent = small_agent("agent=dreamer")
    first = gradients(scanned, agent)
    again = gradients(scanned, agent)
    assert all(torch.equal(first[name], again[name]) for name in first)
