"""Tries a container with the real Isaac Sim: checks from inside, short trainings, one report. Imports no torch.

Run by the coordinator as `python -m trainer.pipelines.acceptance`. Every part is a process of its own, because a
process holds one simulation: the checks, and a whole run of the trainer for each of `pipeline.stages`.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trainer.acceptance.checks import Check
from trainer.acceptance.report import Training, failures, write_report
from trainer.errors import Stopped
from trainer.role import ROLE_CONFIG_VARIABLE, RoleConfig, RoleContext, run_role
from trainer.run_dir import (
    ATTEMPT_VARIABLE,
    RUN_DIR_VARIABLE,
    Phase,
    RunDir,
    write_atomically,
)

log = logging.getLogger(__name__)

FOLDER = "acceptance"  # in the run directory: a run directory for each stage
POLL_SECONDS = 0.5


class Rejected(Exception):
    """Something failed; the report says what."""


class Acceptance:
    """One after the other, whatever fails.

    Args:
        context: Of the role.
    """

    def __init__(self, context: RoleContext) -> None:
        self._context = context
        self._folder = context.run_dir.root / FOLDER
        self._folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Look at everything and leave the report.

        Raises:
            Rejected: A check or a training has failed.
            Stopped: The role was asked to stop.
        """
        checks, trainings = self._checks(), []
        write_report(self._context.run_dir.root, checks, trainings)
        gpus = visible_gpus()
        for stage in self._context.config["pipeline"]["stages"]:
            if stage["gpus"] > gpus:
                log.info("%s: left out, it takes %s GPUs", stage["name"], stage["gpus"])
                continue
            trainings.append(self._train(stage))
            write_report(self._context.run_dir.root, checks, trainings)
        failed = failures(checks, trainings)
        log.info("report: %s", self._context.run_dir.root / "acceptance.md")
        if failed:
            raise Rejected(f"{len(failed)} of {len(checks) + len(trainings)} failed: {'; '.join(failed)}")

    def _checks(self) -> list[Check]:
        outcome, file = self._folder / "checks.json", self._folder / "checks-role.json"
        outcome.unlink(missing_ok=True)
        role = RoleConfig(
            "checks",
            self._context.config,
            str(self._folder),
            self._context.attempt,
            outcome=str(outcome),
            reserve="",
            coordinator=os.getpid(),
        )
        write_atomically(file, json.dumps(asdict(role)))
        command = [sys.executable, "-m", "trainer.acceptance.checks"]
        status = self._wait_for(command, {ROLE_CONFIG_VARIABLE: str(file)})
        checks = [Check(**check) for check in _json(outcome) or []]
        if status != 0:
            last = checks[-1].name if checks else "the first check"
            checks.append(Check("the checks", False, f"their process ended with status {status}, after: {last}"))
        return checks

    def _train(self, stage: Mapping[str, Any]) -> Training:
        folder = RunDir(self._folder / stage["name"])
        arguments = [str(word) for word in stage["overrides"]]
        started = time.monotonic()
        status = self._wait_for(
            [sys.executable, "-m", "trainer", *arguments],
            {RUN_DIR_VARIABLE: str(folder.root), ATTEMPT_VARIABLE: ""},
        )
        summary = _json(folder.summary) or {}
        failure = None
        if not folder.success.exists():
            told = _json(folder.failure) or {}
            failure = f"{told.get('class', 'crash')}: {told.get('message', f'ended with status {status}')}"
        elif stage.get("filmed") and not list(folder.videos.glob("evaluation-*.mp4")):
            failure = "it has left no film; its log says why"
        return Training(
            name=stage["name"],
            arguments=arguments,
            failure=failure,
            fps=summary.get("fps"),
            steps_per_s=summary.get("steps_per_s"),
            published=stage["published"],
            seconds=time.monotonic() - started,
            random_return=summary.get("random_return"),
            trained_return=summary.get("trained_return"),
        )

    def _wait_for(self, command: Sequence[str], variables: Mapping[str, str]) -> int:
        """Exit status of a process; beats as long as it runs, which a run of the trainer has a watchdog of its own for.

        Raises:
            Stopped: The role was asked to stop; so was the process.
        """
        log.info("%s", " ".join(command))
        process = subprocess.Popen(command, env=os.environ | variables, stdin=subprocess.DEVNULL)
        while process.poll() is None:
            self._context.beat(Phase.TRAINING)
            if self._context.should_stop:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(self._context.config["watchdog"]["grace"] / 2)
                process.kill()
                process.wait()
                raise Stopped
            time.sleep(POLL_SECONDS)
        return process.returncode


def visible_gpus() -> int:
    """GPUs that CUDA_VISIBLE_DEVICES names, or else the NVIDIA driver; torch is not asked, it must not be imported."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([word for word in visible.split(",") if word.strip() not in ("", "-1")])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def main(context: RoleContext) -> None:
    """Entry point of the role."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    context.beat(Phase.STARTING)
    Acceptance(context).run()


if __name__ == "__main__":
    run_role(main)
