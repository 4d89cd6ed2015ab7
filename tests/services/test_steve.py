"""Runs behind steve over a real sshd; allocations and steps are a real Slurm's (tests/fakes/steve_on_slurm.py)."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from tests.services.slurm_project import FOREVER
from tests.services.steve_site import SECRET, allocations, behave, refused_step, steve_site
from tests.waiting import eventually

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
# The image's Python: what it has need not be installed, and what it trains is the real trainer.
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m trainer" ]; then
  exec {python} "$@"
elif [ "$1" = - ]; then
  cat >>"$2" </dev/null
fi
"""


@pytest.fixture(scope="module")
def steve(cluster):
    """The folder of what lies behind steve."""
    folder = cluster.folder / "steve"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python3").write_text(PYTHON.format(python=shlex.quote(sys.executable)))
    (folder / "bin" / "python3").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory, cluster, steve):
    with steve_site(tmp_path_factory.mktemp("steve"), cluster, steve, {"folder": str(steve / "container")}) as project:
        yield project


@pytest.fixture(autouse=True)
def nothing_is_left_running(cluster, steve):
    behave(steve)
    yield
    cluster.run("scancel", "--user=root")
    eventually(lambda: cluster.run("squeue", "-h") == "")
    eventually(lambda: cluster.run("sinfo", "-h", "-p", "normal", "-o", "%D %t") == "2 idle\n")


def occupied(cluster):
    """Take all GPUs; returns the job's id."""
    wish = ("-N2", "--gres=gpu:8", "--exclusive", "--wrap=sleep 300", "-o/dev/null")
    return cluster.run("sbatch", "--parsable", *wish).strip()


def test_the_site_is_well(project):
    done = project.run("doctor", project.write("well"), "--json")
    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert found["steve"]["message"] == "it is there, and tells no version"
    assert {found[name]["outcome"] for name in ("ssh", "clock", "disk", "steve")} == {"OK"}


def test_a_job_waits_is_set_up_trains_and_succeeds_and_everything_of_it_comes_here(project, cluster, steve):
    blocker = occupied(cluster)
    run = project.submit(project.write("first", secrets="MY_SECRET"))
    found = project.status(run)
    assert (found["state"], "waits for its allocation" in found["message"]) == ("queued", True)
    cluster.run("scancel", blocker)
    found = project.finish(run)
    assert (found["state"], found["attempt"]) == ("succeeded", 1)
    assert run.read_summary()["optim_steps"] == 20
    assert (run.checkpoints / "latest").exists()
    assert allocations(cluster) == []
    job = found["handle"].partition(":")[0]
    assert f"job {job} is not there" in refused_step(cluster, steve, job)
    assert not (steve / "jobs" / job).exists()


def test_no_secret_is_anywhere_but_in_one_file_that_its_owner_alone_can_read(project, cluster, steve):
    run = project.submit(project.write("secretive", secrets="MY_SECRET", steps=FOREVER))
    project.trains(run)
    kept = [path for folder in (cluster.folder, project.folder) for path in folder.rglob("*") if path.is_file()]
    holders = [path for path in kept if SECRET.encode() in path.read_bytes()]
    assert [path.name for path in holders] == ["longshore.env"]
    assert holders[0].stat().st_mode & 0o777 == 0o600
    told = cluster.run("scontrol", "show", "job", "-dd") + cluster.run("ps", "-eww", "-o", "args")
    told += project.run("plan", "secretive.yaml", "--json").stdout + project.log(run)
    assert SECRET not in told
    project.run("cancel", run.root.name, "--grace", "60s", timeout=100)


def test_cancelling_what_waits_gives_the_allocation_back(project, cluster):
    occupied(cluster)
    run = project.submit(project.write("waiting"))
    project.run("cancel", run.root.name)
    assert project.status(run)["state"] == "cancelled"
    assert len(allocations(cluster)) == 1


def test_cancelling_what_runs_saves_first_and_leaves_nothing_running(project, cluster):
    run = project.submit(project.write("running", steps=FOREVER, retries=3))
    project.trains(run)
    project.run("cancel", run.root.name, "--grace", "60s", timeout=100)
    found = project.status(run)
    assert (found["state"], found["message"]) == ("cancelled", "after saving a checkpoint"), project.log(run)
    assert (run.checkpoints / "latest").exists()
    assert allocations(cluster) == []


