"""Artefacts of a run at W&B: its checkpoints, each when it is saved, and the exported policy.

The package asks the network about each artefact and waits for the answer, so that all of this belongs to threads that
nobody waits for. A thread looks for new checkpoints; one that it comes too late for, because the network is slow or
gone, is left out, and no more than the newest and the best one ever wait to be sent.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from trainer.run_dir import RunDir, read_json

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0  # between two looks at what has been saved
MANIFEST = "manifest.json"
PARTS = ("learner.pt", MANIFEST)  # of a checkpoint; its replay may have gigabytes
ALIASES = ("best", "latest")  # links in the folder of checkpoints


class _Version(NamedTuple):
    """A checkpoint that is there now; a later one may have its folder's name."""

    folder: Path
    saved: int  # nanoseconds of Unix time


class Artifacts:
    """Sends artefacts of one run.

    Args:
        run: The package's.
        run_dir: Of the run.
        name: Of the run at W&B, which theirs begin with.
        online: Whether there is somebody to send them to. What is kept offline is copied, so that the last ones have to
            do.
    """

    def __init__(self, run: Any, run_dir: RunDir, name: str, *, online: bool) -> None:
        self._run, self._folder, self._name, self._online = run, run_dir.checkpoints, name, online
        self._policies: list[tuple[list[Path], str]] = []  # files, alias
        self._checkpoints = False
        self._logged: dict[_Version, Any] = {}  # the package's artefact of each
        self._aliases: dict[_Version, set[str]] = {}
        self._lock = threading.Lock()
        self._ending = threading.Event()

    def add_policy(self, files: Iterable[Path], alias: str) -> None:
        """Keep an exported policy; it is sent by `finish`."""
        self._policies.append((list(files), alias))

    def follow_checkpoints(self) -> None:
        """Send checkpoints from now on, each when it is saved; offline the newest and the best one, by `finish`.

        Versions that are on the disk no more are removed at W&B, unless somebody has given them another alias there.
        """
        self._checkpoints = True
        if self._online:
            threading.Thread(target=self._follow, name="wandb-checkpoints", daemon=True).start()

    def finish(self) -> None:
        """Send what is left; for a thread that nobody waits for without end."""
        self._ending.set()
        with self._lock:
            if self._checkpoints:
                self._send_checkpoints()
            for files, alias in self._policies:
                self._log("policy", "model", files, ["latest", alias], {})

    def _follow(self) -> None:
        said = False
        while not self._ending.wait(LOOK_SECONDS):
            try:
                with self._lock:
                    self._send_checkpoints()
            except Exception as error:
                if not said and not self._ending.is_set():
                    log.warning("W&B did not take a checkpoint: %s: %s", type(error).__name__, error)
                said = True

    def _send_checkpoints(self) -> None:
        """Send those that have not been, or not under all their aliases; online, wait until they are there."""
        sent = []
        for version, aliases in self._kept().items():
            if aliases <= self._aliases.get(version, set()):
                continue
            files = [version.folder / name for name in PARTS if (version.folder / name).is_file()]
            manifest = read_json(version.folder / MANIFEST) or {}
            notes = {key: manifest.get(key) for key in ("step", "score")}
            self._logged[version] = self._log("checkpoint", "checkpoint", files, sorted(aliases), notes)
            self._aliases[version] = aliases
            sent.append(version)
        if self._online and sent:
            for version in sent:
                self._logged[version].wait()
            self._remove_gone()

    def _kept(self) -> dict[_Version, set[str]]:
        """The newest checkpoint and the best one, with their aliases, in the order of their steps."""
        found: dict[_Version, set[str]] = {}
        for alias in ALIASES:
            folder = (self._folder / alias).resolve()
            with suppress(OSError):  # there is none yet, or it has just been replaced
                version = _Version(folder, (folder / MANIFEST).stat().st_mtime_ns)
                found.setdefault(version, set()).add(alias)
        return dict(sorted(found.items()))

    def _remove_gone(self) -> None:
        """Remove versions that are gone from the disk; W&B refuses where one has an alias."""
        for version, artifact in list(self._logged.items()):
            if not (version.folder / MANIFEST).exists():
                del self._logged[version]
                with suppress(Exception):
                    artifact.delete(delete_aliases=False)

    def _log(self, name: str, kind: str, files: Iterable[Path], aliases: list[str], notes: dict[str, Any]) -> Any:
        import wandb

        artifact = wandb.Artifact(f"{self._name}-{name}", type=kind, metadata=notes)
        for file in files:
            artifact.add_file(str(file), skip_cache=True)  # else a copy stays in the user's home
        return self._run.log_artifact(artifact, aliases=aliases)
