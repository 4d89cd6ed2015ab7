"""Exported policies: how far they are from the trainer's, how long a step takes, and the return without torch.

    python benchmarks/export.py RUN [--json [FILE]]

RUN is the folder of a quickstart run that has ended. Two debug runs, of a few seconds each, are made here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

import torch

from benchmarks.results import save_result
from trainer.collection import evaluate
from trainer.config import Config
from trainer.export.source import load_source
from trainer.run_dir import RunDir
from trainer.simulators import make_simulator
from trainer.simulators.base import Simulator

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_TORCH = ROOT / "tests" / "trainer" / "torchless.py"
ROBOTS, SEED = 64, 5
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Figure:
    """Of one policy; returns are means of 64 first episodes with their standard errors, of the quickstart alone."""

    name: str
    max_difference: float
    step_ms: float
    exported_return: float | None = None
    exported_error: float | None = None
    trainers_return: float | None = None
    trainers_error: float | None = None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", nargs="?", type=Path, const=Path(), metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = [debug(agent, Path(folder)) for agent in ("dreamer_v3", "dreamer")]
        figures.append(quickstart(arguments.run, Path(folder) / "quickstart"))
    for figure in figures:
        print(figure)
    save_result(arguments.json, "export", figures, ("torch", "onnx", "onnxruntime", "numpy"))


def debug(agent: str, folder: Path) -> Figure:
    """The smallest policy there is, trained for a few seconds."""
    run = folder / agent
    trained = [sys.executable, "-m", "trainer", "experiment=debug", f"agent={agent}", f"run_dir={run}"]
    subprocess.run(trained, cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    check = exported(run, run / "export")["check"]
    return Figure(f"experiment=debug agent={agent}", check["max_difference"]["policy.onnx"], check["step_ms"])


def quickstart(run: Path, output: Path) -> Figure:
    """A policy that was trained to the end, in the task's own physics."""
    check = exported(run, output)["check"]
    source = load_source(RunDir(run), "latest")
    settings = Config(**{**vars(source.config.env), "num_envs": ROBOTS})
    simulator = make_simulator(settings, SEED, CPU)
    theirs = evaluate(simulator, source.agent, ROBOTS, SEED, CPU)
    mine = drive(simulator, output)
    return Figure(
        "jobs/quickstart.yaml",
        check["max_difference"]["policy.onnx"],
        check["step_ms"],
        *(statistics.fmean(mine), _error(mine), statistics.fmean(theirs), _error(theirs)),
    )


def exported(run: Path, output: Path) -> dict[str, Any]:
    """policy.json of an export."""
    command = [sys.executable, "-m", "trainer.export", str(run), "--output", str(output)]
    subprocess.run(
        command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"WANDB_MODE": "disabled"}
    )
    metadata: dict[str, Any] = json.loads((output / "policy.json").read_text(encoding="utf-8"))
    return metadata


def drive(simulator: Simulator, folder: Path) -> list[float]:
    """Returns of each robot's first episode, whose actions a process without torch is asked for over a pipe."""
    command = [sys.executable, str(WITHOUT_TORCH), str(folder), str(ROBOTS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as policy:
        assert policy.stdin is not None
        assert policy.stdout is not None
        observation, first = simulator.reset(), torch.ones(ROBOTS, dtype=torch.bool)
        total, running = torch.zeros(ROBOTS), torch.ones(ROBOTS, dtype=torch.bool)
        while running.any():
            asked = {"first": first.tolist(), "observation": {key: rows.tolist() for key, rows in observation.items()}}
            policy.stdin.write(json.dumps(asked) + "\n")
            policy.stdin.flush()
            observation, reward, first, _ = simulator.step(torch.tensor(json.loads(policy.stdout.readline())))
            total += reward * running
            running &= ~first
        policy.stdin.close()
    return [float(value) for value in total]


def _error(returns: list[float]) -> float:
    return statistics.stdev(returns) / len(returns) ** 0.5


if __name__ == "__main__":
    main()
