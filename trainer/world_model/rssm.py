"""The recurrent state-space model, in time-major plain tensors.

Row t holds the action that led to it, and its observation is the one after any reset (see `trainer.replay`). A row
that ended an episode therefore has two latents: the *arrival*, rolled forward from the row before, which the row's
reward and termination belong to, and the *departure*, encoded from the new episode's first observation with nothing
before it. On all other rows the two are one.

Source: DreamerV3, Hafner et al. 2023, eq. 3; layer by layer danijar/dreamerv3, dreamerv3/rssm.py::RSSM, and for
`gru` with Gaussian latents torchrl/modules/models/model_based.py::RSSMPrior and RSSMPosterior.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.compilation import Compilable, region
from trainer.errors import ConfigError
from trainer.world_model.latents import Latent
from trainer.world_model.layers import ALIGNMENT, MLP, Activation, BlockLinear, Dense, Linear
from trainer.world_model.scan import Apply, Scan, Tapped, directly


class State(NamedTuple):
    """A latent state: `deter` `[..., D]`, float32, and a sample `stoch` `[..., Z]`."""

    deter: Tensor
    stoch: Tensor

    def window(self, start: int) -> State:
        """Steps `start` and later, of states `[T, …]`."""
        return State(*(field[start:] for field in self))

    def flatten(self) -> State:
        """States `[T, B, …]` as one batch."""
        return State(*(field.flatten(0, 1) for field in self))

    def detach(self) -> State:
        return State(*(field.detach() for field in self))

    def root(self) -> State:
        """The same numbers to start a rollout from.

        They take a gradient, read or not, where all states that follow will: what is compiled for those then serves
        the first one as well.
        """
        if not torch.is_grad_enabled():
            return self
        return State(*(field if field.requires_grad else field.detach().requires_grad_() for field in self))

    def features(self) -> Tensor:
        """What heads read: `[..., aligned(D + Z)]`, zeros at the end where there is room left."""
        parts = [self.deter, self.stoch]
        missing = -(self.deter.shape[-1] + self.stoch.shape[-1]) % ALIGNMENT
        if missing:
            parts.append(self.deter.new_zeros(*self.deter.shape[:-1], missing))
        return torch.cat(parts, -1)


def stacked(states: Sequence[State]) -> State:
    """States of one step each as states `[T, …]`."""
    return State(*(torch.stack(field) for field in zip(*states, strict=True)))


class Rollout(NamedTuple):
    """Latents of a sequence, `[T, B, …]` each.

    Attributes:
        departure: Posterior of row t, after any reset; what the agent acts from.
        arrival: What row t's reward and termination belong to: the prior's sample where row t ended an episode, the
            departure everywhere else.
        posterior: Distribution of the departure's latents, `[T, B, P]`.
        prior: Distribution that the dynamics gave them, `[T, B, P]`.
    """

    departure: State
    arrival: State
    posterior: Tensor
    prior: Tensor


class BlockGRU(nn.Module):
    """A gated recurrent unit whose gates are block-diagonal in the recurrent state.

    Source: DreamerV3, p. 20; danijar/dreamerv3, dreamerv3/rssm.py::RSSM._core.
    """

    def __init__(self, deter: int, hidden: int, stoch: int, action: int, blocks: int, activation: str) -> None:
        super().__init__()
        self.blocks = blocks
        self.from_deter, self.deter_activation = Linear(deter, hidden), Activation(activation, hidden)
        self.from_stoch, self.stoch_activation = Linear(stoch, hidden), Activation(activation, hidden)
        self.from_action = Dense(action, hidden, activation)
        self.mix, self.mix_activation = (
            BlockLinear(deter + blocks * 3 * hidden, deter, blocks),
            Activation(activation, deter),
        )
        self.gates = BlockLinear(deter, 3 * deter, blocks)

    @property
    def recurrent(self) -> tuple[Linear | BlockLinear, ...]:
        """Layers in the order in which `forward` applies them."""
        return (self.from_deter, self.from_stoch, self.mix, self.gates)

    def embed_action(self, action: Tensor) -> Tensor:
        """The part that needs no state, `[..., A]` to `[..., hidden]`: done for whole sequences at once."""
        return self.from_action(action)

    def forward(self, state: State, action: Tensor, apply: Apply = directly) -> Tensor:
        """Next `deter` `[B, D]`, float32, from a state and an embedded action."""
        batch, width = state.deter.shape
        deter = self.deter_activation(apply(self.from_deter, state.deter))
        stoch = self.stoch_activation(apply(self.from_stoch, state.stoch))
        inputs = torch.cat([deter, stoch, action.to(deter.dtype)], -1)
        # Every block sees its own slice of deter and all of the inputs.
        blocks = state.deter.to(deter.dtype).view(batch, self.blocks, -1)
        shared = inputs.unsqueeze(1).expand(-1, self.blocks, -1)
        mixed = self.mix_activation(apply(self.mix, torch.cat([blocks, shared], -1).flatten(1)))
        gates = apply(self.gates, mixed).float().view(batch, self.blocks, 3, -1).unbind(2)
        reset, candidate, update = (gate.reshape(batch, width) for gate in gates)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        return torch.lerp(state.deter, candidate, torch.sigmoid(update - 1))


class GRU(nn.Module):
    """The gated recurrent unit of earlier Dreamers, with the same interface as `BlockGRU`.

    `input_gates` and `state_gates` are the weights of `torch.nn.GRUCell`: reset, update, candidate.
    """

    def __init__(self, deter: int, hidden: int, stoch: int, action: int, activation: str) -> None:
        super().__init__()
        self.from_stoch = Linear(stoch, hidden, beside=action)
        self.from_action = Linear(action, hidden, bias=False, beside=stoch)
        self.activation = Activation(activation, hidden)
        self.input_gates, self.state_gates = Linear(hidden, 3 * deter), Linear(deter, 3 * deter)

    @property
    def recurrent(self) -> tuple[Linear | BlockLinear, ...]:
        """Layers in the order in which `forward` applies them."""
        return (self.from_stoch, self.input_gates, self.state_gates)

    def embed_action(self, action: Tensor) -> Tensor:
        """The part that needs no state, `[..., A]` to `[..., hidden]`."""
        return self.from_action(action)

    def forward(self, state: State, action: Tensor, apply: Apply = directly) -> Tensor:
        """Next `deter` `[B, D]`, float32, from a state and an embedded action."""
        inputs = self.activation(apply(self.from_stoch, state.stoch) + action)
        gates = apply(self.input_gates, inputs).float().chunk(3, -1)
        own = apply(self.state_gates, state.deter).float().chunk(3, -1)
        reset, update = torch.sigmoid(gates[0] + own[0]), torch.sigmoid(gates[1] + own[1])
        candidate = torch.tanh(gates[2] + reset * own[2])
        return torch.lerp(candidate, state.deter, update)


class RSSM(Compilable):
    """Dynamics, prior and posterior.

    Args:
        latent: Kind of latents.
        action: Width of the action.
        embedding: Width of the encoder's output.
        recurrence: `block_gru` or `gru`.
        deter: Width of the recurrent state.
        blocks: Blocks of the block GRU.
        hidden: Width inside.
        prior_layers: Layers between the recurrent state and the prior.
        activation: Of all layers, see `trainer.world_model.layers.ACTIVATIONS`.
    """

    def __init__(
        self,
        latent: Latent,
        *,
        action: int,
        embedding: int,
        recurrence: str,
        deter: int,
        blocks: int,
        hidden: int,
        prior_layers: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.latent, self.deter, self._action = latent, deter, action
        if recurrence == "block_gru":
            self.core: BlockGRU | GRU = BlockGRU(deter, hidden, latent.width, action, blocks, activation)
        elif recurrence == "gru":
            self.core = GRU(deter, hidden, latent.width, action, activation)
        else:
            raise ConfigError(f"agent.world_model.recurrence: {recurrence!r} is neither block_gru nor gru")
        self.prior_head = MLP(deter, hidden, prior_layers, activation, latent.parameters)
        # One layer over (deter, embedding), its weight in two so that the second half runs outside the recurrence.
        self.posterior_deter = Linear(deter, hidden, bias=False, beside=embedding)
        self.posterior_embedding = Linear(embedding, hidden, beside=deter)
        self.posterior_activation = Activation(activation, hidden)
        self.posterior_output = Linear(hidden, latent.parameters)

    def initial(self, batch: int) -> State:
        """The state before anything happened: zeros."""
        device = self.posterior_deter.weight.device
        return State(
            torch.zeros(batch, self.deter, device=device), torch.zeros(batch, self.latent.width, device=device)
        )

    def prior(self, deter: Tensor) -> Tensor:
        """Distribution of the latents given the recurrent state alone, `[..., P]`."""
        return self.latent.distribution(self.prior_head(deter))

    def posterior(self, deter: Tensor, embedded: Tensor, apply: Apply = directly) -> Tensor:
        """Distribution given the observation too (`embedded` from `posterior_embedding`), `[B, P]`."""
        hidden = self.posterior_activation(apply(self.posterior_deter, deter) + embedded)
        return self.latent.distribution(apply(self.posterior_output, hidden))

    def first_deter(self) -> Tensor:
        """The recurrent state of a first row, `[1, D]`: latent and action zeroed, then one step of the core."""
        nothing = self.initial(1)
        return self.core(nothing, self.core.embed_action(nothing.deter.new_zeros(1, self._action)))

    def imagine(self, state: State, action: Tensor, noise: Tensor) -> State:
        """One step without observation: `state` `[B, …]`, `action` `[B, A]`, `noise` of `latent.draw(B)`."""
        deter = self.core(state, self.core.embed_action(bound_action(action)))
        return State(deter, self.latent.sample(self.prior(deter), noise))

    def advance(self, state: State, action: Tensor, embedding: Tensor, is_first: Tensor, noise: Tensor) -> State:
        """One step with observation: the departure of a row, as the acting policy needs it.

        Args:
            state: Departure of the row before, `[B, …]`.
            action: Action that led to the row, `[B, A]`.
            embedding: Encoded observation of the row, `[B, E]`.
            is_first: Rows that begin an episode, `[B]`, bool: what came before counts for nothing there.
            noise: Of the sample, `latent.draw(B)`.
        """
        deter = self.core(state, self.core.embed_action(bound_action(action)))
        deter = torch.where(is_first.unsqueeze(-1), self.first_deter(), deter)
        distribution = self.posterior(deter, self.posterior_embedding(embedding))
        return State(deter, self.latent.sample(distribution, noise))

    def observe(
        self, state: State, action: Tensor, embedding: Tensor, is_first: Tensor, noise: Tensor, arrival_noise: Tensor
    ) -> Rollout:
        """Latents of whole sequences.

        Args:
            state: Departure of the row before the first one, `[B, …]`.
            action: Action that led to row t, `[T, B, A]`.
            embedding: Encoded observation of row t, `[T, B, E]`.
            is_first: Row t begins an episode, `[T, B]`, bool.
            noise: Of the departures' samples, `latent.draw(T, B)`.
            arrival_noise: Of the arrivals' samples, `latent.draw(T, B)`.
        """
        layers = (*self.core.recurrent, self.posterior_deter, self.posterior_output)
        actions, embedded, first_deter = self._before_steps(action, embedding)
        scan = Scan(layers, *is_first.shape, embedded.dtype)
        steps = zip(
            actions.unbind(0),
            embedded.unbind(0),
            is_first.unsqueeze(-1).unbind(0),
            noise.unbind(0),
            scan.biases,
            strict=True,
        )
        arrivals, departures, posteriors = [], [], []
        state = state.root()
        for row_action, row_embedded, first, row_noise, biases in steps:
            arrived, state, distribution, inputs = self._observe_step(
                state, row_action, row_embedded, first, first_deter, row_noise, scan.weights, biases
            )
            scan.keep(inputs)
            arrivals.append(arrived)
            departures.append(state)
            posteriors.append(distribution)
        return self._after_steps(arrivals, departures, posteriors, is_first, arrival_noise)

    @region
    def _before_steps(self, action: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What needs no state: embedded actions and observations `[T, B, hidden]`, and `first_deter`."""
        actions = self.core.embed_action(bound_action(action))
        return actions, self.posterior_embedding(embedding), self.first_deter()

    @region
    def _observe_step(
        self,
        state: State,
        action: Tensor,
        embedded: Tensor,
        first: Tensor,
        first_deter: Tensor,
        noise: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
    ) -> tuple[Tensor, State, Tensor, Sequence[Tensor]]:
        """Arrival's deter, departure, its distribution, and what the layers were given; arguments of one row."""
        tapped = Tapped(weights, biases)
        arrived = self.core(state, action, tapped)
        deter = torch.where(first, first_deter, arrived)
        distribution = self.posterior(deter, embedded, tapped)
        return arrived, State(deter, self.latent.sample(distribution, noise)), distribution, tapped.inputs

    @region
    def _after_steps(
        self,
        arrivals: Sequence[Tensor],
        departures: Sequence[State],
        posteriors: Sequence[Tensor],
        is_first: Tensor,
        noise: Tensor,
    ) -> Rollout:
        """The rollout of what `_observe_step` gave row by row; `noise` of the arrivals' samples."""
        departure, deter = stacked(departures), torch.stack(list(arrivals))
        imagined = self.latent.sample(self.prior(deter), noise)
        arrival = State(deter, torch.where(is_first.unsqueeze(-1), imagined, departure.stoch))
        return Rollout(departure, arrival, torch.stack(list(posteriors)), self.prior(departure.deter))


def bound_action(action: Tensor) -> Tensor:
    """Actions as the simulator gets them, within [-1, 1]: a sample of the actor's normal can lie outside.

    Source: danijar/dreamerv3, dreamerv3/rssm.py (`action /= sg(max(1, abs(action)))`).
    """
    return action / action.detach().abs().clamp_min(1)
