"""Learning curves of danijar/dreamerv3's own agent by the paper's protocol: what our trainer is held against.

    python benchmarks/learning/upstream.py walker_walk --source ../dreamerv3 --seeds 0 1 --budget 1500

SOURCE is a clone of https://github.com/danijar/dreamerv3 at f8817c4, with jax and its other requirements installed.
Agent, losses, optimiser and replay are that code's; the loop around them is this file's, since the clone's own spreads
over processes and writes no curve of single episodes.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script

import elements
import jax
import jax.numpy as jnp
import ninjax
import numpy as np

from benchmarks.learning.curves import Curve
from benchmarks.learning.experiments import (
    BATCH,
    DMC_ENVIRONMENTS,
    DMC_FRAMES,
    DMC_RATIO,
    DMC_REPEAT,
    DMC_STEPS,
)
from benchmarks.results import result_path, write_result
from trainer.simulators.dm_control_suite import load, task_names

PACKAGES = ("jax", "dm_control", "mujoco")
LENGTH = 64  # of a sequence
SEQUENCES = BATCH // LENGTH
WRITE_STEPS = 200  # optimiser steps between two points of the curve
PURE = {"create": True, "modify": True, "ignore": True}
HEAD = {"act": "silu", "norm": "rms", "winit": "trunc_normal_in"}

Observation = dict[str, Any]


class Environment:
    """A task of the suite under held actions, with every observation as a vector of its own."""

    def __init__(self, task: str, seed: int) -> None:
        self._raw = load(*task_names()[task], seed)
        self.action = self._raw.action_spec().shape

    def step(self, action: np.ndarray, reset: bool) -> Observation:
        """Of one action, or of a new episode."""
        reward = 0.0
        if reset:
            moment = self._raw.reset()
        else:
            for _ in range(DMC_REPEAT):
                moment = self._raw.step(np.clip(action, -1, 1).astype(np.float64))
                reward += moment.reward
                if moment.last():
                    break
        return {
            **{key: np.float32(value) for key, value in moment.observation.items()},
            "reward": np.float32(reward),
            "is_first": np.bool_(moment.first()),
            "is_last": np.bool_(moment.last()),
            "is_terminal": np.bool_(not moment.first() and moment.discount == 0),
        }


def agent_config(seed: int, units: int, deter: int, classes: int) -> Any:
    """The clone's own values (`defaults`) at the given sizes."""
    size = {"units": units, **HEAD}
    rssm = {"deter": deter, "hidden": units, "stoch": 32, "classes": classes, "unimix": 0.01, "outscale": 1.0, **HEAD}
    rssm |= {"imglayers": 2, "obslayers": 1, "dynlayers": 1, "absolute": False, "blocks": 8, "free_nats": 1.0}
    return elements.Config(
        seed=seed,
        batch_size=SEQUENCES,
        batch_length=LENGTH,
        replay_context=1,
        loss_scales={
            "rec": 1.0,
            "rew": 1.0,
            "con": 1.0,
            "dyn": 1.0,
            "rep": 0.1,
            "policy": 1.0,
            "value": 1.0,
            "repval": 0.3,
        },
        opt={
            "lr": 4e-5,
            "agc": 0.3,
            "eps": 1e-20,
            "beta1": 0.9,
            "beta2": 0.999,
            "momentum": True,
            "wd": 0.0,
            "schedule": "const",
            "warmup": 1000,
            "anneal": 0,
        },
        ac_grads=False,
        dyn={"typ": "rssm", "rssm": rssm},
        enc={"typ": "simple", "simple": {"layers": 3, "symlog": True, **size}},
        dec={"typ": "simple", "simple": {"layers": 3, "outscale": 1.0, "bspace": 8, **size}},
        rewhead={"layers": 1, "output": "symexp_twohot", "outscale": 0.0, "bins": 255, **size},
        conhead={"layers": 1, "output": "binary", "outscale": 1.0, **size},
        policy={"layers": 3, "minstd": 0.1, "maxstd": 1.0, "outscale": 0.01, "unimix": 0.01, **size},
        value={"layers": 3, "output": "symexp_twohot", "outscale": 0.0, "bins": 255, **size},
        policy_dist_disc="categorical",
        policy_dist_cont="bounded_normal",
        imag_last=0,
        imag_length=15,
        horizon=333,
        contdisc=True,
        imag_loss={"slowtar": False, "lam": 0.95, "actent": 3e-4, "slowreg": 1.0},
        repl_loss={"slowtar": False, "lam": 0.95, "slowreg": 1.0},
        slowvalue={"rate": 0.02, "every": 1},
        retnorm={"impl": "perc", "rate": 0.01, "limit": 1.0, "perclo": 5.0, "perchi": 95.0, "debias": False},
        valnorm={"impl": "none", "rate": 0.01, "limit": 1e-8},
        advnorm={"impl": "none", "rate": 0.01, "limit": 1e-8},
        reward_grad=True,
        repval_loss=True,
        repval_grad=True,
        report=False,
    )


