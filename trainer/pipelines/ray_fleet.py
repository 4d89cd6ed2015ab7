"""The simulators of `pipeline=ray`, as the learner sees them: one that sends chunks, and that loses some of its parts.

Ray's actors rather than TorchRL's RayCollector: docs/ray.md says why.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray
import torch

from trainer.errors import ConfigError, PeerLost, Stopped
from trainer.pipelines.messages import Evaluate, Evaluated, Permit, Save, Saved, Start, pack_state
from trainer.pipelines.ray_actor import Place, SimulationActor
from trainer.pipelines.ray_cluster import Invitation, RayNode, cores, free_port
from trainer.role import RoleContext
from trainer.run_dir import Phase, RunDir

log = logging.getLogger(__name__)

AHEAD = 2  # chunks that each actor is asked for: the next one is begun while the last one is taken in
LIVES = 3  # times in a row that an actor may be lost before it has given anything
AGAIN = 5.0  # seconds until it is started anew, for each such time but the first: a machine may be gone, and seem there
GPU_SIMULATORS = ("mjlab", "isaaclab")
QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
HEAD_TAKES = 120.0  # seconds until the head of a cluster of several tasks can be joined
NODES_TAKE = 300.0  # seconds from then on to wait for the other tasks, which install what they need as this one did
LOOK = 0.5  # seconds between two looks
NOTHING_ASKED = 0.01  # seconds to wait where there is nothing to wait for


@dataclass(frozen=True)
class Call:
    """What an actor was asked for: the index of the actor, the method, and the frames that it will give."""

    index: int
    method: str
    frames: int = 0


class Fleet:
    """Actors that simulate, in the place of a channel to one simulator.

    Args:
        config: The trainer's resolved config, with the values that `choose_fleet` has filled in.
        run_dir: Of the run.
    """

    def __init__(self, config: Mapping[str, Any], run_dir: RunDir) -> None:
        self._config, self._folder = config, str(run_dir.root)
        environments, batch = config["env"]["num_envs"], config["collector"]["frames_per_batch"]
        self._chunk_frames = max(1, batch // environments) * environments
        self._random_frames: int = config["collector"]["init_random_frames"]
        self._settings = ray.put(dict(config))
        self._calls: dict[Any, Call] = {}
        self._messages: deque[Any] = deque()
        self._weights: tuple[int, Any] | None = None
        self._frames: int | None = None  # asked for or given, in the whole run; None before the start
        self._permitted = 0.0
        self._wish: Evaluate | None = None
        self._evaluator: int | None = None  # index of the actor that does it
        self._greeted = False
        count = config["pipeline"]["actors"]
        self._lives, self._losses = [0] * count, [0] * count
        self._due: dict[int, float] = {}  # actors that are to be started, and when, in monotonic seconds
        self._turn, self._turns = 0, list[int | None]([None] * count)  # when each was last asked; None: is not up
        self._actors = [self._launch(index) for index in range(count)]

    def __str__(self) -> str:
        return f"{len(self._actors)} simulators on a Ray cluster of {len(ray.nodes())} nodes"

    def send(self, message: object) -> None:
        """What the learner has to say to a simulator."""
        match message:
            case Start():
                self._frames = message.frames
            case Permit():
                self._permitted = message.frames
            case Evaluate():
                self._wish = message
                self._evaluate()
            case Save():
                # Nothing of the environments is kept: those of a resumed run begin anew.
                self._messages.append(Saved(pack_state(None), message.last))

    def publish(self, version: int, weights: Any) -> None:
        """Use these weights, as bytes, for all chunks that are begun from now on."""
        self._weights = version, ray.put(weights)

    def receive(self) -> Any:
        """The next message, or None where none has come.

        Raises:
            PeerLost: An actor is lost again and again.
            ConfigError: The simulator does not start with this config.
        """
        if not self._messages:
            self._relaunch()
            self._evaluate()
            self._ask()
            if self._calls:
                done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=0)
                for reference in done:
                    if reference in self._calls:  # else its actor was lost with one before
                        self._finish(reference)
                self._ask()
        return self._messages.popleft() if self._messages else None

    def wait(self, seconds: float) -> bool:
        """Wait for a message."""
        if self._messages:
            return True
        if not self._calls:
            time.sleep(min(seconds, NOTHING_ASKED))
            return False
        return bool(ray.wait(list(self._calls), timeout=seconds)[0])

    def close(self) -> None:
        """End the actors."""
        for actor in self._actors:
            with suppress(Exception):
                ray.kill(actor)

    def _launch(self, index: int) -> Any:
        pipeline = self._config["pipeline"]
        options = {"num_cpus": pipeline["actor_cpus"], "num_gpus": pipeline["actor_gpus"], "max_restarts": 0}
        options |= {"scheduling_strategy": "SPREAD"}
        place = Place(index, self._lives[index], self._folder)
        actor = ray.remote(SimulationActor).options(**options).remote(self._settings, place)
        self._calls[actor.start.remote()] = Call(index, "start")
        return actor

    def _ask(self) -> None:
        """Keep the simulators that are up busy, in turn, as far as the learner permits."""
        if self._frames is None or self._weights is None:
            return
        asked = [0] * len(self._actors)
        for call in self._calls.values():
            asked[call.index] += call.method == "collect"
        while up := [index for index, turn in enumerate(self._turns) if turn is not None and asked[index] < AHEAD]:
            if self._frames + self._chunk_frames > self._permitted:
                return
            index = min(up, key=lambda index: (asked[index], self._turns[index]))
            version, weights = self._weights
            random = self._frames < self._random_frames
            reference = self._actors[index].collect.remote(random=random, version=version, weights=weights)
            self._calls[reference] = Call(index, "collect", self._chunk_frames)
            self._frames += self._chunk_frames
            self._turn += 1
            self._turns[index] = self._turn
            asked[index] += 1

    def _evaluate(self) -> None:
        """Have what is wanted done by a simulator that is up: another one may wait for a machine that never comes."""
        up = [index for index, turn in enumerate(self._turns) if turn is not None]
        if self._wish is None or self._evaluator is not None or not up:
            return
        assert self._weights is not None
        version, weights = self._weights
        assert version == self._wish.version
        index = self._evaluator = up[0]
        reference = self._actors[index].evaluate.remote(random=self._wish.random, version=version, weights=weights)
        self._calls[reference] = Call(index, "evaluate")

    def _finish(self, reference: Any) -> None:
        call = self._calls.pop(reference)
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ConfigError):
                raise error.cause from None
            return self._replace(call, error)
        except ray.exceptions.RayError as error:
            return self._replace(call, error)
        if call.method == "start":
            self._turns[call.index] = self._turn
            if not self._greeted:
                self._messages.append(answer)
                self._greeted = True
        elif call.method == "evaluate":
            self._wish = self._evaluator = None
            self._messages.append(Evaluated(answer))
        else:
            self._losses[call.index] = 0
            self._messages.append(answer)
        return None

    def _replace(self, call: Call, error: Exception) -> None:
        """Put another actor in a lost one's place; what that was asked for and had not sent is lost."""
        index = call.index
        self._losses[index] += 1
        lines = str(error).strip().splitlines()
        said = lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0]
        if self._losses[index] > LIVES:
            raise PeerLost(f"simulator {index} was lost {self._losses[index]} times before it gave anything: {said}")
        lost = [(reference, other) for reference, other in self._calls.items() if other.index == index]
        for reference, _ in lost:
            del self._calls[reference]
        frames = call.frames + sum(other.frames for _, other in lost)
        log.warning("simulator %s is lost and replaced, %s frames were not sent: %s", index, f"{frames:,}", said)
        if self._frames is not None:
            self._frames -= frames
        with suppress(Exception):
            ray.kill(self._actors[index])
        self._lives[index] += 1
        self._turns[index] = None
        self._due[index] = time.monotonic() + AGAIN * (self._losses[index] - 1)
        self._relaunch()
        if self._evaluator == index:
            self._evaluator = None
            self._evaluate()

    def _relaunch(self) -> None:
        """Start the actors whose time has come."""
        for index in [index for index, due in self._due.items() if due <= time.monotonic()]:
            del self._due[index]
            self._actors[index] = self._launch(index)


