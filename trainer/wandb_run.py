"""Weights & Biases: a copy of the figures, the checkpoints and the exported policy. What is wrong with it is said once.

All attempts of a run are one run there, under the run's own id, in the group of its sweep. Nothing here waits for the
network but the start and the end, and those not for long: the package's own process sends what it is given, and threads
of `trainer.wandb_artifacts` what takes an answer.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.run_dir import RUN_ID_VARIABLE, RunDir, read_json, write_atomically
from trainer.wandb_artifacts import Artifacts

log = logging.getLogger(__name__)

START_SECONDS = 60  # to reach W&B; then the run is kept offline
FINISH_SECONDS = 20  # for the last upload; well under the grace in which a role has to end


class WandB:
    """The run at W&B. One that cannot be reached is kept offline, for `wandb sync`.

    Args:
        run_dir: Of the run.
        config: The trainer's resolved config.
        notes: To be shown beside the config.
    """

    def __init__(self, run_dir: RunDir, config: Mapping[str, Any], notes: Mapping[str, Any] | None = None) -> None:
        self._run: Any = None
        self._artifacts: Artifacts | None = None
        self._run_dir, settings = run_dir, config["logger"]["wandb"]
        # Files of artefacts wait here for their upload; a container's own folders go with it.
        os.environ.setdefault("WANDB_DATA_DIR", str(run_dir.root / "wandb"))
        try:
            import wandb
        except ImportError:
            log.warning("W&B is left out: the package wandb is not installed")
            return
        self._id = _run_id(run_dir)
        git = read_json(run_dir.git) or {}
        arguments = {
            "project": settings["project"],
            "group": settings["group"] or (read_json(run_dir.plan) or {}).get("sweep_id"),
            "id": self._id,
            "name": self._id,
            "resume": "allow",
            "dir": str(run_dir.root),  # wandb makes the folder wandb/ in it
            "config": {**config, "git": git, **(notes or {})},
            "settings": wandb.Settings(
                console="off",
                silent=True,
                init_timeout=START_SECONDS,
                git_commit=git.get("commit") or None,
                disable_git=True,  # it would look at the repository around the working directory
            ),
        }
        online = False
        if settings["mode"] == "online":
            try:
                self._run, online = wandb.init(mode="online", **arguments), True
            except Exception as error:
                words = " ".join(str(error).split())
                log.warning("W&B cannot be reached (%s): the run is kept in %s/wandb", words, run_dir.root)
        if self._run is None:
            try:
                self._run = wandb.init(mode="offline", **arguments)
            except Exception as error:
                log.warning("W&B is left out: %s: %s", type(error).__name__, error)
                return
        self._artifacts = Artifacts(self._run, run_dir, self._id, online=online)
        # A resumed run may log a step again that an earlier attempt has logged; W&B's own counter never goes back.
        with suppress(Exception):
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass figures on."""
        if self._run is None:
            return
        try:
            self._run.log({"step": step, **values})
        except Exception as error:
            self._run = None
            log.warning("W&B is left out from here on: %s: %s", type(error).__name__, error)

    def add_policy(self, files: Iterable[Path], checkpoint: str) -> None:
        """Keep the exported policy as an artefact; it is sent by `close`."""
        if self._artifacts is not None:
            self._artifacts.add_policy(files, checkpoint)

    def follow_checkpoints(self) -> None:
        """Keep the checkpoints as versions of an artefact, without their replays; online each when it is saved."""
        if self._artifacts is not None:
            self._artifacts.follow_checkpoints()

    def close(self) -> bool:
        """Wait for the last upload, but not for a network that is gone.

        Returns:
            Whether it is done. Where not, the process has to end by `os._exit`: the package waits without end.
        """
        if self._run is None:
            return True
        finish = threading.Thread(target=self._finish, name="wandb-finish", daemon=True)
        finish.start()
        finish.join(FINISH_SECONDS)
        if finish.is_alive():
            log.warning(
                "W&B's last upload has not finished in %d s and is left to "
                "`wandb sync --include-online %s/wandb/run-*-%s`",
                FINISH_SECONDS,
                self._run_dir.root,
                self._id,
            )
        self._run = None
        return not finish.is_alive()

    def _finish(self) -> None:
        assert self._artifacts is not None
        try:
            self._artifacts.finish()
        except Exception as error:
            log.warning("W&B did not take the last artefacts: %s: %s", type(error).__name__, error)
        with suppress(Exception):
            self._run.finish()


def _run_id(run_dir: RunDir) -> str:
    """One W&B run for all attempts and exports: the run's id, or one that is drawn once; kept in the run directory."""
    kept = run_dir.root / "wandb" / "run_id"
    given = os.environ.get(RUN_ID_VARIABLE)
    if given or not kept.exists():
        write_atomically(kept, given or secrets.token_hex(4))
    return kept.read_text(encoding="utf-8").strip()
