"""The step that is exported: one row in, the next action out, for one robot.

It is the trainer's own code that is traced, and evaluation's behaviour: actions are the actor's most likely ones,
latents are sampled. Their randomness is an input, so that the step itself is a function.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainer.agents.base import Agent
from trainer.simulators.base import Space
from trainer.world_model.latents import Categorical
from trainer.world_model.rssm import State

STATE = ("state.deter", "state.stoch", "state.action")
OUTPUTS = ("action", "next.deter", "next.stoch")


class PolicyStep(nn.Module):
    """`Policy.step` without noise on the action, as a function of the state.

    Args:
        agent: On the CPU.
        observation: What it sees.

    Attributes:
        inputs: Names of the arguments, in their order.
        noise_width: W.
        noise_distribution: `uniform` in [0, 1), or standard `normal`.
    """

    def __init__(self, agent: Agent, observation: Mapping[str, Space]) -> None:
        super().__init__()
        self._agent, self._observation = agent, {key: observation[key] for key in sorted(observation)}
        self.inputs = ("is_first", "noise", *STATE, *(f"observation.{key}" for key in self._observation))
        latent = agent.world_model.rssm.latent
        self.noise_width = latent.draw(1, generator=torch.Generator()).shape[-1]
        self.noise_distribution = "uniform" if isinstance(latent, Categorical) else "normal"

    def forward(
        self, is_first: Tensor, noise: Tensor, deter: Tensor, stoch: Tensor, action: Tensor, *observations: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Action `[1, A]` within [-1, 1], and the next `deter` `[1, D]` and `stoch` `[1, Z]`.

        Args:
            is_first: The row begins an episode, `[1]`, bool: state and action count for nothing then.
            noise: Of the latents, `[1, W]`.
            deter: Recurrent state, `[1, D]`.
            stoch: Sample of the latents, `[1, Z]`.
            action: That led to the row, `[1, A]`.
            observations: Of the row, `[1, …]` each, sorted by name.
        """
        observation = dict(zip(self._observation, observations, strict=True))
        state = self._agent.advance(State(deter, stoch), action, observation, is_first, noise)
        return self._agent.act(state, None), state.deter, state.stoch

    def examples(self) -> tuple[Tensor, ...]:
        """Arguments of the right shapes and types: nothing seen, at the start of an episode."""
        state = self._agent.initial(1)
        return (
            torch.ones(1, dtype=torch.bool),
            torch.zeros(1, self.noise_width),
            *state,
            torch.zeros(1, self._agent.action_width),
            *(torch.zeros(1, *space.shape, dtype=space.dtype) for space in self._observation.values()),
        )
