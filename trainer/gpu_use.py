"""How busy the run's GPUs are and how full, for the metrics: asked in a thread, so that nothing waits for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from trainer.nvidia_smi import is_installed, read_gpus
from trainer.pipelines.progress import Mean

INTERVAL = 5.0  # seconds between two questions; one takes the driver some 50 ms
NAMES = ("gpu", "simulator_gpu")  # of figures: the learner's GPU, and the simulator's where it is another


class GpuUse:
    """Asks for as long as it is entered; on a CPU it has nothing to say.

    Args:
        devices: The learner's, and the simulator's where that may be another.
        interval: Seconds between two questions.
    """

    def __init__(self, devices: Sequence[torch.device], interval: float = INTERVAL) -> None:
        self._devices = [device for device in dict.fromkeys(devices) if device.type == "cuda"]
        self._names = {
            f"GPU-{torch.cuda.get_device_properties(device).uuid}": name
            for device, name in zip(self._devices, NAMES, strict=False)
        }
        self._interval = interval
        self._means: dict[str, Mean] = {}
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._ask, name="gpu-use", daemon=True)

    def __enter__(self) -> GpuUse:
        if self._devices and is_installed():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def pop(self) -> dict[str, float]:
        """Means since the last call, and the most that this process has held on the learner's GPU since then."""
        with self._lock:
            means, self._means = self._means, {}
        figures = {name: mean.total / mean.count for name, mean in means.items()}
        if self._devices:
            figures["gpu/memory_peak"] = torch.cuda.max_memory_allocated(self._devices[0]) / 1e9
            torch.cuda.reset_peak_memory_stats(self._devices[0])
        return figures

    def _ask(self) -> None:
        while not self._stop.wait(self._interval):
            for gpu in read_gpus():
                if (name := self._names.get(gpu.uuid)) is not None:
                    with self._lock:
                        self._means.setdefault(f"{name}/utilization", Mean()).add([gpu.utilization])
                        self._means.setdefault(f"{name}/memory_used", Mean()).add([gpu.memory_used / 1e9])
