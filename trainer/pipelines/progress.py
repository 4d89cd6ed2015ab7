"""What has been done so far: counted, saved with the learner and the replay, and summed up at the end."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from trainer.checkpoint import load_latest
from trainer.config import Config
from trainer.learner import Learner
from trainer.randomness import random_state, restore_random_state
from trainer.replay import Replay
from trainer.run_dir import RunDir, write_atomically
from trainer.saving import BackgroundSaver

log = logging.getLogger(__name__)
PIECE = 1024  # rows of a replay that are looked at together: a mask of all of them would take much memory


@dataclass
class Mean:
    """Of numbers that come a few at a time."""

    total: float = 0.0
    count: int = 0

    def add(self, values: Sequence[float]) -> None:
        self.total += sum(values)
        self.count += len(values)

    def pop(self) -> float | None:
        """The mean, None of nothing; it starts anew."""
        mean = self.total / self.count if self.count else None
        self.total, self.count = 0.0, 0
        return mean


@dataclass
class Progress:
    """What has been done so far, over all attempts."""

    frames: int = 0
    versions: int = 0  # sets of weights that frames were collected with
    seconds: float = 0.0  # spent in the training loop
    random_return: float | None = None
    returns: list[float] = field(default_factory=list)  # of episodes since the last log line
    lengths: list[int] = field(default_factory=list)
    evaluated: list[float] = field(default_factory=list)  # returns of those without noise
    explored_mean: Mean = field(default_factory=Mean)  # of returns since the last checkpoint
    evaluated_mean: Mean = field(default_factory=Mean)  # of those without noise
    task: dict[str, Mean] = field(default_factory=dict)  # what it reported of itself since the last log line

    @staticmethod
    def of(saved: Mapping[str, Any]) -> Progress:
        """What `asdict` made of one."""
        means: dict[str, Any] = {name: Mean(**saved[name]) for name in ("explored_mean", "evaluated_mean")}
        means["task"] = {name: Mean(**mean) for name, mean in saved.get("task", {}).items()}
        return Progress(**{**saved, **means})

    def pop_score(self) -> float | None:
        """How good the policy has been since the last checkpoint: mean return, of episodes without noise if any."""
        explored, evaluated = self.explored_mean.pop(), self.evaluated_mean.pop()
        return explored if evaluated is None else evaluated

    def count(
        self,
        frames: int,
        returns: Sequence[float],
        lengths: Sequence[int],
        evaluated: Sequence[float] = (),
        task: Mapping[str, Sequence[float]] | None = None,
        versions: int = 0,
    ) -> None:
        """Add collected frames, and the episodes that ended in them.

        Args:
            frames: Over all environments.
            returns: Of the exploring environments' episodes.
            lengths: Of the same episodes, in steps.
            evaluated: Returns of the episodes without noise.
            task: What the task reported of itself, a number for each report.
            versions: Sets of weights that came into use.
        """
        self.frames += frames
        self.versions += versions
        self.returns += returns
        self.lengths += lengths
        self.evaluated += evaluated
        self.explored_mean.add(returns)
        self.evaluated_mean.add(evaluated)
        for name, values in (task or {}).items():
            self.task.setdefault(name, Mean()).add(values)

    def pop_episodes(self) -> dict[str, float]:
        """Metrics of the episodes since the last call, none where none ended, and what the task reported."""
        returns, lengths, evaluated = self.returns, self.lengths, self.evaluated
        self.returns, self.lengths, self.evaluated = [], [], []
        metrics: dict[str, float] = {}
        if returns:
            metrics |= {
                "episode/return": sum(returns) / len(returns),
                "episode/length": sum(lengths) / len(lengths),
                "episode/count": float(len(returns)),
            }
        if evaluated:
            metrics |= {"eval/return": sum(evaluated) / len(evaluated), "eval/count": float(len(evaluated))}
        reported = {name: mean.pop() for name, mean in self.task.items()}
        return metrics | {name: mean for name, mean in reported.items() if mean is not None}


@dataclass(frozen=True)
class Mark:
    """A moment of the training, for rates between two."""

    time: float
    step: int
    frames: int
    versions: int

    def rates_since(self, earlier: Mark) -> dict[str, float]:
        seconds, frames = max(self.time - earlier.time, 1e-9), self.frames - earlier.frames
        rates = {"throughput/fps": frames / seconds, "throughput/steps_per_s": (self.step - earlier.step) / seconds}
        if self.versions > earlier.versions:
            rates["throughput/frames_per_version"] = frames / (self.versions - earlier.versions)
        return rates


class ProgressSaver:
    """Writes checkpoints of everything that a run has come to, on an interval and whenever it is asked to.

    Args:
        run_dir: Of the run.
        config: `checkpoint` says how often, and whether the replay is part of it.
        learner: Its weights, optimiser and step.
        replay: Its rows.
    """

    def __init__(self, run_dir: RunDir, config: Config, learner: Learner, replay: Replay) -> None:
        self._config, self._learner, self._replay = config.checkpoint, learner, replay
        self._saver = BackgroundSaver(run_dir, config.checkpoint.keep)
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the interval is over, and the last checkpoint written."""
        return time.monotonic() - self._saved_at >= self._config.interval and not self._saver.busy

    def save(self, progress: Progress, collector: Any, *, background: bool) -> None:
        """Write a checkpoint.

        Args:
            progress: The counts.
            collector: `Collector.state_dict()` as of the replay's last row; None where the environments are to start
                anew.
            background: Training goes on while it is written.

        Raises:
            NotFinite: The weights are spoilt; nothing was written.
            OSError: The disk is full or not writable, for this checkpoint or the one before it.
        """
        learnt, score = self._learner.state_dict(), progress.pop_score()
        parts: dict[str, Any] = {
            "learner": learnt,
            "collector": collector,
            "progress": asdict(progress),
            "random": random_state(),
        }
        if self._config.replay:
            parts["replay"] = self._replay.state_dict()
        self._saver.save(self._learner.step, parts, score=score, compress=("replay",), background=background)
        self._saved_at = time.monotonic()

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            OSError: What was written last could not be.
        """
        self._saver.wait()


def resume(run_dir: RunDir, learner: Learner, replay: Replay) -> tuple[Progress, Any]:
    """Go on from the newest checkpoint, or from nothing where there is none.

    Returns:
        The counts, and what `Collector.state_dict()` was then; None for environments that start anew.
    """
    checkpoint = load_latest(run_dir)
    if checkpoint is None:
        return Progress(), None
    parts = checkpoint.parts
    learner.load_state_dict(parts["learner"])
    progress = Progress.of(parts["progress"])
    # What a simulator has spoilt may lie there unseen, and would spoil this attempt too.
    if "replay" in parts and _is_finite(parts["replay"]):
        replay.load_state_dict(parts["replay"])
    elif "replay" in parts:
        log.warning("the replay of step %s holds values that are not finite: it begins anew", checkpoint.step)
    collector = parts["collector"] if _is_finite(parts["collector"]) else None
    restore_random_state(parts["random"])
    log.info("resuming from step %s, %s frames", checkpoint.step, f"{progress.frames:,}")
    return progress, collector


def _is_finite(part: Any) -> bool:
    """Whether all floating-point tensors in a part of a checkpoint are finite."""
    match part:
        case Tensor() if part.is_floating_point() and part.dim():
            return all(bool(rows.isfinite().all()) for rows in part.split(PIECE))
        case Mapping():
            return all(map(_is_finite, part.values()))
        case list() | tuple():
            return all(map(_is_finite, part))
        case _:
            return True


def write_summary(
    run_dir: RunDir,
    config: Config,
    progress: Progress,
    optim_steps: int,
    trained_return: float | None,
    max_return: float | None,
) -> None:
    """Leave summary.json.

    Args:
        run_dir: Of the run.
        config: For the task's name.
        progress: The counts.
        optim_steps: Optimiser steps done.
        trained_return: Mean return of the trained policy, None where it was not evaluated.
        max_return: Largest possible return, None where it is not known.
    """
    summary = {
        "task": config.env.name,
        "random_return": progress.random_return,
        "trained_return": trained_return,
        "max_return": max_return,
        "frames": progress.frames,
        "fps": progress.frames / progress.seconds if progress.seconds else None,
        "optim_steps": optim_steps,
        "steps_per_s": optim_steps / progress.seconds if progress.seconds else None,
        "seconds": progress.seconds,
    }
    write_atomically(run_dir.summary, json.dumps(summary, indent=2))
