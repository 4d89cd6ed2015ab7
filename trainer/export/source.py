"""What is exported: a run's agent as one of its checkpoints holds it, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from trainer.agents import make_agent
from trainer.agents.base import Agent
from trainer.checkpoint import Checkpoint, CorruptCheckpoint, load
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.export.errors import ExportError
from trainer.interface import Interface, read_interface
from trainer.run_dir import RunDir, read_json

REPLAY_BYTES = 1 << 30  # a larger replay is not read for the few rows that the check takes


@dataclass(frozen=True)
class Source:
    """A trained agent and where it comes from.

    Attributes:
        replay: Saved state of the replay, None where the checkpoint has none or a large one.
        commit: Of the code that trained it, None where that is not known.
    """

    agent: Agent
    interface: Interface
    config: Config
    checkpoint: str
    step: int
    replay: Mapping[str, Any] | None
    commit: str | None


def load_source(run_dir: RunDir, name: str) -> Source:
    """The agent of a checkpoint.

    Args:
        run_dir: Of the run, which may be going on.
        name: A checkpoint, `latest` or `best`.

    Raises:
        ExportError: There is no such checkpoint, or what it takes to make an agent of it is missing.
    """
    interface = read_interface(run_dir)
    if interface is None:
        raise ExportError(
            f"{run_dir.interface} is not there: the run began before trainers wrote it, and what its policy sees "
            "stands nowhere else; resume the run, which writes it"
        )
    folder = _folder(run_dir, name)
    config = Config.of(yaml.safe_load(run_dir.config.read_text(encoding="utf-8")))
    try:
        checkpoint = _load(folder)
        agent = make_agent(config.agent, interface.observation, interface.action)
        agent.load_state_dict(checkpoint.parts["learner"]["agent"])
    except CorruptCheckpoint as error:
        raise ExportError(f"{folder}: {error}; name another one with --checkpoint") from error
    except (ConfigError, RuntimeError) as error:  # other layers, or other sizes
        reason = " ".join(str(error).split())
        raise ExportError(f"{folder}: this version makes another agent of {run_dir.config.name}: {reason}") from error
    git = read_json(run_dir.git) or {}
    return Source(
        agent.eval().requires_grad_(False),
        interface,
        config,
        folder.name,
        checkpoint.step,
        checkpoint.parts.get("replay"),
        git.get("commit"),
    )


def _load(folder: Path) -> Checkpoint:
    replay = [file.stat().st_size for file in folder.glob("replay.*")]
    small = sum(replay) <= REPLAY_BYTES
    return load(folder, torch.device("cpu"), only=("learner", "replay") if small else ("learner",))


def _folder(run_dir: RunDir, name: str) -> Path:
    folder = (run_dir.checkpoints / name).resolve()
    if folder.parent != run_dir.checkpoints.resolve() or not folder.is_dir():
        names = [path.name for path in sorted(run_dir.checkpoints.glob("[!.]*"))]
        raise ExportError(f"{run_dir.root} has no checkpoint {name}; it has {', '.join(names) or 'none'}")
    return folder
