"""Runs an exported policy with numpy and onnxruntime alone. Copy the folder anywhere, and take this file with it.

policy = Runner("export")
while True:
    policy.reset()                                # an episode begins
    while not done:
        action = policy.act({"policy": numbers})  # within [-1, 1]; policy.json says what the task makes of it
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class Runner:
    """The policy of one robot, on one CPU core.

    Args:
        folder: With policy.onnx and policy.json.
        seed: Of the latents, which are drawn as the trainer's own evaluation draws them.

    Attributes:
        metadata: Content of policy.json.
    """

    def __init__(self, folder: str | Path, seed: int = 0) -> None:
        folder = Path(folder)
        self.metadata: dict[str, Any] = json.loads((folder / "policy.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a policy is too small to be shared out
        self._session = onnxruntime.InferenceSession(
            str(folder / "policy.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._generator = np.random.default_rng(seed)
        self._observations = self.metadata["observations"]
        self._noise = self.metadata["noise"]
        self.reset()

    def reset(self) -> None:
        """Forget everything: an episode begins with the next observation."""
        self._state = {name: np.zeros((1, width), np.float32) for name, width in self.metadata["state"].items()}
        self._is_first = True

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """What to do next, `[A]`, float32 within [-1, 1].

        Args:
            observation: An array for each name under `observations` of policy.json, in the shape and type given there.

        Raises:
            ValueError: One is missing, or has another shape.
        """
        feed = {f"observation.{name}": self._array(name, observation) for name in self._observations}
        feed |= self._state | {"is_first": np.array([self._is_first]), "noise": self._draw()}
        action, deter, stoch = self._session.run(["action", "next.deter", "next.stoch"], feed)
        self._state = {"state.deter": deter, "state.stoch": stoch, "state.action": action}
        self._is_first = False
        return action[0]

    def _array(self, name: str, observation: Mapping[str, Any]) -> np.ndarray:
        """One observation, `[1, …]`."""
        expected = self._observations[name]
        if name not in observation:
            raise ValueError(f"observation {name!r} is missing; there must be {', '.join(self._observations)}")
        array = np.asarray(observation[name], expected["dtype"])
        if array.shape != tuple(expected["shape"]):
            raise ValueError(f"observation {name!r} has shape {array.shape}, not {tuple(expected['shape'])}")
        return array[np.newaxis]

    def _draw(self) -> np.ndarray:
        """Randomness of the latents, `[1, W]`."""
        shape = (1, self._noise["width"])
        if self._noise["distribution"] == "uniform":
            return self._generator.random(shape, np.float32)
        return self._generator.standard_normal(shape, np.float32)
