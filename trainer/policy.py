"""Acting: what the agent makes of each row, as one function on tensors that stay where they are.

On a GPU that function (encode, advance the latents, act) is one CUDA graph: a single launch between two steps of a
simulator that the host is busy with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.agents.base import Agent
from trainer.capture import CapturedFunction
from trainer.simulators.base import Space


class Policy:
    """Latent state and next action of every environment.

    Args:
        agent: On `device`. Its weights are read, and may be written in place between two rows.
        observation: What the simulator shows.
        environments: N.
        deterministic: How many of them, the first ones, act without noise.
        seed: Of actions and latents.
        device: Where everything is.

    Attributes:
        state: Departure of the last row, `[N, …]`; written in place.
        action: What to do next, `[N, A]` within [-1, 1]; written in place.
        generator: Of actions and latents.
    """

    def __init__(
        self,
        agent: Agent,
        observation: Mapping[str, Space],
        environments: int,
        deterministic: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._agent = agent
        self.generator = torch.Generator(device).manual_seed(seed)
        self.state = agent.initial(environments)
        self.action = torch.zeros(environments, agent.action_width, device=device)
        self._taken = torch.zeros_like(self.action)
        self._observation = {
            key: torch.zeros(environments, *space.shape, dtype=space.dtype, device=device)
            for key, space in observation.items()
        }
        self._is_first = torch.ones(environments, dtype=torch.bool, device=device)
        self._exploration = torch.ones(environments, 1, device=device)
        self._exploration[:deterministic] = 0
        self._captured: CapturedFunction | None = None

    def capture(self) -> None:
        """Make a CUDA graph of the function; to be called before other work of this process runs on the GPU."""
        function = CapturedFunction(self._run, [self.generator])
        function.warm_up(keep=[*self.state, self.action])
        function.capture()
        self._captured = function

    def reset(self) -> None:
        """Forget everything: the next row must begin an episode in every environment."""
        for tensor in (*self.state, self.action):
            tensor.zero_()

    def step(self, action: Tensor, observation: Mapping[str, Tensor], is_first: Tensor) -> None:
        """Take in a row, and choose what to do next.

        Args:
            action: That led to the row, `[N, A]`.
            observation: After any reset, `[N, …]` of each key.
            is_first: Where an episode begins with the row, `[N]`, bool.
        """
        self._taken.copy_(action)
        for key, value in observation.items():
            self._observation[key].copy_(value)
        self._is_first.copy_(is_first)
        if self._captured is None:
            self._run()
        else:
            self._captured.replay()

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "state": list(self.state), "action": self.action}

    def load_state_dict(self, saved: dict[str, Any], *, generator_only: bool = False) -> None:
        """Go on from `state_dict`; from the generator alone where the environments begin anew."""
        self.generator.set_state(saved["generator"].cpu())
        if not generator_only:
            for mine, theirs in zip((*self.state, self.action), (*saved["state"], saved["action"]), strict=True):
                mine.copy_(theirs)

    def _run(self) -> None:
        environments, latent = len(self.action), self._agent.world_model.rssm.latent
        latent_noise = latent.draw(environments, generator=self.generator)
        state = self._agent.advance(self.state, self._taken, self._observation, self._is_first, latent_noise)
        noise = torch.randn(self.action.shape, generator=self.generator, device=self.generator.device)
        self.action.copy_(self._agent.act(state, self._exploration * noise))
        for mine, new in zip(self.state, state, strict=True):
            mine.copy_(new)
