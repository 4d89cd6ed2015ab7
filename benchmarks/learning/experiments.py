"""What is learnt in benchmarks/learning/: tasks, budgets and settings, as published or as chosen here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

EPISODE = 1000  # steps of the suite's own, in every task of it
DMC_REPEAT = 2
DMC_ENVIRONMENTS = 16
DMC_FRAMES = 128_000  # scores at 100,000 are means within 25,000
DMC_RATIO = 512  # frames trained on for each action taken
BATCH = 1024  # frames: 16 sequences of 64
DMC_SIZES = ("deter=2048", "hidden=256", "classes=16", "units=256")
TINY = ("deter=128", "stochastic=8", "classes=8", "hidden=64", "units=128", "bins=63")
FIXED = ("checkpoint.interval=120", "checkpoint.keep=1", "logger.tensorboard=false")


@dataclass(frozen=True)
class Experiment:
    """One task that our trainer learns.

    Attributes:
        task: As people call it.
        simulator: Package whose version counts.
        repeat: Steps of the simulator's own in one frame of the trainer's; the curve counts the former.
        actions: Frames of the trainer's that are collected, evaluation aside.
        overrides: Of the trainer's config.
        together: Several runs may go in one process, each on a CUDA stream of its own. mjlab's runs may not: its
            kernels are not ordered with what runs on other streams than the default one.
        variant: What sets it apart from others of the task, in words that follow a name.
    """

    task: str
    simulator: str
    repeat: int
    actions: int
    overrides: tuple[str, ...]
    together: bool = False
    variant: str = ""


def dmc(
    task: str,
    frames: int,
    *other: str,
    environments: int = DMC_ENVIRONMENTS,
    ratio: int = DMC_RATIO,
    batch: int = BATCH,
    length: int = 64,
    sizes: tuple[str, ...] = DMC_SIZES,
    variant: str = "",
) -> Experiment:
    """A task of the control suite from states, in DreamerV3's protocol: 16 environments, each action held for 2 steps.

    512 frames are trained on for each action, in batches of 16 sequences of 64: eight optimiser steps for every step
    of all environments. The agent has the sizes of the published scores, 12 M parameters by their count. A variant has
    arguments and `other` overrides in the place of published settings.

    Source: Hafner et al. 2023, tables 2 and 11; danijar/dreamerv3, dreamerv3/configs.yaml (`dmc_proprio`, `size12m`) as
    of the paper's second version.
    """
    actions, random = frames // DMC_REPEAT, BATCH
    rounds = -(-(actions - random) // environments)
    steps = environments * ratio // batch
    return Experiment(
        task,
        "dm_control",
        DMC_REPEAT,
        actions,
        (
            "pipeline=sync",
            "env.backend=dm_control",
            f"env.name={task}",
            "env.observation_key=null",
            f"env.num_envs={environments}",
            f"env.action_repeat={DMC_REPEAT}",
            "collector.num_collectors=2",
            f"collector.frames_per_batch={environments}",
            f"collector.init_random_frames={random}",
            f"replay_buffer.batch_size={batch}",
            f"replay_buffer.batch_length={length}",
            f"replay_buffer.buffer_size={max(actions + environments * EPISODE, 2 * random)}",
            f"optimization.optim_steps_per_batch={steps}",
            f"optimization.total_optim_steps={rounds * steps}",
            "optimization.autocast=bfloat16",
            *(f"agent.world_model.{size}" for size in sizes),
            "eval.fraction=0",
            f"eval.episodes={environments}",
            "logger.interval=200",
            *other,
        ),
        together=True,
        variant=variant,
    )


def small_walker(parameters: str, ratio: int, *sizes: str) -> Experiment:
    """walker_walk, where an agent of less capacity, and trained less often on each frame, learns more from so few.

    Args:
        parameters: Millions of them, for people.
        ratio: Frames trained on for each action taken.
        sizes: Of the world model, which make up that many.
    """
    environments = 8
    return dmc(
        "walker_walk",
        DMC_FRAMES,
        "agent.optimizer.lr=1e-3",
        "agent.optimizer.warmup=200",
        "agent.behaviour.actor_gradient=dynamics",
        "agent.behaviour.entropy_scale=3e-3",
        "agent.behaviour.imagination_last=4",
        environments=environments,
        ratio=ratio,
        batch=512,
        length=16,
        sizes=sizes,
        variant=f"with {parameters} M parameters, {environments} environments, a ratio of {ratio} "
        "and gradients through the dynamics",
    )


def mjlab(
    task: str,
    *,
    environments: int,
    frames: int,
    random: int,
    chunk: int,
    steps: int,
    batch: int,
    sizes: tuple[str, ...],
    two_gpus: bool = False,
) -> Experiment:
    """A task of mjlab's, with `steps` optimiser steps of `batch` frames for every `chunk` steps of all environments.

    With `two_gpus`, one simulates while the other learns, and neither gets ahead of that ratio.
    """
    collected = environments * chunk
    rounds = -(-(frames - random) // collected)
    if two_gpus:
        layout = ("pipeline=async", f"optimization.replay_ratio={steps * batch / collected}")
    else:
        layout = ("pipeline=sync", f"optimization.optim_steps_per_batch={steps}")
    return Experiment(
        task,
        "mjlab",
        1,
        frames,
        (
            *layout,
            "env.backend=mjlab",
            f"env.name={task}",
            f"env.num_envs={environments}",
            f"collector.frames_per_batch={collected}",
            f"collector.init_random_frames={random}",
            f"replay_buffer.buffer_size={frames + environments * 100}",
            f"replay_buffer.batch_size={batch}",
            f"optimization.total_optim_steps={rounds * steps}",
            "optimization.autocast=bfloat16",
            *sizes,
        ),
        variant="on two GPUs" if two_gpus else "",
    )


cartpole = partial(
    mjlab,
    "Mjlab-Cartpole-Swingup",
    environments=256,
    frames=1_260_000,  # a fifth of what PPO needs for 40
    random=51_200,
    chunk=8,
    batch=4096,
    sizes=(
        "env.reward_scale=20",  # rewards back to one a step: mjlab has them times its control step
        "replay_buffer.batch_length=32",
        "agent.behaviour.imagination_last=8",
        "agent.optimizer.lr=3e-4",
        "agent.optimizer.warmup=100",
        "eval.episodes=256",
        "logger.interval=40",
    ),
)
go1 = partial(
    mjlab,
    "Mjlab-Velocity-Flat-Unitree-Go1",
    environments=4096,
    frames=8_200_000,  # a fifth of what PPO needs for 80
    random=204_800,
    chunk=5,
    batch=10_000,
    sizes=(
        "env.reward_scale=50",  # likewise
        "replay_buffer.batch_length=50",
        "agent.world_model.hidden=256",
        "agent.world_model.units=256",
        "agent.behaviour.return_horizon=100",  # 2 s
        "agent.optimizer.lr=4e-4",
        "agent.optimizer.warmup=200",
        "eval.episodes=4096",
        "logger.interval=50",
    ),
)
EXPERIMENTS: Mapping[str, Experiment] = {
    "dmc-cartpole-swingup": dmc("cartpole_swingup", DMC_FRAMES),
    "dmc-walker-walk": dmc("walker_walk", DMC_FRAMES),
    "dmc-walker-walk-lr-3e-4": dmc(
        "walker_walk", DMC_FRAMES, "agent.optimizer.lr=3e-4", variant="with a learning rate of 3e-4"
    ),
    "dmc-walker-walk-dynamics": dmc(
        "walker_walk",
        DMC_FRAMES,
        "agent.optimizer.lr=3e-4",
        "agent.behaviour.actor_gradient=dynamics",
        "agent.behaviour.entropy_scale=3e-3",
        variant="with a learning rate of 3e-4 and gradients through the dynamics",
    ),
    "dmc-walker-walk-tiny": small_walker("0.4", 128, *TINY),
    "dmc-walker-walk-tiny-ratio-256": small_walker("0.4", 256, *TINY),
    "dmc-walker-walk-small": small_walker("2.3", 128, "deter=512", "classes=8", "hidden=128", "units=256"),
    "mjlab-cartpole-swingup": cartpole(steps=8),
    "mjlab-go1": go1(steps=32),
    # A learner that does not wait for the simulator has the time for half as many steps again.
    "mjlab-cartpole-swingup-two-gpus": cartpole(steps=12, two_gpus=True),
    "mjlab-go1-two-gpus": go1(steps=48, two_gpus=True),
}
