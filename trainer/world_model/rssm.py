"""The recurrent state-space model with categorical latents, in time-major plain tensors.

Row t holds the action that led to it, and its observation is the one after any reset (see `trainer.replay`). A row
that ended an episode therefore has two latents: the *arrival*, rolled forward from the row before, which the row's
reward and termination belong to, and the *departure*, encoded from the new episode's first observation with nothing
before it. On all other rows the two are one.

Source: DreamerV3, Hafner et al. 2023, eq. 3; layer by layer danijar/dreamerv3, dreamerv3/rssm.py::RSSM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.world_model.functional import sample_categorical, unimix
from trainer.world_model.layers import BlockLinear, Dense, Linear, RMSNorm


class State(NamedTuple):
    """A latent state: `deter` `[..., D]` and one-hot `stoch` `[..., S, C]`."""

    deter: Tensor
    stoch: Tensor

    def window(self, start: int) -> State:
        """Steps `start` and later, of states `[T, …]`."""
        return State(*(field[start:] for field in self))

    def features(self) -> Tensor:
        """What heads read: `[..., D + S * C]`."""
        return torch.cat([self.deter, self.stoch.flatten(-2)], -1)


@dataclass(frozen=True)
class Rollout:
    """Latents of a sequence, `[T, B, …]` each.

    Attributes:
        departure: Posterior of row t, after any reset; what the agent acts from.
        arrival: What row t's reward and termination belong to: the prior's sample where row t ended an episode, the
            departure everywhere else.
        posterior: Log-probabilities of the departure's latents, `[T, B, S, C]`.
        prior: Log-probabilities that the dynamics gave them, `[T, B, S, C]`.
    """

    departure: State
    arrival: State
    posterior: Tensor
    prior: Tensor


class BlockGRU(nn.Module):
    """A gated recurrent unit whose gates are block-diagonal in the recurrent state.

    Source: DreamerV3, p. 20; danijar/dreamerv3, dreamerv3/rssm.py::RSSM._core.
    """

    def __init__(self, deter: int, hidden: int, stoch: int, action: int, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.from_deter = Dense(deter, hidden)
        self.from_stoch = Dense(stoch, hidden)
        self.from_action = Dense(action, hidden)
        self.mix = BlockLinear(deter + blocks * 3 * hidden, deter, blocks)
        self.norm = RMSNorm(deter)
        self.gates = BlockLinear(deter, 3 * deter, blocks)

    def embed_action(self, action: Tensor) -> Tensor:
        """The part that needs no state, `[..., A]` to `[..., hidden]`: done for whole sequences at once."""
        return self.from_action(action)

    def forward(self, state: State, action: Tensor) -> Tensor:
        """Next `deter` `[B, D]`, from a state and an embedded action."""
        batch, width = state.deter.shape
        inputs = torch.cat([self.from_deter(state.deter), self.from_stoch(state.stoch.flatten(-2)), action], -1)
        # Every block sees its own slice of deter and all of the inputs.
        blocks = state.deter.view(batch, self.blocks, -1)
        shared = inputs.unsqueeze(1).expand(-1, self.blocks, -1)
        mixed = nn.functional.silu(self.norm(self.mix(torch.cat([blocks, shared], -1).flatten(1))))
        gates = self.gates(mixed).float().view(batch, self.blocks, 3, -1).unbind(2)
        reset, candidate, update = (gate.reshape(batch, width) for gate in gates)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return torch.lerp(state.deter, candidate, update)


class GRU(nn.Module):
    """The gated recurrent unit of earlier Dreamers, with the same interface as `BlockGRU`."""

    def __init__(self, deter: int, hidden: int, stoch: int, action: int) -> None:
        super().__init__()
        self.from_stoch = Linear(stoch, hidden)
        self.from_action = Linear(action, hidden, bias=False)
        self.norm = RMSNorm(hidden)
        self.cell = nn.GRUCell(hidden, deter)

    def embed_action(self, action: Tensor) -> Tensor:
        """The part that needs no state, `[..., A]` to `[..., hidden]`."""
        return self.from_action(action)

    def forward(self, state: State, action: Tensor) -> Tensor:
        """Next `deter` `[B, D]`, from a state and an embedded action."""
        inputs = nn.functional.silu(self.norm(self.from_stoch(state.stoch.flatten(-2)) + action))
        return self.cell(inputs, state.deter.to(inputs.dtype)).float()


class RSSM(nn.Module):
    """Dynamics, prior and posterior.

    Args:
        action: Width of the action.
        embedding: Width of the encoder's output.
        recurrence: `block_gru` or `gru`.
        deter: Width of the recurrent state.
        blocks: Blocks of the block GRU.
        stochastic: Number of categorical latents.
        classes: Classes of each.
        hidden: Width inside.
        unimix: Share of the uniform distribution in prior and posterior.
    """

    def __init__(
        self,
        *,
        action: int,
        embedding: int,
        recurrence: str,
        deter: int,
        blocks: int,
        stochastic: int,
        classes: int,
        hidden: int,
        unimix: float,
    ) -> None:
        super().__init__()
        self.deter, self.stochastic, self.classes, self.unimix = deter, stochastic, classes, unimix
        latent = stochastic * classes
        if recurrence == "block_gru":
            self.core: BlockGRU | GRU = BlockGRU(deter, hidden, latent, action, blocks)
        elif recurrence == "gru":
            self.core = GRU(deter, hidden, latent, action)
        else:
            raise ConfigError(f"agent.world_model.recurrence: {recurrence!r} is neither block_gru nor gru")
        self.prior_head = nn.Sequential(Dense(deter, hidden), Dense(hidden, hidden), Linear(hidden, latent))
        # One layer over (deter, embedding), its weight in two so that the second half runs outside the recurrence.
        self.posterior_deter = Linear(deter, hidden, bias=False)
        self.posterior_embedding = Linear(embedding, hidden)
        self.posterior_head = nn.Sequential(RMSNorm(hidden), nn.SiLU(), Linear(hidden, latent))

    def initial(self, batch: int) -> State:
        """The state before anything happened: zeros."""
        device = self.posterior_deter.weight.device
        return State(
            torch.zeros(batch, self.deter, device=device),
            torch.zeros(batch, self.stochastic, self.classes, device=device),
        )

    def prior(self, deter: Tensor) -> Tensor:
        """Log-probabilities of the latents given the recurrent state alone, `[..., S, C]`."""
        return self._log_probabilities(self.prior_head(deter))

    def posterior(self, deter: Tensor, embedded: Tensor) -> Tensor:
        """Log-probabilities given the observation too (`embedded` from `posterior_embedding`), `[..., S, C]`."""
        return self._log_probabilities(self.posterior_head(self.posterior_deter(deter) + embedded))

    def first_deter(self) -> Tensor:
        """The recurrent state of a first row, `[1, D]`: latent and action zeroed, then one step of the core."""
        nothing = self.initial(1)
        action = nothing.deter.new_zeros(1, self._action_width())
        return self.core(nothing, self.core.embed_action(action))

    def imagine(self, state: State, action: Tensor, uniform: Tensor) -> State:
        """One step without observation: `state` `[B, …]`, `action` `[B, A]`, `uniform` `[B, S]` in [0, 1)."""
        deter = self.core(state, self.core.embed_action(bound_action(action)))
        return State(deter, sample_categorical(self.prior(deter), uniform))

    def advance(self, state: State, action: Tensor, embedding: Tensor, is_first: Tensor, uniform: Tensor) -> State:
        """One step with observation: the departure of a row, as the acting policy needs it.

        Args:
            state: Departure of the row before, `[B, …]`.
            action: Action that led to the row, `[B, A]`.
            embedding: Encoded observation of the row, `[B, E]`.
            is_first: Rows that begin an episode, `[B]`, bool: what came before counts for nothing there.
            uniform: Randomness of the sample in [0, 1), `[B, S]`.
        """
        deter = self.core(state, self.core.embed_action(bound_action(action)))
        deter = torch.where(is_first.unsqueeze(-1), self.first_deter(), deter)
        log_probabilities = self.posterior(deter, self.posterior_embedding(embedding))
        return State(deter, sample_categorical(log_probabilities, uniform))

    def observe(
        self,
        state: State,
        action: Tensor,
        embedding: Tensor,
        is_first: Tensor,
        uniform: Tensor,
        arrival_uniform: Tensor,
    ) -> Rollout:
        """Latents of whole sequences.

        Args:
            state: Departure of the row before the first one, `[B, …]`.
            action: Action that led to row t, `[T, B, A]`.
            embedding: Encoded observation of row t, `[T, B, E]`.
            is_first: Row t begins an episode, `[T, B]`, bool.
            uniform: Randomness of the departures' samples in [0, 1), `[T, B, S]`.
            arrival_uniform: Of the arrivals' samples, `[T, B, S]`.
        """
        actions = self.core.embed_action(bound_action(action)).unbind(0)
        embedded = self.posterior_embedding(embedding).unbind(0)
        firsts = is_first.unsqueeze(-1).unbind(0)
        first_deter = self.first_deter()
        arrivals, departures, stochs, posteriors = [], [], [], []
        for t, step_uniform in enumerate(uniform.unbind(0)):
            arrived = self.core(state, actions[t])
            deter = torch.where(firsts[t], first_deter, arrived)
            log_probabilities = self.posterior(deter, embedded[t])
            state = State(deter, sample_categorical(log_probabilities, step_uniform))
            arrivals.append(arrived)
            departures.append(deter)
            stochs.append(state.stoch)
            posteriors.append(log_probabilities)
        departure = State(torch.stack(departures), torch.stack(stochs))
        arrived_deter = torch.stack(arrivals)
        imagined = sample_categorical(self.prior(arrived_deter), arrival_uniform)
        first = is_first[..., None, None]
        arrival = State(arrived_deter, torch.where(first, imagined, departure.stoch))
        return Rollout(departure, arrival, torch.stack(posteriors), self.prior(departure.deter))

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        return unimix(logits.unflatten(-1, (self.stochastic, self.classes)), self.unimix)

    def _action_width(self) -> int:
        layer = self.core.from_action
        return (layer if isinstance(layer, nn.Linear) else layer[0]).in_features


def bound_action(action: Tensor) -> Tensor:
    """Actions as the simulator gets them, within [-1, 1]: a sample of the actor's normal can lie outside.

    Source: danijar/dreamerv3, dreamerv3/rssm.py (`action /= sg(max(1, abs(action)))`).
    """
    return action / action.detach().abs().clamp_min(1)
