"""Compiled parts of the optimiser step.

A step is cut into regions: functions of tensors without Python loops over time. Each is compiled as a whole, the same
one again for every step of a sequence, so that compiling takes as long for 64 steps as for one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Compilable(nn.Module):
    """A module that may have regions among its methods.

    Attributes:
        compiled: Whether they run compiled; set by `compile_regions`.
    """

    compiled: bool = False


def region(method: _Method) -> _Method:
    """Mark a method of a `Compilable` as one region."""
    fast: Callable[..., Any] | None = None

    @functools.wraps(method)
    def call(self: Compilable, *arguments: Any) -> Any:
        nonlocal fast
        if not self.compiled:
            return method(self, *arguments)
        if fast is None:  # importing the compiler takes seconds: not before it is needed
            fast = torch.compile(method, fullgraph=True, dynamic=False)
        return fast(self, *arguments)

    return call  # type: ignore[return-value]


def compile_regions(module: nn.Module, enabled: bool = True) -> None:
    """Have the regions of a module and all its parts run compiled, or eagerly again."""
    for part in module.modules():
        if isinstance(part, Compilable):
            part.compiled = enabled


def load_compiler() -> None:
    """Import the compiler and start its worker processes: seconds that go by while something else is waited for."""
    from torch._inductor.async_compile import AsyncCompile

    AsyncCompile.warm_pool()


def rehearse(device: torch.device) -> None:
    """Compile a trifle, forward and backward: with its first graph the compiler loads as much again."""
    weight = torch.zeros(16, 16, device=device, requires_grad=True)
    torch.compile(_trifle, fullgraph=True, dynamic=False)(weight).backward()


def _trifle(weight: Tensor) -> Tensor:
    return functional.silu(weight @ weight).square().mean()
