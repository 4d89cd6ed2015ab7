"""Dreamer's losses and the gradients of all its weights, held against TorchRL's on the same weights and noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn

from benchmarks.reference_networks import ReferenceNetworks, Sizes, make_losses, make_networks
from tests.benchmarks.noise import noise_from
from tests.trainer.agents import (
    ACTION,
    KEY,
    OBSERVATION,
    assert_equal_to_rounding,
    end_episode,
    noise_of,
    observe,
    random_rows,
    small_agent,
)
from trainer.agents import make_agent
from trainer.agents.base import Noise
from trainer.agents.dreamer import Dreamer
from trainer.config import Config, compose
from trainer.replay import Sequences
from trainer.world_model.layers import Linear
from trainer.world_model.rssm import State

WORLD_MODEL = ("encoder", "decoder", "prior", "posterior", "reward")
FULL = Sizes()
ODD = Sizes(state=5, belief=13, embedding=17, width=11)  # every width is padded


@dataclass(frozen=True)
class Outcome:
    """Losses by the names of our log, and gradients by the reference's networks and their parameters."""

    losses: Mapping[str, Tensor]
    gradients: Mapping[str, Mapping[str, Tensor]]


def make_dreamer(sizes: Sizes, horizon: int) -> Dreamer:
    torch.manual_seed(0)
    world_model = {
        "deter": sizes.belief,
        "hidden": sizes.belief,
        "stochastic": sizes.state,
        "units": sizes.width,
        "embedding": sizes.embedding,
    }
    overrides = [f"agent.world_model.{key}={value}" for key, value in world_model.items()]
    config = Config.of(compose(["agent=dreamer", f"agent.behaviour.imagination_horizon={horizon}", *overrides]))
    agent = make_agent(config.agent, OBSERVATION, ACTION)
    assert isinstance(agent, Dreamer)
    return agent


def as_reference(agent: Dreamer, of: Callable[[nn.Parameter], Tensor]) -> dict[str, dict[str, Tensor]]:
    """What `of` gives for each of the agent's parameters, as the reference's networks and parameters are laid out.

    Without the padding. Heads read the recurrent state and then the sample here, and the other way round there.
    """
    model, rssm = agent.world_model, agent.world_model.rssm

    def weight(layer: Linear) -> Tensor:
        return of(layer.weight)[: layer.outputs, : layer.inputs]

    def bias(layer: Linear) -> Tensor:
        assert layer.bias is not None
        return of(layer.bias)[: layer.outputs]

    def sample_first(first: Tensor) -> Tensor:
        deter, stoch, _ = first.tensor_split((rssm.deter, rssm.deter + rssm.latent.width), -1)
        return torch.cat([stoch, deter], -1)

    def mlp(network: nn.Module, prefix: str = "", *, head: bool = True) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for number, layer in enumerate(module for module in network.modules() if isinstance(module, Linear)):
            matrix = weight(layer)
            named[f"{prefix}{2 * number}.weight"] = sample_first(matrix) if head and number == 0 else matrix
            named[f"{prefix}{2 * number}.bias"] = bias(layer)
        return named

    core = rssm.core
    prior = {
        "rnn.weight_ih": weight(core.input_gates),
        "rnn.weight_hh": weight(core.state_gates),
        "rnn.bias_ih": bias(core.input_gates),
        "rnn.bias_hh": bias(core.state_gates),
        "action_state_projector.0.weight": torch.cat([weight(core.from_stoch), weight(core.from_action)], -1),
        "action_state_projector.0.bias": bias(core.from_stoch),
        **mlp(rssm.prior_head, "rnn_to_prior_projector.", head=False),
    }
    first = torch.cat([weight(rssm.posterior_deter), weight(rssm.posterior_embedding)], -1)
    posterior = {
        "obs_rnn_to_post_projector.0.weight": first,
        "obs_rnn_to_post_projector.0.bias": bias(rssm.posterior_embedding),
        "obs_rnn_to_post_projector.2.weight": weight(rssm.posterior_output),
        "obs_rnn_to_post_projector.2.bias": bias(rssm.posterior_output),
    }
    return {
        "encoder": mlp(model.encoder, head=False),
        "decoder": mlp(model.decoder),
        "prior": prior,
        "posterior": posterior,
        "reward": mlp(model.reward_head),
        "actor_body": mlp(agent.actor.network, "backbone."),
        "value_body": mlp(agent.value),
    }


