"""The replay ratio of a run whose simulator and learner work at once: who is ahead, and how far it may be."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass
class Balance:
    """Frames trained on against frames collected, both since learning began.

    Neither side is ahead by more than what one chunk and one optimiser step are worth. Within that, both may go on at
    the same time; and they never both have to wait, because one chunk takes the learner out of its wait, and one step
    the simulator.

    Args:
        ratio: Trained frames per collected frame; None to let both go on as they can.
        batch: Frames that an optimiser step trains on.
        chunk: Frames that are collected at once.
    """

    ratio: float | None
    batch: int
    chunk: int
    trained: int = 0
    collected: int = 0

    def may_learn(self) -> bool:
        """Whether the learner may take a step."""
        return self.ratio is None or self.trained + self.batch <= self.ratio * self.collected + self.slack

    def permitted(self) -> float:
        """Frames that may be collected in all, as whole chunks; infinite without a ratio."""
        if self.ratio is None:
            return math.inf
        return math.floor((self.trained + self.slack) / self.ratio / self.chunk) * self.chunk

    @property
    def slack(self) -> float:
        """Trained frames by which either side may be ahead."""
        return 0.0 if self.ratio is None else self.ratio * self.chunk + self.batch