class Upstream:
    """The clone's agent and replay, its functions compiled.

    Args:
        task: Of the suite, as `walker_walk`.
        seed: Of agent and environments.
        config: From `agent_config`.
    """

    def __init__(self, task: str, seed: int, config: Any) -> None:
        from dreamerv3.agent import Agent
        from embodied.core.replay import Replay

        self._environments = [Environment(task, seed * 1000 + number) for number in range(DMC_ENVIRONMENTS)]
        first = self._environments[0].step(np.zeros(0), reset=True)
        seen = {key: elements.Space(value.dtype, value.shape) for key, value in first.items()}
        self._actions = np.zeros((DMC_ENVIRONMENTS, *self._environments[0].action), np.float32)
        acted = {"action": elements.Space(np.float32, self._environments[0].action, -1, 1)}
        agent = object.__new__(Agent)  # without the wrapper that its class puts around it
        agent.__init__(seen, acted, config)
        self._seed = seed
        spaces = {**seen, **acted, **agent.ext_space}
        init_train, train, act = ninjax.pure(agent.init_train), ninjax.pure(agent.train), ninjax.pure(agent.policy)
        start, _ = init_train({}, 1, seed=self._noise(0), **PURE)
        _, carry = init_train(start, 1, seed=self._noise(0))
        nothing = {key: np.zeros((1, LENGTH + 1, *space.shape), space.dtype) for key, space in spaces.items()}
        self._parameters = jax.jit(lambda p, s, c, d: train(p, c, d, seed=s, **PURE)[0])(
            start, self._noise(0), carry, nothing
        )
        self._read = [key for key in self._parameters if re.search(agent.policy_keys, key)]  # by the policy
        _, self._trained = init_train(self._parameters, SEQUENCES, seed=self._noise(0))
        _, self._acting = ninjax.pure(agent.init_policy)(self._parameters, DMC_ENVIRONMENTS, seed=self._noise(0))
        self._train = jax.jit(lambda p, s, c, d: train(p, c, d, seed=s))
        self._act = jax.jit(lambda p, s, c, o: act(p, c, o, "train", seed=s)[1])
        self._replay = Replay(length=LENGTH + 1, capacity=int(5e6), online=True, chunksize=1024)
        self._resets, self._returns = np.ones(DMC_ENVIRONMENTS, bool), np.zeros(DMC_ENVIRONMENTS)
        self.rows = self.steps = 0

    def collect(self) -> list[float]:
        """One row of every environment; returns of the episodes that ended."""
        rows = [
            environment.step(action, reset)
            for environment, action, reset in zip(self._environments, self._actions, self._resets, strict=True)
        ]
        seen = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        policy = {key: self._parameters[key] for key in self._read}
        noise = self._noise(10_000_000 + self.rows // DMC_ENVIRONMENTS)
        self._acting, action, latents = jax.device_get(self._act(policy, noise, self._acting, seen))
        latents.pop("finite")
        going = ~seen["is_last"]
        self._actions, self._resets = action["action"] * going[:, None].astype(np.float32), seen["is_last"]
        ended = []
        for number in range(DMC_ENVIRONMENTS):
            row = {key: value[number] for key, value in {**seen, "action": self._actions, **latents}.items()}
            self._replay.add(row, number)
            self._returns[number] = row["reward"] + (0 if row["is_first"] else self._returns[number])
            if row["is_last"]:
                ended.append(float(self._returns[number]))
        self.rows += DMC_ENVIRONMENTS
        return ended

    def learn(self) -> None:
        """One optimiser step."""
        data = self._replay.sample(SEQUENCES)
        data["consec"] = np.zeros(data["is_first"].shape, np.int32)
        noise = self._noise(self.steps)
        self._parameters, (self._trained, outputs, _) = self._train(self._parameters, noise, self._trained, data)
        self._replay.update(dict(jax.device_get(outputs["replay"])))
        self.steps += 1

    def _noise(self, counter: int) -> np.ndarray:
        return np.random.default_rng([self._seed, counter]).integers(0, np.iinfo(np.uint32).max, 2, np.uint32)


def train(upstream: Upstream, frames: int, budget: float, seed: int, write: Callable[[Curve], None]) -> Curve:
    """Train until so many frames of the suite's own were collected or the budget, in seconds, is spent."""
    started, ended = time.monotonic(), []
    points: list[tuple[int, float, float, int]] = []

    def curve(*, finished: bool) -> Curve:
        at, seconds, returns, episodes = zip(*points, strict=True) if points else ((), (), (), ())
        return Curve(seed, at, seconds, returns, upstream.steps, finished, episodes=episodes)

    while upstream.rows * DMC_REPEAT < frames and time.monotonic() - started < budget:
        ended += upstream.collect()
        if upstream.rows <= BATCH:
            continue
        for _ in range(DMC_STEPS):
            upstream.learn()
        if upstream.steps % WRITE_STEPS == 0 and ended:
            seconds = round(time.monotonic() - started, 2)
            points.append((upstream.rows * DMC_REPEAT, seconds, round(float(np.mean(ended)), 3), len(ended)))
            ended = []
            write(curve(finished=False))
    last = curve(finished=upstream.rows * DMC_REPEAT >= frames)
    write(last)
    return last


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="of the suite, as walker_walk")
    parser.add_argument("--source", type=Path, required=True, help="clone of danijar/dreamerv3")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one after the other")
    parser.add_argument("--frames", type=int, default=DMC_FRAMES)
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for each")
    parser.add_argument("--sizes", type=int, nargs=3, default=(256, 2048, 16), help="units, deter, classes")
    parser.add_argument("--out", type=Path, help="file of the result")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(options.source))
    from embodied.jax import nets

    nets.COMPUTE_DTYPE = jnp.bfloat16
    settings = {"task": options.task, "action_repeat": DMC_REPEAT, "train_ratio": DMC_RATIO, "code": "f8817c4"}
    path = options.out or result_path(f"learning-upstream-dmc-{options.task.replace('_', '-')}")
    done: list[Curve] = []
    for seed in options.seeds:
        upstream = Upstream(options.task, seed, agent_config(seed, *options.sizes))

        def write(curve: Curve) -> None:
            write_result(path, [*done, curve], PACKAGES, settings)

        done.append(train(upstream, options.frames, options.budget, seed, write))


if __name__ == "__main__":
    main()
