"""A Ray cluster over the tasks of a job, on a real Slurm of two nodes, which are one machine."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path

import pytest

from tests.orchestrator.command_line import REPOSITORY
from tests.services.slurm_project import FOREVER, SlurmProject
from tests.waiting import eventually
from trainer.run_dir import RunDir

pytestmark = [
    pytest.mark.services,
    pytest.mark.timeout(400),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray"),
]
JOB = """\
name: {name}
backend: slurm
resources: {{gpus: 1, cpus: 1, ntasks: 2, time: "30:00", extra: {{nodes: 2}}}}
train: {{env.backend: debug, experiment: debug, pipeline: ray, pipeline.actors: 2}}
retry: {{max: 3}}
secrets: [MY_SECRET]
"""

STEVE = """\
name: stepped
backend: steve
image: example/tool:1
resources: {gpus: 0, ntasks: 2, time: "30:00"}
train: {env.backend: debug, experiment: debug, pipeline: ray, pipeline.actors: 2, eval.episodes: 0}
"""
# The image's Python: what it has need not be installed, and what it trains is the real trainer.
PYTHON = """#!/bin/sh
case "$1 $2" in
  "-m trainer"*) exec {python} "$@" ;;
  "- "*) cat >>"$2" </dev/null ;;
esac
"""


@pytest.fixture
def project(tmp_path, cluster):
    (tmp_path / "profiles.yaml").write_text(f"default: {{python: {sys.executable}}}\n")
    return SlurmProject(tmp_path, {**cluster.variables, "MY_SECRET": "hunter2"})


def submitted(project, name, steps):
    (project.folder / f"{name}.yaml").write_text(JOB.format(name=name))
    return project.submit(f"{name}.yaml", f"optimization.total_optim_steps={steps}")


def processes_of(run, task=None):
    """Process ids and names of a run, by the task that they belong to."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
            marks = [f"LONGSHORE_RUN_ID={run.root.name}", *([] if task is None else [f"LONGSHORE_TASK={task}"])]
            if all(mark.encode() in words for mark in marks):
                found[int(entry.name)] = (entry / "comm").read_text().strip()
        except OSError:
            continue
    return found


def goes_on(project, run):
    """Wait until twenty more optimiser steps are done."""
    before = project.status(run)["status"]["optim_step"]
    eventually(lambda: project.status(run)["status"]["optim_step"] > before + 20, 90)


def test_actors_of_both_nodes_train_a_run_to_its_end(project, cluster):
    run = submitted(project, "whole", 200)
    project.trains(run)
    assert "2 nodes have joined the Ray cluster" in project.log(run)
    token = run.attempt(1) / "ray.json"
    assert token.stat().st_mode & 0o777 == 0o600
    for task in (0, 1):
        assert any(name.startswith("ray::Simulation") for name in processes_of(run, task).values())
    assert project.finish(run)["state"] == "succeeded", project.log(run)
    assert not token.exists()
    assert "the head is gone" in (run.attempt(1) / "task-1.txt").read_text()
    assert not processes_of(run)


def test_a_run_outlives_its_nodes_and_is_requeued_with_a_cluster_of_its_own(project, cluster):
    run = submitted(project, "lasting", FOREVER)
    project.trains(run)
    [raylet] = [pid for pid, name in processes_of(run, 1).items() if name == "raylet"]
    os.kill(raylet, signal.SIGKILL)
    eventually(lambda: "is lost and replaced" in project.log(run))
    eventually(lambda: ", again" in (run.attempt(1) / "task-1.txt").read_text())
    goes_on(project, run)
    cluster.run("scontrol", "requeue", project.status(run)["handle"])
    project.trains(run, attempt=2)
    assert "preempted: asked to stop" in project.log(run, 1)
    assert "resuming from step" in project.log(run, 2)
    cluster.kill_node("gpu2")
    try:
        eventually(lambda: not processes_of(run, 1), 20)
        eventually(lambda: "is lost and replaced" in project.log(run, 2), 90)
        goes_on(project, run)
        assert cluster.run("squeue", "-h", "-o", "%T").strip() == "RUNNING"
        project.run("cancel", run.root.name, "--grace", "60s", timeout=150)
        assert project.status(run)["message"] == "after saving a checkpoint", project.log(run)
        assert not processes_of(run)
    finally:
        cluster.start_node("gpu2")


def test_a_step_of_steve_that_runs_in_several_tasks_makes_the_same_cluster(project, cluster, tmp_path):
    """The script that steve is given, in a step as Slurm makes one; whether steve's own run so, nobody has said."""
    shared, image = tmp_path / "shared", tmp_path / "image"
    profile = {"python": sys.executable, "steve": {"shared": str(shared), "assume": {"folder": str(image)}}}
    (tmp_path / "profiles.yaml").write_text(json.dumps({"default": profile}))
    (tmp_path / "stepped.yaml").write_text(STEVE)
    script = project.run("render", "stepped.yaml").stdout
    [snapshot] = re.findall(r"^LONGSHORE_SNAPSHOT=(.*)$", script, re.MULTILINE)
    [folder] = re.findall(r"^export LONGSHORE_RUN_DIR=(.*)$", script, re.MULTILINE)
    shutil.copytree(REPOSITORY / "trainer", Path(snapshot) / "trainer")
    image.mkdir()
    (image / "python3").write_text(PYTHON.format(python=shlex.quote(sys.executable)))
    (image / "python3").chmod(0o755)
    (image / "setup-and-run.sh").write_text(script)
    given = {"LONGSHORE_ATTEMPT": "1", "LONGSHORE_STATE": str(image / "state")}
    (image / "longshore.env").write_text("".join(f"{name}={value}\0" for name, value in given.items()) + "\0")
    step = ("env", f"PATH={image}:{os.environ['PATH']}", "bash", str(image / "setup-and-run.sh"))
    cluster.run("srun", "--nodes=2", "--ntasks=2", *step, check=False, timeout=200)
    run = RunDir(Path(folder))
    assert run.success.exists(), run.log(1).read_text()
    assert "2 simulators on a Ray cluster of 2 nodes" in run.log(1).read_text()
    assert "the head is gone" in (run.attempt(1) / "task-1.txt").read_text()
