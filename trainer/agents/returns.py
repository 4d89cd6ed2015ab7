"""Returns of rollouts, and the scale that makes them comparable between tasks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def lambda_returns(
    reward: Tensor, discount: Tensor, bootstrap: Tensor, last: Tensor | None = None, lam: float = 0.95
) -> Tensor:
    """TD(λ) returns, computed backwards.

    Args:
        reward: Reward on arriving at step t, `[T, B]`; the first is not used.
        discount: Discount times probability that the episode goes on from step t, `[T, B]`; the first is not used.
        bootstrap: Value of step t; the last one closes the recursion, `[T, B]`.
        last: Steps at which an episode was cut, `[T, B]`, bool: the value stands in for what would have followed.
        lam: Mixing weight; 0 is one-step, 1 is Monte Carlo.

    Returns:
        Returns of steps 0 to T-2, `[T-1, B]`, float32.

    Source: DreamerV3, eq. 7; danijar/dreamerv3, dreamerv3/agent.py::lambda_return.
    """
    reward, discount, bootstrap = reward.float(), discount.float(), bootstrap.float()
    mix = torch.full_like(reward, lam) if last is None else lam * (~last).float()
    one_step = reward + (1 - mix) * discount * bootstrap
    returns = [bootstrap[-1]]
    for t in range(len(reward) - 1, 0, -1):
        returns.append(one_step[t] + discount[t] * mix[t] * returns[-1])
    return torch.stack(returns[:0:-1])


class ReturnScale(nn.Module):
    """Range between two percentiles of the returns, smoothed over updates; never below `limit`.

    Advantages are divided by it and not centred: where rewards are sparse and returns small, they stay small.

    Source: DreamerV3, eq. 11; danijar/dreamerv3, embodied/jax/utils.py::Normalize (`perc`).
    """

    low: Tensor
    high: Tensor

    def __init__(self, decay: float, low: float, high: float, limit: float) -> None:
        super().__init__()
        self.decay, self.percentiles, self.limit = decay, (low, high), limit
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Tensor) -> Tensor:
        """Take in returns of any shape and give the new scale, a scalar."""
        low, high = percentiles(returns, *self.percentiles)
        self.low.lerp_(low, 1 - self.decay)
        self.high.lerp_(high, 1 - self.decay)
        return (self.high - self.low).clamp_min(self.limit)


def percentiles(x: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Two quantiles of all elements, linearly interpolated; `torch.quantile` takes no more than 16 M elements."""
    ordered = x.detach().float().flatten().sort().values

    def at(share: float) -> Tensor:
        position = share * (len(ordered) - 1)
        below = int(position)
        above = min(below + 1, len(ordered) - 1)
        return torch.lerp(ordered[below], ordered[above], position - below)

    return at(low), at(high)