def make_sequences(agent: Dreamer, length: int, batch: int) -> Sequences:
    """Without episode ends: TorchRL's rollout knows none."""
    generator = torch.Generator().manual_seed(1)
    rssm = agent.world_model.rssm
    context = State(
        torch.tanh(torch.randn(batch, rssm.deter, generator=generator)),
        torch.randn(batch, rssm.latent.width, generator=generator),
    )
    rows = random_rows(length + 1, batch)
    return Sequences(rows, context, torch.zeros(batch, dtype=torch.long), torch.arange(batch))


def ours(agent: Dreamer, sequences: Sequences, noise: Noise) -> Outcome:
    loss = agent.loss(sequences, noise)
    loss.total.backward()
    gradients = as_reference(agent, lambda parameter: parameter.grad)
    losses = {name: value for name, value in loss.metrics.items() if name.startswith("loss/")}
    return Outcome(losses, gradients)


def transitions(sequences: Sequences, sizes: Sizes) -> TensorDict:
    """Our rows as TorchRL's: `[B, T]`, and what follows an action stands under `next`.

    A row here is the action and what came after it, so that it is a whole row there. The latents before it are known
    for the first row alone, which is all that TorchRL's rollout reads.
    """
    rows = sequences.rows.window(1)
    length, batch = rows.reward.shape
    data = TensorDict(
        {
            "state": torch.full((batch, length, sizes.state), torch.nan),
            "belief": torch.full((batch, length, sizes.belief), torch.nan),
            "action": rows.action.transpose(0, 1),
            "next": {
                KEY: rows.observation[KEY].transpose(0, 1),
                "reward": rows.reward.T.unsqueeze(-1),
                "done": torch.zeros(batch, length, 1, dtype=torch.bool),
            },
        },
        batch_size=[batch, length],
    )
    data["state"][:, 0], data["belief"][:, 0] = sequences.context.stoch, sequences.context.deter
    return data


def handed_out(noise: Noise, batch: int) -> Iterator[Tensor]:
    """Our noise in the order in which TorchRL asks for it; imagined states are sorted by sequence there."""
    for arrival, departure in zip(noise.arrival, noise.departure, strict=True):
        yield arrival  # a sample of the prior, of which no loss takes notice
        yield departure
    for action, imagined in zip(noise.action, noise.imagined, strict=True):
        yield action.unflatten(0, (-1, batch)).transpose(0, 1).flatten(0, 1)
        yield imagined.unflatten(0, (-1, batch)).transpose(0, 1).flatten(0, 1)


