"""A simulator that goes wrong once: put on PYTHONPATH as sitecustomize.py, it spoils a step of the debug simulator.

$SPOILT is what happens: `nan`, one environment shows what is no number, for an episode; `memory`, the process takes all
that there is. The file $SPOILT_ONCE says whether it has happened.
"""

from __future__ import annotations

import builtins
import os
import sys
from pathlib import Path
from typing import Any

MODULE = "trainer.simulators.debug"
AT = 600  # steps of the simulator
_import = builtins.__import__


def _take_all() -> None:
    taken = []
    while True:
        taken.append(b"x" * (16 << 20))


def _spoil(simulator: Any) -> None:
    step, mark = simulator.step, Path(os.environ["SPOILT_ONCE"])
    steps = 0

    def spoilt(self: Any, action: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == AT and not mark.exists():
            mark.touch()
            if os.environ["SPOILT"] == "memory":
                _take_all()
            self._position[0] = float("nan")  # until the episode ends
        return step(self, action)

    simulator.step = spoilt


def _imported(*arguments: Any, **words: Any) -> Any:
    module = _import(*arguments, **words)
    simulator = getattr(sys.modules.get(MODULE), "DebugSimulator", None)
    if simulator is not None:
        builtins.__import__ = _import
        _spoil(simulator)
    return module


builtins.__import__ = _imported
