"""The reference around its learner: environments, TorchRL's collector in a thread, replay on the training device."""

from __future__ import annotations

import copy
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.data import Bounded, LazyTensorStorage, SliceSampler, TensorDictReplayBuffer
from torchrl.envs import (
    Compose,
    EnvBase,
    ExcludeTransform,
    RenameTransform,
    RewardSum,
    TensorDictPrimer,
    TransformedEnv,
)

from benchmarks.reference_learner import ReferenceLearner, StepLosses
from benchmarks.reference_networks import Sizes, latent_specs, make_networks

KEY = "policy"  # Isaac Lab's name of the observation, whatever a simulator calls it
TRAJECTORY = ("collector", "traj_ids")
PATIENCE = 900.0  # seconds without a first chunk: a simulator may compile for minutes


@dataclass(frozen=True)
class Settings:
    """The seed's two-GPU configuration.

    Attributes:
        batch_size: Frames of a batch.
        batch_length: Frames of a sequence.
        capacity: Frames that the replay holds.
        steps_per_chunk: Steps of every environment that the collector takes at a time.
        sync_every: Optimiser steps between two copies of the policy to the simulator.
        strict_length: Leave trajectories shorter than a sequence out, instead of sampling ragged batches.
        autocast: See `ReferenceLearner`.
        compile: See `ReferenceLearner`.
    """

    batch_size: int = 50_000
    batch_length: int = 50
    capacity: int = 1_000_000
    steps_per_chunk: int = 50
    sync_every: int = 10
    strict_length: bool = False
    autocast: bool = True
    compile: bool = True


def make_mjlab_environment(
    task: str, environments: int, device: torch.device | str, *, native_autoreset: bool = False, group: str = "actor"
) -> EnvBase:
    """A batch of environments of mjlab, with the observations of `group` under the name of Isaac Lab's, `policy`.

    TorchRL's default resets from outside and keeps an episode's last observation. With `native_autoreset` mjlab resets
    by itself, as Isaac Lab does: one pass of observations less in a step, but the last observation is lost.
    """
    os.environ.setdefault("MUJOCO_GL", "disable")  # nothing is rendered
    os.environ.setdefault("MJLAB_WARP_QUIET", "1")
    from torchrl.envs import MJLabEnv

    base = MJLabEnv(task, num_envs=environments, device=device, native_autoreset=native_autoreset)
    base.action_spec = Bounded(-1.0, 1.0, base.action_spec.shape, device=base.device)
    # SelectTransform would also drop what the policy wrote for the next step, the belief, without a word.
    others = [name for name in base.observation_spec if name != group]
    return TransformedEnv(base, Compose(ExcludeTransform(*others), RenameTransform([group], [KEY])))


def with_latents(environment: EnvBase, sizes: Sizes) -> TransformedEnv:
    """The environments with returns of episodes and the policy's latents, zero after every reset."""
    primer = TensorDictPrimer(
        dict(latent_specs(sizes, environment.device).items()),
        expand_specs=True,  # the environments are batched, the specs are not (the seed's trap 10)
    )
    return environment.append_transform(RewardSum()).append_transform(primer)


class ReferenceReplay:
    """Sequences on the training device, `[capacity / environments, environments]`.

    Args:
        settings: Sizes, and whether trajectories shorter than a sequence are sampled.
        device: Where frames are kept and batches come out.
        key: Name of the observation.
    """

    def __init__(self, settings: Settings, device: torch.device, key: str = KEY) -> None:
        self._length = settings.batch_length
        self._device = device
        self._keys = ("state", "belief", "action", ("next", key), ("next", "reward"), ("next", "done"), TRAJECTORY)
        self._observation = ("next", key)
        self._buffer = TensorDictReplayBuffer(
            storage=LazyTensorStorage(settings.capacity, ndim=2, device=device),
            sampler=SliceSampler(
                slice_len=settings.batch_length,
                traj_key=TRAJECTORY,
                strict_length=settings.strict_length,
                cache_values=True,
                truncated_key=None,
                init_key=None,
            ),
            batch_size=settings.batch_size,
        )

    def extend(self, chunk: TensorDict) -> None:
        """Add `[environments, steps]`; last observations that a simulator has lost become zeros."""
        chunk = chunk.select(*self._keys).to(self._device)
        chunk[self._observation] = chunk[self._observation].nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        self._buffer.extend(chunk)

    def sample(self) -> TensorDict:
        """A batch `[sequences, length]`.

        Without strict lengths a sample is ragged. It is cut to whole rows, as the seed does (its trap 13): the shape is
        right then, but every row after a short trajectory runs over from one trajectory into another.
        """
        flat = self._buffer.sample()
        whole = flat.numel() // self._length * self._length
        return flat[:whole].reshape(-1, self._length)


