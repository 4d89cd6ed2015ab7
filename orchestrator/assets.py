"""Where the templates and the trainer are: beside this package in a clone, inside it when installed."""

from __future__ import annotations

from pathlib import Path

import trainer

_PACKAGE = Path(__file__).resolve().parent


def templates_folder() -> Path:
    """The folder of setup-and-run.sh.j2: `orchestrator/templates` when installed, `templates` in a clone."""
    installed = _PACKAGE / "templates"
    return installed if installed.is_dir() else _PACKAGE.parent / "templates"


def containers_folder() -> Path:
    """The folder of Dockerfile.isaac: `orchestrator/containers` when installed, `containers` in a clone."""
    installed = _PACKAGE / "containers"
    return installed if installed.is_dir() else _PACKAGE.parent / "containers"


def trainer_folder() -> Path:
    """The trainer package that runs ship: the one that this Python would import."""
    assert trainer.__file__ is not None, "trainer is a regular package"
    return Path(trainer.__file__).resolve().parent
