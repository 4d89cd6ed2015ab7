"""What every pipeline builds from the config, and the sizes that it checks before."""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import torch

from trainer import agents
from trainer.agents.base import Agent
from trainer.collection import Collector
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.learner import Learner
from trainer.randomness import seed_everything
from trainer.replay import Replay
from trainer.simulators.base import Simulator
from trainer.video import Recorder

log = logging.getLogger(__name__)

# Streams that must not repeat each other start from different seeds.
COLLECTOR_STREAM, LEARNER_STREAM, EVALUATION_STREAM, VIDEO_STREAM = 1, 2, 3, 4


def prepare(config: Config) -> None:
    """What comes first in every process that uses PyTorch: sizes checked, threads limited, generators seeded.

    Raises:
        ConfigError: See `check_sizes`.
    """
    check_sizes(config)
    if config.video.enabled:
        os.environ.setdefault("MUJOCO_GL", "egl")  # read when MuJoCo is imported
    if config.threads:
        torch.set_num_threads(config.threads)
    seed_everything(config.seed)


def stream_seed(config: Config, stream: int) -> int:
    """Seed of one of the streams above."""
    return int(config.seed) * 10 + stream  # room for the streams


def make_agent(config: Config, observation: Any, action: int, device: torch.device) -> Agent:
    """The agent that the config names, for a simulator's `observation` and `action`."""
    return agents.make_agent(config.agent, observation, action).to(device)


def make_replay(config: Config, agent: Agent, observation: Any, action: int, device: torch.device) -> Replay:
    """The replay, on the learner's device unless the config wants it in main memory."""
    return Replay(
        frames=config.replay_buffer.buffer_size,
        environments=(config.env.num_envs - evaluating(config)) * simulators(config),
        groups=simulators(config),
        observation=observation,
        action=action,
        latent=agent.world_model.rssm.latent,
        deter=agent.world_model.rssm.deter,
        device=device if config.replay_buffer.gpu_storage else torch.device("cpu"),
    )


def make_learner(config: Config, agent: Agent, replay: Replay, device: torch.device) -> Learner:
    """The learner of an agent, compiled and captured where the config has it; says in the log what will be trained."""
    learner = Learner(agent, replay, config, stream_seed(config, LEARNER_STREAM), device)
    parameters = sum(parameter.numel() for parameter in agent.parameters() if parameter.requires_grad)
    images = f", {replay.image_bytes / 1e6:,.1f} MB of it images" if replay.image_bytes else ""
    log.info(
        "%s on %s: %s environments of %s, agent of %.2f M parameters, replay of %s frames in %s MB%s",
        config.agent.name,
        device,
        config.env.num_envs,
        config.env.name,
        parameters / 1e6,
        f"{replay.capacity * replay.environments:,}",
        f"{replay.nbytes / 1e6:,.1f}",
        images,
    )
    if compiles(config, device):
        started = time.monotonic()
        learner.prepare()
        log.info("the optimiser step is compiled and captured, after %.0f s", time.monotonic() - started)
    return learner


def make_collector(
    config: Config, simulator: Simulator, agent: Agent, device: torch.device, recorder: Recorder | None = None
) -> Collector:
    """The collector of a simulator, which it resets; on a GPU its policy step is captured."""
    collector = Collector(
        simulator,
        agent,
        stream_seed(config, COLLECTOR_STREAM),
        device,
        reward_scale=config.env.reward_scale,
        evaluating=evaluating(config),
        recorder=recorder,
    )
    if compiles(config, device):
        collector.policy.capture()
    return collector


def compiles(config: Config, device: torch.device) -> bool:
    """Whether optimiser and policy step are to run as CUDA graphs: on GPUs, unless the config says no."""
    return device.type == "cuda" and config.optimization.compile.enabled


def simulators(config: Config) -> int:
    """How many simulators of `env.num_envs` environments write to the replay."""
    return getattr(config.pipeline, "actors", None) or 1


def evaluating(config: Config) -> int:
    """How many environments act without noise and give no rows."""
    return int(config.env.num_envs * config.eval.fraction)


def chunk_steps(config: Config) -> int:
    """Steps of each environment that make a batch of `collector.frames_per_batch` frames."""
    return int(max(1, config.collector.frames_per_batch // config.env.num_envs))


def choose_device(name: str, key: str = "device") -> torch.device:
    """The device that a key of the config names; `auto` is the first GPU where there is one.

    Raises:
        ConfigError: There is no such device.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{key}: {name!r} is no device; write auto, cpu, cuda:0 or cuda:1") from None
    if device.type != "cuda":
        return device
    index, count = device.index or 0, torch.cuda.device_count()
    if index >= count:
        raise ConfigError(f"{key}: {name} is not there: {count} GPUs can be seen")
    return torch.device("cuda", index)


def choose_devices(config: Config) -> tuple[torch.device, torch.device]:
    """Where simulator and learner of `pipeline=async` are: on a GPU each, or both on what there is.

    Raises:
        ConfigError: There is no such device.
    """
    simulator, learner = config.pipeline.simulator_device, config.pipeline.learner_device
    if simulator == "auto":
        first = choose_device(config.device)
    else:
        first = choose_device(simulator, "pipeline.simulator_device")
    if learner != "auto":
        return first, choose_device(learner, "pipeline.learner_device")
    second = config.device == "auto" and first.type == "cuda" and torch.cuda.device_count() > 1
    return first, torch.device("cuda", 1 - first.index if first.index < 2 else 0) if second else first


def use_device(device: torch.device) -> None:
    """Make a GPU the one that is meant wherever none is named."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def policy_tensors(agent: Agent) -> dict[str, torch.Tensor]:
    """The agent's weights by name, not copied: the parameters' own memory."""
    return dict(agent.state_dict())


def check_sizes(config: Config) -> None:
    """Refuse sizes with which the first sequence could never be sampled.

    Raises:
        ConfigError: It says which key to change to what.
    """
    if not 0 <= config.eval.fraction < 1:
        raise ConfigError(f"eval.fraction: {config.eval.fraction} is not at least 0 and below 1")
    environments, length = config.env.num_envs * simulators(config), config.replay_buffer.batch_length
    sequence = f"sequence of batch_length {length}"
    # What is collected begins with a row of first observations, which is the context of the first sequence.
    for key, frames, rows, held, words in (
        ("collector.init_random_frames", config.collector.init_random_frames, length, f"{length}", sequence),
        (
            "replay_buffer.buffer_size",
            config.replay_buffer.buffer_size,
            length + 1,
            f"({length} + 1)",
            f"{sequence} and one row of context",
        ),
    ):
        needed = rows * environments
        if frames < needed:
            raise ConfigError(
                f"{key}: {frames} frames hold no {words} in {environments} environments; it takes at least {held} * "
                f"{environments} = {needed}"
            )