@pytest.mark.timeout(600)
def test_before_the_time_limit_a_checkpoint_is_saved_and_attempt_2_goes_on_from_it(project, cluster):
    # Slurm's warning comes up to a minute early: of two minutes an attempt has half a minute at the least.
    run = project.submit(project.write("limited", time="2:00", steps=FOREVER, retries=1))
    project.trains(run)
    project.trains(run, attempt=2, seconds=210)
    assert "resuming from step" in project.log(run, 2)
    found = project.status(run)
    assert [attempt["failure_class"] for attempt in found["attempts"]] == ["timeout", None]
    project.run("cancel", run.root.name, "--grace", "60s", timeout=100)
    assert allocations(cluster) == []


@pytest.mark.parametrize("profile", ["far", "shared"])
def test_a_node_that_dies_is_a_node_failure_and_the_run_goes_on_elsewhere(project, cluster, profile):
    run = project.submit(project.write("lost", profile=profile, steps=FOREVER, retries=1))
    project.trains(run)
    if profile == "far":
        eventually(lambda: project.status(run) and (run.checkpoints / "latest").exists())
    node = cluster.run("squeue", "-h", "-o", "%N", "-j", project.status(run)["handle"].partition(":")[0]).strip()
    cluster.kill_node(node)
    try:
        project.trains(run, attempt=2, seconds=120)
        assert "resuming from step" in project.log(run, 2)
        assert [one["failure_class"] for one in project.status(run)["attempts"]] == ["node-failure", None]
        project.run("cancel", run.root.name, "--grace", "60s", timeout=100)
    finally:
        cluster.start_node(node)


def test_a_higher_partition_takes_the_nodes_and_the_run_is_preempted_and_goes_on(project, cluster):
    run = project.submit(project.write("preempted", steps=FOREVER, retries=1))
    project.trains(run)
    eventually(lambda: project.status(run) and (run.checkpoints / "latest").exists())
    wrap = "--wrap=sleep 5"
    cluster.run("sbatch", "--partition=high", "-N2", "--gres=gpu:8", "--exclusive", "-o/dev/null", wrap)
    project.trains(run, attempt=2, seconds=120)
    assert "resuming from step" in project.log(run, 2)
    assert [one["failure_class"] for one in project.status(run)["attempts"]] == ["preempted", None]
    project.run("cancel", run.root.name, "--grace", "60s", timeout=100)
    assert allocations(cluster) == []


def test_two_allocations_share_a_sweep_and_a_node_that_dies_costs_what_ran_on_it(project, cluster):
    more = "sweep: {seed: [0, 1, 2, 3], max_parallel: 2}\n"
    runs = project.submit_sweep(project.write("shared", gpus=8, steps=FOREVER, retries=1, more=more))
    for run in runs[:2]:
        project.trains(run)
    assert [project.state(run) for run in runs] == ["running", "running", "queued", "queued"]
    assert len(allocations(cluster)) == 2
    job = project.status(runs[0])["handle"].split(":")[0]
    node = cluster.run("squeue", "-h", "-o", "%N", "-j", job).strip()
    cluster.kill_node(node)
    try:
        eventually(lambda: project.status(runs[2])["attempt"] == 2)
        assert project.status(runs[1])["attempt"] == 1
        assert [one["failure_class"] for one in project.status(runs[0])["attempts"]] == ["node-failure"]
        assert "had not begun" in project.status(runs[2])["attempts"][0]["message"]
    finally:
        cluster.start_node(node)
    project.trains(runs[2], attempt=2, seconds=120)
    assert "until others of its sweep have ended" in project.status(runs[0])["message"]
    assert len(allocations(cluster)) == 2
    project.run("cancel", "--yes", *[run.root.name for run in runs], "--grace", "60s", timeout=150)
    assert {project.state(run) for run in runs} == {"cancelled"}
    assert allocations(cluster) == []


def test_where_steps_may_not_overlap_a_run_is_looked_at_when_it_has_ended(project, cluster, steve):
    behave(steve, overlap=False, waits=True)
    run = project.submit(project.write("alone", profile="alone"))
    found = project.finish(run)
    assert found["state"] == "succeeded"
    assert run.read_summary()["optim_steps"] == 20
    assert allocations(cluster) == []
