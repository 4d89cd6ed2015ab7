"""Runs behind steve over a real sshd; allocations and steps are a real Slurm's (tests/fakes/steve_on_slurm.py)."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

from tests.orchestrator.command_line import REPOSITORY
from tests.orchestrator.local_runs import eventually
from tests.services.slurm_project import FOREVER, SlurmProject, end, started
from tests.services.sshd import Sshd

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
SECRET = "hunter2-hunter2"
JOB = """\
name: {name}
backend: steve
profile: {profile}
image: example/tool:1
resources: {{gpus: {gpus}, time: "{time}", partition: normal}}
secrets: [{secrets}]
train: {{env.backend: debug, experiment: debug, optimization.total_optim_steps: {steps}, checkpoint.interval: 1}}
retry: {{max: {retries}, on: [node-failure, timeout, preempted], backoff: 1s}}
"""
# The image's Python: what it has need not be installed, and what it trains is the real trainer.
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m trainer" ]; then
  exec {python} "$@"
elif [ "$1" = - ]; then
  cat >>"$2" </dev/null
fi
"""


class SteveProject(SlurmProject):
    """A laptop without Slurm and without steve."""

    def write(self, name, *, profile="far", gpus=2, time="30:00", secrets="", steps=20, retries=0, more=""):
        values = {"gpus": gpus, "time": time, "secrets": secrets, "steps": steps, "retries": retries}
        (self.folder / f"{name}.yaml").write_text(JOB.format(name=name, profile=profile, **values) + more)
        return f"{name}.yaml"


@pytest.fixture(scope="module")
def cluster():
    cluster = started(accounting=False)
    yield cluster
    end(cluster)


@pytest.fixture(scope="module")
def steve(cluster):
    """The folder of what lies behind steve."""
    folder = cluster.folder / "steve"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python3").write_text(PYTHON.format(python=shlex.quote(sys.executable)))
    (folder / "bin" / "python3").chmod(0o755)
    return folder


def behave(steve, **settings):
    base = {"container": str(steve / "container"), "path": str(steve / "bin")}
    (steve / "settings.json").write_text(json.dumps(base | settings))


@pytest.fixture(scope="module")
def project(tmp_path_factory, cluster, steve):
    folder = tmp_path_factory.mktemp("steve")
    variables = {
        **cluster.variables,
        "PATH": f"{REPOSITORY / 'tests/fakes/slurm'}:{os.environ['PATH']}",
        "FAKE_STEVE": str(steve),
        "FAKE_STEVE_PYTHON": sys.executable,
    }
    (folder / "sshd").mkdir()
    sshd = Sshd(folder / "sshd", variables)
    sshd.start()
    (folder / "laptop").mkdir()
    home = {"HOME": str(sshd.folder / "home"), "MY_SECRET": SECRET, "PATH": "/nowhere"}
    project = SteveProject(folder / "laptop", home)
    assume = {"folder": str(steve / "container"), "staging": str(steve / "staging"), "pull": "2s", "lost": "5s"}
    state = ["squeue", "--noheader", "--states=all", "--format=%T", "--jobs={job_id}"]
    far = {"host": sshd.target, "key": str(sshd.key), "steve": {"assume": assume, "commands": {"state": state}}}
    profiles = {
        "far": far,
        "shared": {**far, "shared": str(steve / "shared")},
        "alone": {**far, "steve": {"assume": {**assume, "overlap": False}, "commands": {"state": state}}},
    }
    (project.folder / "profiles.yaml").write_text(json.dumps(profiles))
    yield project
    sshd.stop()


@pytest.fixture(autouse=True)
def nothing_is_left_running(cluster, steve):
    behave(steve)
    yield
    cluster.run("scancel", "--user=root")
    eventually(lambda: cluster.run("squeue", "-h") == "", 40)
    eventually(lambda: cluster.run("sinfo", "-h", "-p", "normal", "-o", "%D %t") == "2 idle\n", 40)


def allocations(cluster):
    """Ids of the allocations that there are."""
    return cluster.run("squeue", "-h", "-o", "%A").split()


def occupied(cluster):
    """Take all GPUs; returns the job's id."""
    wish = ("-N2", "--gres=gpu:8", "--exclusive", "--wrap=sleep 300", "-o/dev/null")
    return cluster.run("sbatch", "--parsable", *wish).strip()


def refused_step(cluster, steve, job):
    """What steve says when it will not do a step, typed on the host."""
    variables = os.environ | cluster.variables | {"FAKE_STEVE": str(steve), "FAKE_STEVE_PYTHON": sys.executable}
    words = [str(REPOSITORY / "tests/fakes/slurm/steve"), "step", job, "true"]
    done = subprocess.run(words, env=variables, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


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


def test_before_the_time_limit_a_checkpoint_is_saved_and_attempt_2_goes_on_from_it(project, cluster):
    run = project.submit(project.write("limited", time="1:00", steps=FOREVER, retries=1))
    project.trains(run)
    project.trains(run, attempt=2, seconds=150)
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
        eventually(lambda: project.status(run) and (run.checkpoints / "latest").exists(), 60)
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
    eventually(lambda: project.status(run) and (run.checkpoints / "latest").exists(), 60)
    wrap = "--wrap=sleep 5"
    cluster.run("sbatch", "--partition=high", "-N2", "--gres=gpu:8", "--exclusive", "-o/dev/null", wrap)
    project.trains(run, attempt=2, seconds=120)
    assert "resuming from step" in project.log(run, 2)
    assert [one["failure_class"] for one in project.status(run)["attempts"]] == ["preempted", None]
    project.run("cancel", run.root.name, "--grace", "60s", timeout=100)
    assert allocations(cluster) == []


def test_where_steps_may_not_overlap_a_run_is_looked_at_when_it_has_ended(project, cluster, steve):
    behave(steve, overlap=False, waits=True)
    run = project.submit(project.write("alone", profile="alone"))
    found = project.finish(run)
    assert found["state"] == "succeeded"
    assert run.read_summary()["optim_steps"] == 20
    assert allocations(cluster) == []
