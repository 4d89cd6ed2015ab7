"""The command `python -m trainer.export`: a checkpoint in, a folder with the policy out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.export import check
from trainer.export.errors import ExportError
from trainer.export.formats import OPSET, write_onnx, write_torchscript
from trainer.export.source import Source, load_source
from trainer.export.step import OUTPUTS, STATE, PolicyStep
from trainer.interface import describe
from trainer.run_dir import RunDir

FORMAT = 1
ONNX, TORCHSCRIPT, METADATA, RUNNER = "policy.onnx", "policy.pt", "policy.json", "runner.py"
FILES = (ONNX, TORCHSCRIPT, RUNNER, METADATA)
_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")


def export(run_dir: RunDir, checkpoint: str, output: Path) -> dict[str, Any]:
    """Write the policy's folder; files that are in it stay, but for those of the same names.

    Args:
        run_dir: Of the run.
        checkpoint: One of the run's, `latest` or `best`.
        output: The folder.

    Returns:
        Content of policy.json.

    Raises:
        ExportError: There is nothing to export, or the files do not do what the trainer's policy does; `output` is as
            it was.
        OSError: The disk is full or not writable.
    """
    source = load_source(run_dir, checkpoint)
    step = PolicyStep(source.agent, source.interface.observation)
    metadata = _metadata(source, step)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as made:
        folder = Path(made)
        write_torchscript(step, folder / TORCHSCRIPT)
        write_onnx(step, folder / ONNX)
        (folder / RUNNER).write_bytes(Path(__file__).with_name(RUNNER).read_bytes())
        _write(folder / METADATA, metadata)
        metadata["check"] = _checked(source, step, folder)
        _write(folder / METADATA, metadata)
        output.mkdir(exist_ok=True)
        for name in FILES:
            os.replace(folder / name, output / name)
    return metadata


def _metadata(source: Source, step: PolicyStep) -> dict[str, Any]:
    """Content of policy.json, without what is measured."""
    config, interface, control = source.config, source.interface, source.interface.control
    limit = float(config.env.action_limit)
    versions = {}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    state = dict(zip(step.inputs, step.examples(), strict=True))
    return {
        "format": FORMAT,
        "task": config.env.name,
        "agent": config.agent.name,
        "checkpoint": source.checkpoint,
        "step": source.step,
        "commit": source.commit,
        "versions": versions,
        "observations": {key: describe(space) for key, space in sorted(interface.observation.items())},
        "action": {
            "width": interface.action,
            "low": [-limit] * interface.action if control is None else control.low,
            "high": [limit] * interface.action if control is None else control.high,
            "joints": None if control is None else control.joints,
            "scale": None if control is None else control.scale,
            "offset": None if control is None else control.offset,
        },
        "control_period": None if control is None else control.period,
        "state": {name: state[name].shape[-1] for name in STATE},
        "noise": {"width": step.noise_width, "distribution": step.noise_distribution},
        "inputs": step.inputs,
        "outputs": OUTPUTS,
        "opset": OPSET,
    }


def _checked(source: Source, step: PolicyStep, folder: Path) -> dict[str, Any]:
    """What holding the files against the trainer's policy gave; ONNX only where onnxruntime is installed.

    Raises:
        ExportError: They differ.
    """
    episodes = check.episodes_of(source)
    differences = {
        TORCHSCRIPT: check.largest_difference(
            source, step, episodes, check.torchscript_step(folder / TORCHSCRIPT, step)
        )
    }
    seconds = None
    if importlib.util.find_spec("onnxruntime") is not None:
        differences[ONNX] = check.largest_difference(source, step, episodes, check.onnx_step(folder / ONNX))
        seconds = check.seconds_a_step(folder, episodes)
    for name, difference in differences.items():
        if not difference <= check.TOLERANCE:  # NaN neither
            raise ExportError(
                f"{name} differs from the trainer's policy by {difference:.1e}, and {check.TOLERANCE:.0e} is allowed; "
                "nothing was written"
            )
    return {
        "max_difference": differences,
        "tolerance": check.TOLERANCE,
        "steps": len(episodes.is_first),
        "observations": "recorded" if episodes.recorded else "random",
        "step_ms": None if seconds is None else round(1000 * seconds, 4),
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
