"""What the driver says of the GPUs, by `nvidia-smi`. It may answer late: to be asked in a thread. Imports no torch."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

QUERY = ("nvidia-smi", "--query-gpu=index,uuid,utilization.gpu,memory.used", "--format=csv,noheader,nounits")
TIMEOUT = 20.0  # seconds; a driver in trouble answers late or never
MIB = 2**20


@dataclass(frozen=True)
class GpuReading:
    """One GPU at one moment.

    Attributes:
        index: The driver's; CUDA may count in another order.
        uuid: `GPU-…`.
        utilization: Percent of the last second, at most, in which anything ran on it.
        memory_used: Bytes, of all processes.
    """

    index: str
    uuid: str
    utilization: float
    memory_used: float


def is_installed() -> bool:
    """Whether there is anything to ask."""
    return shutil.which(QUERY[0]) is not None


def read_gpus() -> list[GpuReading]:
    """All GPUs of this machine; none where the driver does not say."""
    try:
        done = subprocess.run(QUERY, capture_output=True, text=True, timeout=TIMEOUT, check=True)
        rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines()]
        return [GpuReading(index, uuid, float(use), float(memory) * MIB) for index, uuid, use, memory in rows]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