def theirs(networks: ReferenceNetworks, sequences: Sequences, noise: Noise, sizes: Sizes, horizon: int) -> Outcome:
    losses = make_losses(networks)
    losses.actor.imagination_horizon = horizon
    draws = handed_out(noise, sequences.rows.reward.shape[1])

    def draw(shape: torch.Size) -> Tensor:
        drawn = next(draws)
        assert drawn.shape == shape
        return drawn

    with noise_from(draw):
        model, data = losses.world_model(transitions(sequences, sizes))
        # Imagination starts where the agent is after each row.
        after = data["next"].select("state", "belief").reshape(-1)
        actor, imagined = losses.actor(after)
    assert next(draws, None) is None, "all noise was used"
    value, _ = losses.value(imagined)
    kl, reconstruction, reward = (model[f"loss_model_{name}"].squeeze() for name in ("kl", "reco", "reward"))
    gradients: dict[str, dict[str, Tensor]] = {}
    for total, parts in (
        (kl + reconstruction + reward, WORLD_MODEL),
        (actor["loss_actor"], ("actor_body",)),
        (value["loss_value"], ("value_body",)),
    ):
        weights = {part: dict(getattr(networks, part).named_parameters()) for part in parts}
        found = iter(torch.autograd.grad(total, [weight for named in weights.values() for weight in named.values()]))
        gradients |= {part: {name: next(found) for name in named} for part, named in weights.items()}
    named = {
        "loss/total": kl + reconstruction + reward + actor["loss_actor"] + value["loss_value"],
        "loss/divergence": kl,
        "loss/reconstruction": reconstruction,
        "loss/reward": reward,
        "loss/actor": actor["loss_actor"],
        "loss/value": value["loss_value"],
    }
    return Outcome({name: value.detach() for name, value in named.items()}, gradients)


def copied_to_reference(agent: Dreamer, sizes: Sizes) -> ReferenceNetworks:
    networks = make_networks(OBSERVATION[KEY].shape[0], ACTION, key=KEY, sizes=sizes)
    for part, tensors in as_reference(agent, lambda parameter: parameter.detach()).items():
        getattr(networks, part).load_state_dict(tensors)
    return networks


@pytest.mark.parametrize(
    ("sizes", "horizon", "exploration", "actor_share"),
    [
        (ODD, 4, 0.2, 4e-6),
        (FULL, 15, 0.2, 4e-6),
        # Deviations begin at 5, so that many actions are saturated. TorchRL's end at 1 - 1e-6 and keep a slope of 2e-6
        # there, ours reach 1 and a slope of 0.
        (FULL, 15, 1.0, 1e-4),
    ],
    ids=["odd sizes", "full size", "full size with saturated actions"],
)
def test_losses_and_gradients_of_every_weight_equal_torchrls(
    sizes: Sizes, horizon: int, exploration: float, actor_share: float
):
    agent, length, batch = make_dreamer(sizes, horizon), 6, 3
    sequences, noise = make_sequences(agent, length, batch), noise_of(agent, length, batch)
    noise = noise._replace(action=exploration * noise.action)
    networks = copied_to_reference(agent, sizes)
    mine, reference = ours(agent, sequences, noise), theirs(networks, sequences, noise, sizes, horizon)
    assert mine.losses.keys() == reference.losses.keys()
    for name, expected in reference.losses.items():
        torch.testing.assert_close(mine.losses[name], expected, msg=lambda text, name=name: f"{name}: {text}")
    for part, gradients in reference.gradients.items():
        assert mine.gradients[part].keys() == gradients.keys()
        for name, expected in gradients.items():
            assert expected.any(), f"nothing trains {part}.{name}"
            share = actor_share if part == "actor_body" else 4e-6
            assert_equal_to_rounding(mine.gradients[part][name], expected, f"{part}.{name}", share)


def test_the_default_sizes_are_those_of_torchrls_recipe():
    default, full = make_agent(Config.of(compose(["agent=dreamer"])).agent, OBSERVATION, ACTION), make_dreamer(FULL, 15)
    assert vars(default.config.world_model) == vars(full.config.world_model)
    assert vars(default.config.behaviour) == vars(full.config.behaviour)


def test_below_the_free_nats_the_divergence_teaches_nothing():
    agent = make_dreamer(ODD, 4)
    for layer in (agent.world_model.rssm.prior_head[-1], agent.world_model.rssm.posterior_output):
        nn.init.zeros_(layer.weight)  # prior and posterior are one
    loss = ours(agent, make_sequences(agent, 5, 3), noise_of(agent, 5, 3))
    assert loss.losses["loss/divergence"] == 3
    assert not loss.gradients["prior"]["rnn_to_prior_projector.2.bias"].any()


# Episode ends, of which TorchRL's losses know nothing.