class ReferencePipeline:
    """Collects in a thread on the simulator's device while `step` trains on another.

    Args:
        environment: Batched environments with the observation `key`; closed at the end.
        train_device: Where networks, replay and optimisers are; the simulator's device is the environment's own.
        settings: The seed's by default.
        sizes: Of the networks, the seed's by default.
        key: Name of the observation.

    Raises:
        ValueError: The random frames do not hold one sequence of every environment (the seed's trap 14).
    """

    def __init__(
        self,
        environment: EnvBase,
        train_device: torch.device | str,
        settings: Settings | None = None,
        sizes: Sizes | None = None,
        key: str = KEY,
    ) -> None:
        self.settings = settings or Settings()
        sizes = sizes or Sizes()
        environments = environment.batch_size.numel()
        if self.settings.steps_per_chunk < self.settings.batch_length:
            raise ValueError(
                f"the first chunk has {self.settings.steps_per_chunk} steps of each environment and a sequence "
                f"{self.settings.batch_length}: nothing could be sampled; raise steps_per_chunk"
            )
        train_device = torch.device(train_device)
        self.networks = make_networks(
            environment.observation_spec_unbatched[key].shape[-1],  # of one environment (the seed's trap 5)
            environment.action_spec_unbatched.shape[-1],
            key,
            train_device,
            sizes,
        )
        self._chunk = environments * self.settings.steps_per_chunk  # frames
        self.collector = Collector(
            with_latents(environment, sizes),
            copy.deepcopy(self.networks.policy).to(environment.device),
            frames_per_batch=self._chunk,
            total_frames=-1,
            init_random_frames=self._chunk,
            device=environment.device,
            no_cuda_sync=True,
            auto_register_policy_transforms=False,
        )
        self.replay = ReferenceReplay(self.settings, train_device, key)
        self.learner = ReferenceLearner(
            self.networks, train_device, autocast=self.settings.autocast, compile=self.settings.compile
        )
        self.frames = 0  # collected
        self._arrivals: list[float] = []  # of chunks, by the host's clock
        self.frames_learnt = 0
        self.steps = 0
        self.returns: deque[float] = deque(maxlen=100)  # means over the episodes that ended within a chunk
        self._thread = threading.Thread(target=self._collect, name="collector", daemon=True)
        self._stopping = threading.Event()
        self._filled = threading.Event()
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        """Start collecting and wait for the first chunk."""
        self._thread.start()
        self._filled.wait(PATIENCE)
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop after the chunk under way and close the environments."""
        self._stopping.set()
        self._thread.join()
        self.collector.shutdown()

    def step(self) -> StepLosses:
        """Sample and train once; copy the policy to the simulator every now and then.

        Raises:
            RuntimeError: The collector has failed.
        """
        self._check()
        with self.learner.watch.part("sample"):
            batch = self.replay.sample()
        losses = self.learner.step(batch)
        self.steps += 1
        self.frames_learnt += batch.numel()
        if self.steps % self.settings.sync_every == 0:
            self.sync_policy()
        return losses

    def sync_policy(self) -> None:
        """Copy the weights in place; the collector may be in the midst of a step with the old ones."""
        self.collector.update_policy_weights_(TensorDict.from_module(self.networks.policy).data)

    def collection_rate(self, since: float) -> float | None:
        """Frames a second between the first and the last chunk that came after `since`, a reading of perf_counter.

        None where fewer than two came.
        """
        arrivals = [arrival for arrival in self._arrivals if arrival >= since]
        if len(arrivals) < 2:
            return None
        return (len(arrivals) - 1) * self._chunk / (arrivals[-1] - arrivals[0])

    def _collect(self) -> None:
        try:
            if self.collector.env.device.type == "cuda":
                torch.cuda.set_device(self.collector.env.device)  # every thread begins on the first GPU
            for chunk in self.collector:
                self.replay.extend(chunk)
                self._record(chunk)
                self._filled.set()
                if self._stopping.is_set():
                    return
        except BaseException as error:
            self._failure = error
            self._filled.set()

    def _record(self, chunk: TensorDict) -> None:
        self.frames += chunk.numel()
        self._arrivals.append(time.perf_counter())
        # The sum before the step and its reward: the sum after it is lost where a simulator resets by itself.
        ended = (chunk["episode_reward"] + chunk["next", "reward"])[chunk["next", "done"]]
        if ended.numel():
            self.returns.append(ended.mean().item())

    def _check(self) -> None:
        if self._failure is not None:
            raise RuntimeError("the collector's thread failed") from self._failure
        if not self._filled.is_set():
            raise RuntimeError(f"the collector gave nothing in {PATIENCE:.0f} seconds")
