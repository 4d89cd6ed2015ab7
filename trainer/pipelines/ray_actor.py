"""One simulation in a process of Ray's. Imports no torch before it is told to start: Isaac Sim must come first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.config import Config
from trainer.simulators.launch import start_isaac

if TYPE_CHECKING:
    from trainer.pipelines.messages import Chunk, Hello
    from trainer.pipelines.ray_simulation import Simulation


@dataclass(frozen=True)
class Place:
    """Which actor it is.

    Attributes:
        index: Of the actor, and of its environments in the replay.
        life: How many of this index came before.
        run_dir: Of the run.
    """

    index: int
    life: int
    run_dir: str


@dataclass(frozen=True)
class Collected:
    """A chunk from an actor.

    Attributes:
        index: Of the actor.
        chunk: What there is to say of it.
        structure: `tree.names` of rows and latents.
        arrays: By those names, `[T, …]`.
    """

    index: int
    chunk: Chunk
    structure: Any
    arrays: Mapping[str, Any]


class SimulationActor:
    """What Ray runs: every call in turn, in the process's main thread.

    Args:
        config: The trainer's resolved config.
        place: Of this actor.
    """

    def __init__(self, config: Mapping[str, Any], place: Place) -> None:
        self._config, self._place = config, place
        self._simulation: Simulation | None = None

    def start(self) -> Hello:
        """Start the simulator."""
        start_isaac(Config.of(self._config))
        from trainer.pipelines.ray_simulation import Simulation

        self._simulation = Simulation(Config.of(self._config), self._place)
        return self._simulation.hello

    def collect(self, *, random: bool, version: int, weights: Any) -> Collected:
        """A chunk, with these weights' policy or random actions."""
        assert self._simulation is not None
        return self._simulation.collect(random=random, version=version, weights=weights)

    def evaluate(self, *, random: bool, version: int, weights: Any) -> float:
        """Mean return of `eval.episodes` episodes; new episodes begin behind them."""
        assert self._simulation is not None
        return self._simulation.evaluate(random=random, version=version, weights=weights)
