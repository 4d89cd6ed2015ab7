"""What tests on a real Slurm share: a project whose jobs train in the debug environment, and looks at its runs."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator.command_line import Project
from tests.services.slurm_cluster import SlurmCluster, missing
from tests.services.sshd import Sshd
from tests.waiting import eventually
from trainer.run_dir import RunDir

JOB = """\
name: {name}
backend: slurm
profile: {profile}
resources: {{gpus: {gpus}, cpus: 1, memory: 1G, time: "{time}"}}
secrets: [{secrets}]
train: {{env.backend: debug, experiment: debug, optimization.total_optim_steps: {steps}}}
retry: {{max: {retries}}}
"""
PROFILES = """\
default: {{}}
far:
  host: {target}
  key: {key}
  shared: {shared}
  python: {python}
"""
FOREVER = 1_000_000  # optimiser steps


class SlurmProject(Project):
    """A folder where commands are typed."""

    def write(self, name, *, profile="far", gpus=2, time="30:00", secrets="", steps=20, retries=0, more=""):
        """Write a job file; returns its name."""
        path = self.folder / f"{name}.yaml"
        text = JOB.format(
            name=name, profile=profile, gpus=gpus, time=time, secrets=secrets, steps=steps, retries=retries
        )
        path.write_text(text + more)
        return path.name

    def submit(self, *words: str) -> RunDir:
        """Submit a job and return its run directory here."""
        [run_id] = self.run("submit", *words).stdout.split()
        return RunDir(self.home / run_id)

    def status(self, run: RunDir) -> dict:
        return json.loads(self.run("status", run.root.name, "--json").stdout)

    def state(self, run: RunDir) -> str:
        return self.status(run)["state"]

    def finish(self, run: RunDir, code: int = 0, seconds: float = 120) -> dict:
        """Wait for a run's end; returns what `status` says of it."""
        done = self.run("wait", run.root.name, check=None, timeout=seconds)
        assert done.returncode == code, done.stderr + self.log(run)
        return self.status(run)

    def log(self, run: RunDir, attempt: int | None = None) -> str:
        words = () if attempt is None else ("--attempt", str(attempt))
        return self.run("logs", run.root.name, *words, check=None).stdout

    def trains(self, run: RunDir, attempt: int = 1, seconds: float = 90) -> None:
        """Wait until an attempt has something to save."""

        def found() -> bool:
            record = self.status(run)
            assert record["state"] not in {"failed", "succeeded", "cancelled"}, self.log(run)
            status = record["status"]
            return record["state"] == "running" and status["attempt"] == attempt and status["optim_step"] >= 4

        eventually(found, seconds)


def started(accounting: bool, **settings: Any) -> SlurmCluster:
    """A cluster that runs; whoever asked for it stops it."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    if names := missing():
        pytest.skip(f"needs {', '.join(names)}")
    cluster = SlurmCluster(Path(tempfile.mkdtemp(prefix="slurm-", dir="/var/tmp")), accounting, **settings)
    try:
        cluster.start()
    except BaseException:
        end(cluster)
        raise
    return cluster


def end(cluster: SlurmCluster) -> None:
    cluster.stop()
    shutil.rmtree(cluster.folder, ignore_errors=True)


def login_node(folder: Path, cluster: SlurmCluster) -> Sshd:
    """A host where the cluster's commands can be typed."""
    folder.mkdir()
    sshd = Sshd(folder, {**cluster.variables, "PATH": os.environ["PATH"]})
    sshd.start()
    return sshd