@contextmanager
def connected(address: str | None) -> Iterator[Mapping[str, float]]:
    """Join a cluster, or make one of this machine.

    Args:
        address: Of the cluster; None for one of its own.

    Yields:
        What the cluster has.

    Raises:
        ConfigError: There is no such cluster.
    """
    gpus = for_simulators(torch.cuda.device_count())
    try:
        if address:
            ray.init(address, **QUIET)
        else:
            # Not any cluster that happens to run here, which is what Ray takes where nothing is said.
            ray.init("local", num_cpus=cores(os.environ), num_gpus=gpus, include_dashboard=False, **QUIET)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"pipeline.address: no Ray cluster at {address}; ray start --head ({error})") from None
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def for_simulators(gpus: int) -> int:
    """How many GPUs of the only machine are the simulators': one is the learner's, where there are several."""
    return max(gpus - 1, min(gpus, 1))


@contextmanager
def over_tasks(context: RoleContext, tasks: int) -> Iterator[Mapping[str, float]]:
    """Make a cluster of all tasks of the job, of which this is the first; RAY_AUTH_TOKEN is that of the cluster.

    Args:
        context: Of the role.
        tasks: How many there are.

    Yields:
        What the cluster has.

    Raises:
        RuntimeError: Its head does not start.
        Stopped: The role was asked to stop meanwhile.
    """
    invitation = Invitation(f"{ray.util.get_node_ip_address()}:{free_port()}", os.environ["RAY_AUTH_TOKEN"])
    gpus = for_simulators(torch.cuda.device_count()) if tasks == 1 else max(0, torch.cuda.device_count() - 1)
    with RayNode.head(invitation, gpus) as node:
        until = time.monotonic() + HEAD_TAKES
        while True:
            try:
                ray.init(invitation.address, **QUIET)
                break
            except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
                if node.has_ended() or time.monotonic() > until:
                    raise RuntimeError(f"the head of the Ray cluster does not start: {error}") from error
            _pause(context)
        try:
            # Only now: this process keeps to the node that it has found here, and that must be the head's.
            with invitation.published(context.run_dir, context.attempt):
                _wait_for_nodes(context, tasks)
                yield ray.cluster_resources()
        finally:
            ray.shutdown()


