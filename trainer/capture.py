"""CUDA graphs of functions that work in place on tensors that stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UPS = 3  # runs before the capture: compilers, autotuners and libraries allocate at the first ones


class CapturedFunction:
    """A function of tensors at fixed addresses, replayed as one launch.

    Args:
        function: What it reads and writes must be the same tensors at every call.
        generators: Those that the function draws from: each replay goes on where the last one ended.
    """

    def __init__(self, function: Callable[[], None], generators: Sequence[torch.Generator] = ()) -> None:
        self._function, self._generators = function, generators
        self._graph = torch.cuda.CUDAGraph()

    def warm_up(self, function: Callable[[], None] | None = None, keep: Sequence[Tensor] = ()) -> None:
        """Run the function, or one that does the same, and undo what it did.

        Args:
            function: To run instead.
            keep: Tensors to put back as they were.
        """
        stream = torch.cuda.Stream()
        kept = [tensor.detach().clone() for tensor in keep]
        states = [generator.get_state() for generator in self._generators]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                (function or self._function)()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.no_grad():
            for tensor, was in zip(keep, kept, strict=True):
                tensor.copy_(was)
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)

    def capture(self) -> None:
        """Record the function; it does not run."""
        for generator in self._generators:
            self._graph.register_generator_state(generator)
        # Other threads (W&B, simulators' helpers) may use CUDA meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._function()

    def replay(self) -> None:
        """Run what was recorded, on the current stream."""
        self._graph.replay()
