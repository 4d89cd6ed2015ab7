"""The command `export`: a run's policy as files, written by the trainer's code in a process with torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.completion import RunRef
from orchestrator.errors import LongshoreError
from orchestrator.surroundings import existing_store, profile_files

if TYPE_CHECKING:
    from orchestrator.runs import RunRecord


def export(
    ref: RunRef,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FOLDER", help="By default `export` in the run's folder.")
    ] = None,
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", metavar="NAME", help="One of the run's: step_00001000, latest, best.")
    ] = "latest",
) -> int:
    """Write a run's policy as ONNX and TorchScript, checked against the trainer's own, with a runner without torch."""
    record = existing_store(ref).get(ref)
    python, folder = _python(record), (output or record.run_dir / "export").absolute()
    words = [python, "-m", "trainer.export", str(record.run_dir), "--output", str(folder), "--checkpoint", checkpoint]
    try:
        done = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(_code(record))}, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise LongshoreError(f"{python}: {error.strerror}; `python` in profiles.yaml names the interpreter") from error
    return done.returncode


def _python(record: RunRecord) -> str:
    """The interpreter that local runs of the run's profile have; of a container's, only the container knows."""
    from orchestrator.profile import load_profile

    return load_profile(record.profile, "local", profile_files()).python or sys.executable


def _code(record: RunRecord) -> Path:
    """Folder of the trainer that made the policy; the present one where that is gone or could not export yet."""
    from orchestrator.assets import trainer_folder
    from trainer.run_dir import RunDir, read_json

    snapshot = (read_json(RunDir(record.run_dir).plan) or {}).get("snapshot")
    if snapshot is not None and Path(snapshot["folder"], "trainer", "export").is_dir():
        return Path(snapshot["folder"])
    return trainer_folder().parent
