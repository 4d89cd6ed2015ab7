"""Acting: the agent's recurrent policy in a simulator, giving rows for the replay and the returns of episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.agents.dreamer_v3 import DreamerV3
from trainer.replay import Rows
from trainer.simulators.base import Simulator
from trainer.world_model.rssm import State


class Ended(NamedTuple):
    """Which steps ended an episode, and the sums up to every step, `[T, N]` each."""

    is_last: Tensor
    total: Tensor
    length: Tensor

    def returns(self) -> list[float]:
        """Returns of the episodes that ended, in the order in which they did."""
        return self.total[self.is_last].tolist()

    def lengths(self) -> list[int]:
        """Lengths of the same episodes, in steps."""
        return self.length[self.is_last].tolist()


@dataclass(frozen=True)
class Chunk:
    """What one call of `Collector.collect` gave: rows `[T, N, …]`, the latents behind them, the episodes that ended."""

    rows: Rows
    states: State
    ended: Ended


class Collector:
    """Steps a simulator under the agent's policy and keeps the latent state between calls.

    Args:
        simulator: Not yet reset.
        agent: Read, never written; sampling uses generators of the collector's own.
        seed: Of the actions and the latents.
        device: Where the agent is.
        reward_scale: Of the rewards in the rows; returns of episodes are as the simulator gives them.
    """

    def __init__(
        self, simulator: Simulator, agent: DreamerV3, seed: int, device: torch.device, reward_scale: float = 1.0
    ) -> None:
        self._simulator, self._agent, self._device, self._reward_scale = simulator, agent, device, reward_scale
        self._generator = torch.Generator(device).manual_seed(seed)
        self.reset()

    def reset(self) -> None:
        """Begin new episodes everywhere. The next chunk starts with the row that begins them."""
        environments = self._simulator.environments
        self._observation = self._simulator.reset()
        self._pending_first = True
        self._state = self._agent.initial(environments)
        self._return = torch.zeros(environments, device=self._device)
        self._length = torch.zeros(environments, dtype=torch.long, device=self._device)

    def collect(
        self,
        steps: int,
        *,
        random: bool = False,
        deterministic: bool = False,
        on_step: Callable[[], None] = lambda: None,
    ) -> Chunk:
        """Step every environment `steps` times.

        Args:
            steps: Steps of each environment. Where new episodes have just begun, one row more comes back: the one
                that holds their first observations.
            random: Actions uniform in [-1, 1] instead of the policy's.
            deterministic: The policy's mean instead of a sample.
            on_step: Called between steps; may raise to give up.
        """
        rows: list[Rows] = []
        states: list[State] = []
        ended: list[Ended] = []
        if self._pending_first:
            rows.append(self._begin())
            states.append(self._state)
        for _ in range(steps):
            action = self._act(random, deterministic)
            step = self._simulator.step(action)
            self._observe(action, step.observation, step.is_last)
            reward = self._reward_scale * step.reward
            rows.append(Rows(step.observation, action, reward, step.is_last, step.is_last, step.is_terminal))
            states.append(self._state)
            ended.append(self._count(step.reward, step.is_last))
            on_step()
        return Chunk(Rows(*_stacked(rows)), State(*_stacked(states)), Ended(*_stacked(ended)))

    def state_dict(self) -> dict[str, Any]:
        """Generator, and where the simulator can save itself, all that is needed to go on within its episodes."""
        saved: dict[str, Any] = {"generator": self._generator.get_state(), "simulator": self._simulator.state_dict()}
        if saved["simulator"] is not None:
            saved |= {
                "pending_first": self._pending_first,
                "deter": self._state.deter,
                "stoch": self._state.stoch,
                "return": self._return,
                "length": self._length,
            }
        return saved

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from `state_dict`, in new episodes where the simulator could not save itself."""
        self._generator.set_state(saved["generator"].cpu())
        if saved["simulator"] is None:
            return
        self._observation = self._simulator.load_state_dict(saved["simulator"])
        self._pending_first = saved["pending_first"]
        self._state = State(saved["deter"].to(self._device), saved["stoch"].to(self._device))
        self._return, self._length = saved["return"].to(self._device), saved["length"].to(self._device)

    def _begin(self) -> Rows:
        """The row that begins the run: an observation that no action led to."""
        environments = self._simulator.environments
        nothing = torch.zeros(environments, device=self._device)
        no = torch.zeros(environments, dtype=torch.bool, device=self._device)
        action = torch.zeros(environments, self._simulator.action, device=self._device)
        self._observe(action, self._observation, ~no)
        self._pending_first = False
        return Rows(self._observation, action, nothing, ~no, no, no)

    def _act(self, random: bool, deterministic: bool) -> Tensor:
        shape = (self._simulator.environments, self._simulator.action)
        if random:
            return 2 * torch.rand(shape, generator=self._generator, device=self._device) - 1
        noise = None if deterministic else torch.randn(shape, generator=self._generator, device=self._device)
        return self._agent.act(self._state, noise)

    def _observe(self, action: Tensor, observation: Tensor, is_first: Tensor) -> None:
        latents = self._state.stoch.shape[:-1]
        uniform = torch.rand(latents, generator=self._generator, device=self._device)
        self._state = self._agent.advance(self._state, action, observation, is_first, uniform)

    def _count(self, reward: Tensor, is_last: Tensor) -> Ended:
        """Return and length so far and which of them are final; counting starts anew there."""
        totals, lengths = self._return + reward, self._length + 1
        self._return = torch.where(is_last, 0.0, totals)
        self._length = torch.where(is_last, 0, lengths)
        return Ended(is_last, totals, lengths)


def evaluate(
    simulator: Simulator,
    agent: DreamerV3,
    episodes: int,
    seed: int,
    device: torch.device,
    *,
    random: bool = False,
    on_step: Callable[[], None] = lambda: None,
) -> list[float]:
    """Returns of episodes under the deterministic policy, at least as many as asked for.

    Episodes start together and only the first of each environment counts: taking the first that end would prefer the
    short ones.

    Args:
        simulator: Its running episodes are given up.
        agent: The policy.
        episodes: How many; as many rounds of all environments as that takes.
        seed: Of the latents.
        device: Where the agent is.
        random: Uniformly random actions instead, as something to compare with.
        on_step: Called between steps; may raise to give up.
    """
    collector = Collector(simulator, agent, seed, device)
    returns: list[float] = []
    while len(returns) < episodes:
        if returns:
            collector.reset()
        first = torch.full((simulator.environments,), torch.nan, device=device)
        while first.isnan().any():
            ended = collector.collect(1, random=random, deterministic=True, on_step=on_step).ended
            first = torch.where(ended.is_last[0] & first.isnan(), ended.total[0], first)
        returns += first.tolist()
    return returns


def _stacked(steps: Sequence[tuple[Tensor, ...]]) -> Iterator[Tensor]:
    return (torch.stack(field) for field in zip(*steps, strict=True))
