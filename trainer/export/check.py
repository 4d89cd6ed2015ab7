"""Holding exported files against the trainer's own policy, and timing them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.export.source import Source
from trainer.export.step import OUTPUTS, STATE, PolicyStep
from trainer.policy import Policy

STEPS = 64
EPISODE = 16  # steps after which a new episode begins, besides those that are recorded
# A latent whose noise falls within rounding of the border between two classes may come out as either of them, a right
# one in some ten thousand steps. Other noise does not hit the border again, and a wrong step is wrong with any.
DRAWS = 3
TOLERANCE = 1e-4  # of actions, which lie within [-1, 1], and of the state; rounding gives 1e-6
TIMED, WARM_UP = 1000, 100  # steps

# A step of an exported file: arguments by name to outputs in the order of `OUTPUTS`.
Step = Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]


class Episodes(NamedTuple):
    """What the check shows a policy.

    Attributes:
        observation: `[T, 1, …]` of each name.
        is_first: `[T, 1]`, bool.
        recorded: Whether the run has seen it; otherwise it is random.
    """

    observation: Mapping[str, Tensor]
    is_first: Tensor
    recorded: bool


def episodes_of(source: Source) -> Episodes:
    """What the run's first environment saw of late, where its checkpoint has that; else random numbers."""
    spaces = source.interface.observation
    is_first = torch.arange(STEPS).unsqueeze(-1) % EPISODE == 0
    if source.replay is None:
        generator = torch.Generator().manual_seed(0)
        random = {
            key: torch.randn(STEPS, 1, *space.shape, generator=generator)
            if space.dtype.is_floating_point
            else torch.randint(256, (STEPS, 1, *space.shape), generator=generator).to(space.dtype)
            for key, space in spaces.items()
        }
        return Episodes(random, is_first, recorded=False)
    rings = [ring[:STEPS, :1] for ring in source.replay["rings"]]
    observation = dict(zip(sorted(spaces), rings, strict=False))  # in the order of `Rows.tensors`
    starts = rings[len(spaces) + 2]
    return Episodes(observation, starts | is_first[: len(starts)], recorded=True)


def largest_difference(source: Source, step: PolicyStep, episodes: Episodes, exported: Step) -> float:
    """Of actions and states, between the trainer's policy and an exported step; the smallest of `DRAWS` such figures.

    The two run side by side, each on its own state.
    """
    return min(_difference(source, step, episodes, exported, seed) for seed in range(DRAWS))


def _difference(source: Source, step: PolicyStep, episodes: Episodes, exported: Step, seed: int) -> float:
    agent, latent = source.agent, source.agent.world_model.rssm.latent
    policy = Policy(agent, source.interface.observation, 1, 1, seed, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    state = {name: tensor.numpy() for name, tensor in zip(step.inputs, step.examples(), strict=True) if name in STATE}
    largest = 0.0
    for row in range(len(episodes.is_first)):
        observation = {key: values[row] for key, values in episodes.observation.items()}
        noise = latent.draw(1, generator=generator)
        torch.randn(1, agent.action_width, generator=generator)  # the policy draws this too, for exploring
        policy.step(policy.action.clone(), observation, episodes.is_first[row])
        arguments = {f"observation.{key}": value.numpy() for key, value in observation.items()}
        arguments |= state | {"is_first": episodes.is_first[row].numpy(), "noise": noise.numpy()}
        action, deter, stoch = exported(arguments)
        state = dict(zip(STATE, (deter, stoch, action), strict=True))
        for mine, theirs in zip((action, deter, stoch), (policy.action, *policy.state), strict=True):
            largest = max(largest, float(np.abs(mine - theirs.numpy()).max()))
    return largest


def torchscript_step(path: Path, step: PolicyStep) -> Step:
    """The step in a file of TorchScript."""
    module = torch.jit.load(str(path))

    def run(arguments: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in module(*(torch.from_numpy(arguments[name]) for name in step.inputs))]

    return run


def onnx_step(path: Path) -> Step:
    """The step in an ONNX file, on one core. For where onnxruntime is installed."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda arguments: session.run(list(OUTPUTS), dict(arguments))


def seconds_a_step(folder: Path, episodes: Episodes) -> float:
    """Median time that the runner takes for a step, everything included, on one core."""
    from trainer.export.runner import Runner

    policy = Runner(folder)
    rows: list[dict[str, Any]] = [
        {key: values[row, 0].numpy() for key, values in episodes.observation.items()}
        for row in range(len(episodes.is_first))
    ]
    times = []
    for count in range(WARM_UP + TIMED):
        observation = rows[count % len(rows)]
        started = time.perf_counter()
        policy.act(observation)
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARM_UP:])
