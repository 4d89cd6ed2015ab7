"""Collecting: an agent's policy in a simulator, giving rows for the replay and the returns of episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.agents.base import Agent
from trainer.policy import Policy
from trainer.replay import Rows
from trainer.simulators.base import Simulator
from trainer.video import Recorder
from trainer.world_model.rssm import State, stacked


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

    def split(self, number: int) -> tuple[Ended, Ended]:
        """Those of the first `number` environments, and those of the others."""
        return Ended(*(field[:, :number] for field in self)), Ended(*(field[:, number:] for field in self))


@dataclass(frozen=True)
class Chunk:
    """What one call of `Collector.collect` gave.

    Attributes:
        rows: Of the exploring environments, `[T, N - M, …]`, for the replay.
        states: The latents behind them.
        ended: Their episodes.
        evaluated: Episodes of the M environments that act without noise.
        task: What the task reported of itself meanwhile, by name: a number for each report.
    """

    rows: Rows
    states: State
    ended: Ended
    evaluated: Ended
    task: Mapping[str, list[float]]


class Collector:
    """Steps a simulator under the agent's policy and keeps the latent state between calls.

    Args:
        simulator: Not yet reset.
        agent: On `device`; read, never written.
        seed: Of the actions and the latents.
        device: Where the agent is.
        reward_scale: Of the rewards in the rows; returns of episodes are as the simulator gives them.
        evaluating: How many environments, the first ones, act without noise and give no rows.
        recorder: Films the first of them.
    """

    def __init__(
        self,
        simulator: Simulator,
        agent: Agent,
        seed: int,
        device: torch.device,
        *,
        reward_scale: float = 1.0,
        evaluating: int = 0,
        recorder: Recorder | None = None,
    ) -> None:
        self._simulator, self._device = simulator, device
        self._reward_scale, self._evaluating, self._recorder = reward_scale, evaluating, recorder
        environments = simulator.environments
        self.policy = Policy(agent, simulator.observation, environments, evaluating, seed, device)
        self.reset()

    def reset(self) -> None:
        """Begin new episodes everywhere. The next chunk starts with the row that begins them."""
        environments = self._simulator.environments
        self.policy.reset()
        self._observation = self._simulator.reset()
        self._pending_first = True
        self._return = torch.zeros(environments, device=self._device)
        self._length = torch.zeros(environments, dtype=torch.long, device=self._device)

    def collect(self, steps: int, *, random: bool = False, on_step: Callable[[], None] = lambda: None) -> Chunk:
        """Step every environment `steps` times.

        Args:
            steps: Steps of each environment. Where new episodes have just begun, one row more comes back: the one
                that holds their first observations.
            random: Actions uniform in [-1, 1] instead of the policy's.
            on_step: Called between steps; may raise to give up.
        """
        rows: list[Rows] = []
        states: list[State] = []
        ended: list[Ended] = []
        if self._pending_first:
            rows.append(self._begin())
            states.append(self._kept())
        for _ in range(steps):
            action = self._random_action() if random else self.policy.action.clone()
            step = self._simulator.step(action)
            self.policy.step(action, step.observation, step.is_last)
            if self._recorder is not None:
                self._recorder.step(step.observation, action, step.is_last)
            reward = self._reward_scale * step.reward
            rows.append(Rows(step.observation, action, reward, step.is_last, step.is_last, step.is_terminal))
            states.append(self._kept())
            ended.append(self._count(step.reward, step.is_last))
            on_step()
        evaluated, exploring = Ended(*_stacked(ended)).split(self._evaluating)
        kept = slice(self._evaluating, None)
        state = State(*(field[:, kept] for field in stacked(states)))
        task = self._simulator.pop_log()
        return Chunk(_stacked_rows(rows).map(lambda field: field[:, kept]), state, exploring, evaluated, task)

    def state_dict(self) -> dict[str, Any]:
        """Generator, and where the simulator can save itself, all that is needed to go on within its episodes."""
        saved = {"policy": self.policy.state_dict(), "simulator": self._simulator.state_dict()}
        if saved["simulator"] is not None:
            saved |= {"pending_first": self._pending_first, "return": self._return, "length": self._length}
        return saved

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from `state_dict`, in new episodes where the simulator could not save itself."""
        begin_anew = saved["simulator"] is None
        self.policy.load_state_dict(saved["policy"], generator_only=begin_anew)
        if begin_anew:
            return
        self._observation = self._simulator.load_state_dict(saved["simulator"])
        self._pending_first = saved["pending_first"]
        self._return, self._length = saved["return"].to(self._device), saved["length"].to(self._device)

    def _begin(self) -> Rows:
        """The row that begins the run: an observation that no action led to."""
        nothing, no = torch.zeros_like(self._return), torch.zeros_like(self._return, dtype=torch.bool)
        action = torch.zeros_like(self.policy.action)
        self.policy.step(action, self._observation, ~no)
        self._pending_first = False
        return Rows(self._observation, action, nothing, ~no, no, no)

    def _random_action(self) -> Tensor:
        action = self.policy.action
        return 2 * torch.rand(action.shape, generator=self.policy.generator, device=action.device) - 1

    def _kept(self) -> State:
        """The policy's state, which it overwrites with the next row."""
        return State(*(field.clone() for field in self.policy.state))

    def _count(self, reward: Tensor, is_last: Tensor) -> Ended:
        """Return and length so far and which of them are final; counting starts anew there."""
        totals, lengths = self._return + reward, self._length + 1
        self._return = torch.where(is_last, 0.0, totals)
        self._length = torch.where(is_last, 0, lengths)
        return Ended(is_last, totals, lengths)


def evaluate(
    simulator: Simulator,
    agent: Agent,
    episodes: int,
    seed: int,
    device: torch.device,
    *,
    random: bool = False,
    on_step: Callable[[], None] = lambda: None,
    recorder: Recorder | None = None,
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
        recorder: Films the beginning, unless actions are random.
    """
    recorder = None if random else recorder
    collector = Collector(simulator, agent, seed, device, evaluating=simulator.environments, recorder=recorder)
    if recorder is not None:
        recorder.begin("evaluation")
    returns: list[float] = []
    while len(returns) < episodes:
        if returns:
            collector.reset()
        first = torch.full((simulator.environments,), torch.nan, device=device)
        while first.isnan().any():
            ended = collector.collect(1, random=random, on_step=on_step).evaluated
            first = torch.where(ended.is_last[0] & first.isnan(), ended.total[0], first)
        returns += first.tolist()
    if recorder is not None:
        recorder.end()
    return returns


def _stacked_rows(rows: Sequence[Rows]) -> Rows:
    observation = {key: torch.stack([row.observation[key] for row in rows]) for key in rows[0].observation}
    return Rows(observation, *_stacked([row[1:] for row in rows]))


def _stacked(steps: Sequence[tuple[Tensor, ...]]) -> Iterator[Tensor]:
    return (torch.stack(field) for field in zip(*steps, strict=True))
