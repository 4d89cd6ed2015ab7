"""From a job file to a trained policy, nothing standing in: command line, set-up script, coordinator and learner."""

from __future__ import annotations

import json
import os
import signal
import time

import psutil
import pytest

from tests.orchestrator.command_line import Project
from trainer.run_dir import RUN_ID_VARIABLE

JOB = """\
name: {name}
backend: local
resources: {{gpus: 0}}
train:
  experiment: debug
  optimization.total_optim_steps: {steps}
"""
FOREVER = 1_000_000  # optimiser steps


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def job(project, name, steps):
    (project.folder / f"{name}.yaml").write_text(JOB.format(name=name, steps=steps), encoding="utf-8")
    return f"{name}.yaml"


def processes(run_id, module):
    """Living processes of a run that were started as `python -m <module>`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if process.info["cmdline"][1:3] == ["-m", module] and process.environ().get(RUN_ID_VARIABLE) == run_id:
                found.append(process)
        except (psutil.Error, TypeError):
            continue
    return found


def wait_until_training(project, run_id):
    end = time.monotonic() + 180
    while True:
        status = project.home / run_id / "status.json"
        if status.exists() and json.loads(status.read_text(encoding="utf-8"))["optim_step"] > 0:
            return
        assert time.monotonic() < end, project.run("logs", run_id).stdout
        time.sleep(0.2)


def test_a_job_is_trained_to_success_and_the_same_job_is_done_from_then_on(project):
    file = job(project, "debug", steps=8)
    done = project.run("submit", file, "--follow", timeout=240)
    run_id = done.stdout.splitlines()[0]
    assert (project.home / run_id / "SUCCESS").exists()
    assert f"{run_id}: succeeded" in done.stderr
    assert "return, trained policy" in done.stdout
    summary = json.loads((project.home / run_id / "summary.json").read_text(encoding="utf-8"))
    assert summary["optim_steps"] == 8
    again = project.run("submit", file)
    assert again.stdout.split() == [run_id]
    assert "succeeded already" in again.stderr


@pytest.mark.parametrize("module", ["trainer", "trainer.pipelines.sync"])
def test_a_trainer_that_is_killed_is_a_crash(project, module):
    [run_id] = project.run("submit", job(project, "killed", FOREVER)).stdout.split()
    wait_until_training(project, run_id)
    [victim] = processes(run_id, module)
    os.kill(victim.pid, signal.SIGKILL)
    assert "SIGKILL" in project.run("wait", run_id, check=1, timeout=120).stderr
    status = json.loads(project.run("status", run_id, "--json").stdout)
    assert (status["state"], status["failure_class"]) == ("failed", "crash")
    assert not processes(run_id, "trainer.pipelines.sync"), "the learner outlived its run"


def test_a_run_that_is_cancelled_saves_a_checkpoint_first(project):
    [run_id] = project.run("submit", job(project, "cancelled", FOREVER)).stdout.split()
    wait_until_training(project, run_id)
    assert project.run("cancel", run_id, "--grace", "2m", timeout=180).stdout == f"{run_id} cancelled\n"
    assert (project.home / run_id / "checkpoints" / "latest" / "manifest.json").exists()
    assert not processes(run_id, "trainer")


def test_a_setting_that_the_trainer_refuses_is_a_failure_of_class_spec(project):
    file = job(project, "refused", steps=8)
    done = project.run("submit", file, "replay_buffer.batch_length=7", "--follow", check=1, timeout=120)
    assert "failed (spec)" in done.stderr
