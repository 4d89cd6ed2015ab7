"""Writing the step as TorchScript and as ONNX.

Both come from a trace. `torch.onnx.export` has a newer way through `torch.export`; the older one is what PyTorch 2.7 of
Isaac Lab's image and the newest PyTorch do alike, without onnxscript.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.onnx.symbolic_helper import parse_args

from trainer.export.step import OUTPUTS, PolicyStep

OPSET = 17  # read by every onnxruntime since 1.13; ReduceMean takes its axes as an attribute up to here
_RMS_NORM = "aten::rms_norm"


def write_torchscript(step: PolicyStep, path: Path) -> None:
    """For `torch.jit.load`, from Python or from C++; arguments in the order of `step.inputs`."""
    with _quietly(), torch.no_grad():
        traced = torch.jit.trace(step.eval(), step.examples(), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced), str(path))


def write_onnx(step: PolicyStep, path: Path) -> None:
    """One file, weights included; inputs are named as in `step.inputs`, outputs as in `OUTPUTS`."""
    torch.onnx.register_custom_op_symbolic(_RMS_NORM, _rms_norm, OPSET)
    try:
        with _quietly(), torch.no_grad():
            torch.onnx.export(
                step.eval(),
                step.examples(),
                str(path),
                input_names=list(step.inputs),
                output_names=list(OUTPUTS),
                opset_version=OPSET,
                dynamo=False,
            )
    finally:
        torch.onnx.unregister_custom_op_symbolic(_RMS_NORM, OPSET)


@parse_args("v", "is", "v", "f")
def _rms_norm(graph: Any, x: Any, shape: list[int], scale: Any, eps: float) -> Any:
    """Root-mean-square normalisation in ONNX's words, which has no operator of its own for it before opset 23.

    In these very operators onnxruntime recognises it and makes it one kernel.
    """

    def constant(value: float) -> Any:
        return graph.op("Constant", value_t=torch.tensor(value))

    mean = graph.op("ReduceMean", graph.op("Pow", x, constant(2.0)), axes_i=[-1], keepdims_i=1)
    root = graph.op("Sqrt", graph.op("Add", mean, constant(eps)))
    return graph.op("Mul", graph.op("Div", x, root), scale)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what PyTorch says of shapes that become constants, which they are here, and of its own plans."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
