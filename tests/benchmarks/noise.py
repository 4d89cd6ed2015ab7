"""Noise of a test's choice wherever the reference draws some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from unittest import mock

import torch
from torch import Tensor


@contextmanager
def noise_from(draw: Callable[[torch.Size], Tensor]) -> Iterator[None]:
    """Take every standard normal from `draw(shape)` instead of torch's generator.

    In this order. World model, for every step of `[B, T]`: prior `[B, state]` (unused), posterior `[B, state]`.
    Imagination, for every step from B·T states: action `[B·T, action]`, prior `[B·T, state]`. Policy: posterior,
    action, exploration of the action, prior (unused).
    """

    def randn_like(like: Tensor, **_: object) -> Tensor:
        return draw(like.shape).to(like)

    def standard_normal(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        return draw(torch.Size(shape)).to(device, dtype)

    with (
        mock.patch("torch.randn_like", randn_like),  # of the latents
        mock.patch("torch.distributions.normal._standard_normal", standard_normal),  # of TanhNormal
    ):
        yield


def no_noise() -> AbstractContextManager[None]:
    """Zero wherever noise is drawn."""
    return noise_from(torch.zeros)