def _wait_for_nodes(context: RoleContext, tasks: int) -> None:
    """Wait for the nodes of the other tasks; without those that do not come the run begins all the same."""
    begun = time.monotonic()
    while (there := sum(found["Alive"] for found in ray.nodes())) < tasks and time.monotonic() < begun + NODES_TAKE:
        _pause(context)
    seconds = time.monotonic() - begun
    if there < tasks:
        log.warning("only %s of %s nodes have joined the Ray cluster within %.0f s", there, tasks, seconds)
    else:
        log.info("%s nodes have joined the Ray cluster after %.0f s", there, seconds)


def _pause(context: RoleContext) -> None:
    context.beat(Phase.STARTING)
    if context.should_stop:
        raise Stopped
    time.sleep(LOOK)


def choose_fleet(config: dict[str, Any], resources: Mapping[str, float], visible: int) -> None:
    """Fill in what `pipeline` leaves open.

    Args:
        config: The trainer's resolved config.
        resources: Of the cluster.
        visible: GPUs that this process sees.

    Raises:
        ConfigError: The cluster is too small.
    """
    pipeline = config["pipeline"]
    cores, each = resources.get("CPU", 0), pipeline["actor_cpus"]
    gpus = resources.get("GPU", 0) if config["env"]["backend"] in GPU_SIMULATORS else 0
    room = int(cores // each)
    count = pipeline["actors"] or int(gpus) or max(1, room - 1)
    if count > room:
        raise ConfigError(
            f"pipeline.actors: {count} with pipeline.actor_cpus of {each} are too many for the {cores:g} cores of the "
            "cluster; lower one of both, or start it with ray start --num-cpus"
        )
    pipeline |= {"actors": count, "actor_gpus": min(1.0, gpus / count)}
    if pipeline["simulator_device"] == "auto":
        pipeline["simulator_device"] = "cuda:0" if gpus else "cpu"
    if pipeline["learner_device"] == "auto":
        pipeline["learner_device"] = f"cuda:{visible - 1}" if visible else "cpu"
    if not gpus and config["threads"] is None:
        config["threads"] = 1  # as many processes as cores