def test_an_episode_that_begins_within_a_sequence_is_to_torchrl_a_sequence_that_begins_with_nothing():
    agent, start, length, batch = make_dreamer(ODD, 4), 2, 5, 3
    whole, noise = make_sequences(agent, length, batch), noise_of(agent, length, batch)
    end_episode(whole.rows, 1 + start, terminal=False)  # behind the row of context
    mine = ours(agent, whole, noise).losses
    networks = copied_to_reference(agent, ODD)
    nothing = agent.initial(batch)
    before = Sequences(whole.rows.map(lambda field: field[: 1 + start]), *whole[1:])
    rows = whole.rows.window(start)
    rows.action[1] = 0  # what led to the new episode's first row is no part of it
    after = Sequences(rows, nothing, *whole[2:])
    parts = []
    for sequences, rows_of in ((before, slice(None, start)), (after, slice(start, None))):
        count = len(sequences.rows.reward) - 1
        piece = noise_of(agent, count, batch)._replace(
            departure=noise.departure[rows_of], arrival=noise.arrival[rows_of]
        )
        parts.append((count / length, theirs(networks, sequences, piece, ODD, 4).losses))
    for name in ("loss/divergence", "loss/reconstruction"):
        torch.testing.assert_close(mine[name], sum(share * losses[name] for share, losses in parts))


def ended_rows(*, terminal: bool) -> Sequences:
    rows = end_episode(random_rows(7, 3), 3, terminal=terminal)
    agent = small_agent("agent=dreamer")
    return Sequences(rows, agent.initial(3), torch.zeros(3, dtype=torch.long), torch.arange(3))


def loss_of(sequences: Sequences) -> Mapping[str, Tensor]:
    agent = small_agent("agent=dreamer")
    return agent.loss(sequences, noise_of(agent, 6, 3)).metrics


@pytest.mark.parametrize("terminal", [True, False], ids=["terminated", "truncated"])
def test_ended_episodes_spoil_no_loss_and_no_gradient(terminal: bool):
    agent = small_agent("agent=dreamer")
    loss = agent.loss(ended_rows(terminal=terminal), noise_of(agent, 6, 3))
    loss.total.backward()
    assert all(torch.isfinite(metric) for metric in loss.metrics.values())
    assert all(torch.isfinite(parameter.grad).all() for parameter in agent.parameters())


def test_the_first_dreamer_makes_no_difference_between_termination_and_truncation():
    assert loss_of(ended_rows(terminal=True)) == loss_of(ended_rows(terminal=False))


def test_the_observation_after_a_reset_is_what_is_reconstructed_and_nothing_stands_for_the_lost_one():
    """The decoder meets each row's own observation once, decoded from the latent that was encoded from it."""
    agent, sequences = small_agent("agent=dreamer"), ended_rows(terminal=True)
    rows = sequences.rows.window(1)
    rollout = observe(agent, rows, sequences.context)
    error = agent.world_model.decoder(rollout.departure.features()) - rows.observation[KEY]
    torch.testing.assert_close(loss_of(sequences)["loss/reconstruction"], error.square().sum(-1).mean())


def test_an_ended_episodes_last_reward_is_learnt_from_the_latent_arrived_at_and_one_of_no_step_is_not():
    sequences = ended_rows(terminal=True)
    sequences.rows.is_first[5, 1] = True  # the run began anew there: no step led to that row
    agent = small_agent("agent=dreamer")
    rows = sequences.rows.window(1)
    rollout = observe(agent, rows, sequences.context)
    error = (agent.world_model.reward(rollout.arrival.features()) - rows.reward).square()
    error[4, 1] = 0
    torch.testing.assert_close(loss_of(sequences)["loss/reward"], error.mean())
    last, other = (agent.world_model.reward(state.features())[2] for state in (rollout.arrival, rollout.departure))
    assert not torch.allclose(last, other), "the new episode's latent would have given another"
