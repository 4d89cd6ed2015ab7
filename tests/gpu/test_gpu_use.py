"""Figures of a GPU that works, from its own driver."""

from __future__ import annotations

import time

import pytest
import torch

from trainer.gpu_use import GpuUse
from trainer.nvidia_smi import is_installed

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
GPU = torch.device("cuda:0")


@pytest.mark.skipif(not is_installed(), reason="no nvidia-smi")
def test_a_gpu_that_works_is_busy_and_holds_what_was_allocated():
    held = torch.cuda.memory_allocated(GPU) / 1e9  # by tests before this one
    matrix = torch.rand(8192, 8192, device=GPU)
    with GpuUse([GPU, GPU], interval=0.1) as use:
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            matrix = (matrix @ matrix).clamp(0, 1)
            torch.cuda.synchronize()
        figures = use.pop()
        del matrix
        torch.cuda.empty_cache()
        use.pop()
        time.sleep(2)
        later = use.pop()
    assert set(figures) == {"gpu/utilization", "gpu/memory_used", "gpu/memory_peak"}
    assert 30 < figures["gpu/utilization"] <= 100
    assert 2 * 4 * 8192**2 / 1e9 <= figures["gpu/memory_peak"] <= figures["gpu/memory_used"]
    assert later["gpu/memory_peak"] < held + 0.1
    assert later["gpu/memory_used"] < figures["gpu/memory_used"]


def test_on_a_cpu_there_is_nothing_to_say():
    with GpuUse([torch.device("cpu")], interval=0.01) as use:
        assert use.pop() == {}
