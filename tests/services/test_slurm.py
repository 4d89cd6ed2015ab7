"""Runs on a real Slurm, submitted through a real sshd as from a laptop: what a user sees, from submit to the end."""

from __future__ import annotations

import os
import shutil
import sys
import time

import pytest

from tests.services.slurm_project import FOREVER, PROFILES, SlurmProject, end, login_node, started
from tests.waiting import eventually
from trainer.run_dir import RunDir

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
SECRET = "hunter2-hunter2"


@pytest.fixture(scope="module")
def cluster():
    cluster = started(accounting=True)
    yield cluster
    end(cluster)


@pytest.fixture(scope="module")
def project(tmp_path_factory, cluster):
    """Commands typed on a machine that has no Slurm and does not see the cluster's folders."""
    folder = tmp_path_factory.mktemp("slurm")
    sshd = login_node(folder / "sshd", cluster)
    (folder / "laptop").mkdir()
    project = SlurmProject(
        folder / "laptop", {"HOME": str(sshd.folder / "home"), "MY_SECRET": SECRET, "PATH": "/nowhere"}
    )
    shared = cluster.folder / "shared runs"
    shared.mkdir()
    text = PROFILES.format(target=sshd.target, key=sshd.key, shared=shared, python=sys.executable)
    (project.folder / "profiles.yaml").write_text(text)
    yield project
    sshd.stop()


@pytest.fixture(autouse=True)
def nothing_is_left_running(cluster):
    yield
    cluster.run("scancel", "--user=root")
    eventually(lambda: cluster.run("squeue", "-h") == "")
    eventually(lambda: cluster.run("sinfo", "-h", "-p", "normal", "-o", "%D %t") == "2 idle\n")


def occupied(cluster):
    """Take all GPUs."""
    return cluster.run("sbatch", "--parsable", "-N2", "--gres=gpu:8", "--exclusive", "--wrap=sleep 300", "-o/dev/null")


def test_a_job_waits_is_started_trains_and_succeeds_and_everything_of_it_comes_here(project, cluster):
    blocker = occupied(cluster).strip()
    run = project.submit(project.write("first", secrets="MY_SECRET"))
    found = project.status(run)
    assert found["state"] == "queued"
    assert "waits in Slurm's queue" in found["message"]
    eventually(lambda: ", 1 of 1 in normal" in project.status(run)["message"])
    job = found["handle"]
    described = cluster.run("scontrol", "show", "job", job, "-dd")
    assert "JobName=" + run.root.name in described
    cluster.run("scancel", blocker)
    found = project.finish(run)
    assert (found["state"], found["attempt"]) == ("succeeded", 1)
    assert run.read_summary()["optim_steps"] == 20
    assert "attempt 1, job" in project.log(run)
    assert "COMPLETED" in cluster.run("sacct", "-X", "-n", "-o", "State", "-j", job)
    far = cluster.folder / "shared runs" / run.root.name
    assert (far / "checkpoints" / "latest").exists()
    # The secret was in one file that only its owner could read, and is gone with the run.
    submission = cluster.folder / "shared runs" / "submissions" / f"{run.root.name}.1"
    assert (submission / "id").read_text().strip() == job
    assert not (submission / "secrets").exists()


def test_no_secret_is_in_any_file_but_one_nor_in_slurms_record_nor_in_a_command_line(project, cluster):
    run = project.submit(project.write("secretive", secrets="MY_SECRET", steps=FOREVER))
    project.trains(run)
    kept = [path for folder in (cluster.folder, project.folder) for path in folder.rglob("*") if path.is_file()]
    holders = [path for path in kept if SECRET.encode() in path.read_bytes()]
    assert [path.name for path in holders] == ["secrets"]
    assert holders[0].stat().st_mode & 0o777 == 0o600
    told = cluster.run("scontrol", "show", "job", "-dd") + cluster.run("sacct", "-P", "-o", "ALL")
    shown = cluster.run("ps", "-eww", "-o", "args") + told + project.run("plan", "secretive.yaml", "--json").stdout
    assert SECRET not in shown
    [trainer] = [
        entry
        for entry in os.listdir("/proc")
        if entry.isdigit() and f"LONGSHORE_RUN_ID={run.root.name}\0".encode() in environ(entry) and coordinates(entry)
    ]
    assert f"MY_SECRET={SECRET}\0".encode() in environ(trainer)
    assert not any(name in environ(trainer) for name in (b"SLURM_STEP_ID=", b"SLURM_CPU_BIND", b"SLURM_SRUN_COMM_PORT"))
    assert b"SLURM_JOB_ID=" in environ(trainer)
    assert b"CUDA_VISIBLE_DEVICES=0,1" in environ(trainer)
    project.run("cancel", run.root.name, "--grace", "30s")


def environ(pid):
    try:
        return open(f"/proc/{pid}/environ", "rb").read()
    except OSError:
        return b""


def coordinates(pid):
    try:
        return b"-m\0trainer\0" in open(f"/proc/{pid}/cmdline", "rb").read()
    except OSError:
        return False


def test_commands_run_on_the_node_and_checkpoints_come_when_they_are_asked_for(project, cluster):
    run = project.submit(project.write("reached", steps=FOREVER))
    project.trains(run)
    far = cluster.folder / "shared runs" / run.root.name
    script = 'pwd; echo "$SLURM_JOB_ID on $SLURMD_NODENAME"; echo oops >&2; exit 7'
    done = project.run("exec", run.root.name, "--", "bash", "-c", script, check=7)
    assert done.stdout.splitlines()[0] == str(far)
    assert done.stdout.splitlines()[1].startswith(f"{project.status(run)['handle']} on gpu")
    assert "oops" in done.stderr
    project.run("cancel", run.root.name, "--grace", "60s", timeout=100)
    assert not run.checkpoints.exists()
    done = project.run("pull", run.root.name)
    assert done.stdout == f"{run.root}\n"
    name = (far / "checkpoints" / "latest").resolve().name
    pulled = {path.name: path.read_bytes() for path in (run.checkpoints / "latest").iterdir()}
    assert pulled == {path.name: path.read_bytes() for path in (far / "checkpoints" / name).iterdir()}
    assert "0 files" in project.run("pull", run.root.name, "--what", "checkpoints").stderr


def test_cancelling_what_waits_takes_it_out_of_the_queue(project, cluster):
    occupied(cluster)
    run = project.submit(project.write("waiting"))
    project.run("cancel", run.root.name)
    found = project.status(run)
    assert (found["state"], found["failure_class"]) == ("cancelled", None)
    assert cluster.run("squeue", "-h", "-j", found["handle"]) == ""


def test_cancelling_what_runs_saves_first_and_leaves_nothing_running(project, cluster):
    run = project.submit(project.write("running", steps=FOREVER, retries=3))
    project.trains(run)
    project.run("cancel", run.root.name, "--grace", "60s", timeout=100)
    found = project.status(run)
    assert (found["state"], found["message"]) == ("cancelled", "after saving a checkpoint"), project.log(run)
    assert (cluster.folder / "shared runs" / run.root.name / "checkpoints" / "latest").exists()
    assert cluster.run("squeue", "-h") == ""
    marks = f"LONGSHORE_RUN_ID={run.root.name}\0".encode()
    assert not [entry for entry in os.listdir("/proc") if entry.isdigit() and marks in environ(entry)]


def test_what_slurm_is_told_to_requeue_goes_on_as_attempt_2(project, cluster):
    run = project.submit(project.write("requeued", steps=FOREVER, retries=3))
    project.trains(run)
    handle = project.status(run)["handle"]
    cluster.run("scontrol", "requeuehold", handle)
    eventually(lambda: project.state(run) == "requeued")
    cluster.run("scontrol", "release", handle)
    project.trains(run, attempt=2)
    assert "step" in project.log(run, 2)
    found = project.status(run)
    assert [attempt["number"] for attempt in found["attempts"]] == [1, 2]
    assert "requeued" in [event["new"] for event in found["events"]]
    project.run("cancel", run.root.name, "--grace", "30s")


@pytest.mark.timeout(600)
def test_before_the_time_limit_a_checkpoint_is_saved_and_attempt_2_goes_on_from_it(project, cluster):
    # Slurm's warning comes up to a minute early: of two minutes an attempt has half a minute at the least.
    run = project.submit(project.write("limited", time="2:00", steps=FOREVER, retries=1))
    project.trains(run)
    project.trains(run, attempt=2, seconds=210)
    first, second = project.log(run, 1), project.log(run, 2)
    assert "timeout: asking Slurm for another attempt" in first
    assert "resuming from step" in second
    found = project.finish(run, 1, 210)
    assert (found["state"], found["failure_class"]) == ("failed", "timeout"), project.log(run)
    assert [attempt["failure_class"] for attempt in found["attempts"]] == ["timeout", "timeout"]


def test_a_node_that_dies_is_a_node_failure_and_the_run_goes_on_elsewhere(project, cluster):
    once = project.submit(project.write("once", steps=FOREVER, more="mounts: []\n"))
    project.trains(once)
    again = project.submit(project.write("again", steps=FOREVER, retries=1))
    project.trains(again)
    node = cluster.run("squeue", "-h", "-o", "%N", "-j", project.status(once)["handle"]).strip()
    assert cluster.run("squeue", "-h", "-o", "%N", "-j", project.status(again)["handle"]).strip() == node
    cluster.kill_node(node)
    try:
        found = project.finish(once, 1, 60)
        assert (found["state"], found["failure_class"]) == ("failed", "node-failure")
        project.trains(again, attempt=2)
        project.run("cancel", again.root.name, "--grace", "30s")
    finally:
        cluster.start_node(node)


def test_a_higher_partition_takes_the_nodes_and_what_was_taken_is_preempted_or_goes_on(project, cluster):
    once = project.submit(project.write("once", steps=FOREVER, gpus=8))
    again = project.submit(project.write("again", steps=FOREVER, gpus=8, retries=1))
    project.trains(once)
    project.trains(again)
    wrap = "--wrap=sleep 5"
    cluster.run("sbatch", "--partition=high", "-N2", "--gres=gpu:8", "--exclusive", "-o/dev/null", wrap)
    found = project.finish(once, 1, 60)
    assert (found["state"], found["failure_class"]) == ("failed", "preempted")
    project.trains(again, attempt=2)
    project.run("cancel", again.root.name, "--grace", "30s")


def test_a_partition_that_does_not_exist_is_one_line_and_a_corrected_job_is_submitted(project, cluster):
    job = project.write("lost")
    done = project.run("submit", job, "--set", "resources.partition=nowhere", check=3)
    assert "invalid partition" in done.stderr
    assert project.run("submit", job, "--set", "resources.partition=nowhere", check=3).stderr == done.stderr
    run = project.submit(job, "--set", "resources.partition=high")
    assert project.finish(run)["state"] == "succeeded"
    assert cluster.run("squeue", "-h", "-t", "PD") == ""


def test_what_follows_a_run_waits_in_the_queue_through_its_requeues_and_goes_on_behind_it(project, cluster):
    first = project.submit(project.write("first", steps=FOREVER, retries=3))
    job = project.write("second", more="after: last\n")
    second = project.submit(job)
    asked = cluster.run("scontrol", "show", "job", project.status(second)["handle"])
    assert f"Dependency=afterok:{project.status(first)['handle']}(unfulfilled)" in asked
    project.trains(first)
    cluster.run("scontrol", "requeue", project.status(first)["handle"])
    project.trains(first, attempt=2)
    assert project.status(second)["message"] == "waits in Slurm's queue: Dependency"
    assert f"after    {first.root.name} (running)" in project.run("status", second.root.name).stdout
    enough = project.status(first)["status"]["optim_step"] + 10
    project.run("cancel", first.root.name, "--grace", "60s", timeout=100)
    found = project.finish(second, 1)
    assert (found["state"], found["message"]) == ("cancelled", f"never started: {first.root.name} was cancelled")
    project.run("resume", first.root.name, f"optimization.total_optim_steps={enough}")
    project.run("resume", second.root.name)
    assert project.finish(second)["state"] == "succeeded", project.log(second)
    assert project.status(first)["state"] == "succeeded"


def test_a_run_follows_tasks_of_an_array_that_have_not_ended(project, cluster):
    ids = project.run("submit", project.write("some", gpus=0, more="sweep: {seed: [1, 2]}\n")).stdout.split()
    last = project.submit(project.write("last", gpus=0, more=f"after: {ids[0].rpartition('-')[0]}\n"))
    assert project.finish(last, seconds=240)["state"] == "succeeded", project.log(last)  # two runs, and then it
    assert {project.status(RunDir(project.home / run_id))["state"] for run_id in ids} == {"succeeded"}
    again = project.submit(project.write("again", gpus=0, more=f"after: [{', '.join(ids)}]\n"))
    asked = cluster.run("scontrol", "show", "job", project.status(again)["handle"])
    assert "Dependency=(null)" in asked, "Slurm takes what it has forgotten for a success"
    assert project.finish(again)["state"] == "succeeded"


def test_a_sweep_is_one_array_whose_tasks_find_their_runs(project, cluster):
    job = project.write("seeds", gpus=1, more="sweep: {seed: [5, 6, 7], max_parallel: 2}\n")
    ids = project.run("submit", job).stdout.split()
    sweep = ids[0].rpartition("-")[0]
    assert len(set(cluster.run("squeue", "-h", "-o", "%F").split())) == 1
    project.run("wait", sweep, timeout=200)
    for run_id, seed in zip(ids, (5, 6, 7), strict=True):
        config = (cluster.folder / "shared runs" / run_id / "config.yaml").read_text()
        assert f"seed: {seed}\n" in config


def test_a_run_that_is_done_gets_more_to_do_and_goes_on_as_attempt_2_in_a_job_of_its_own(project, cluster):
    run = project.submit(project.write("more", secrets="MY_SECRET"))
    first = project.finish(run)
    project.run("resume", run.root.name, "optimization.total_optim_steps=40")
    found = project.finish(run)
    assert (found["state"], found["attempt"]) == ("succeeded", 2), project.log(run)
    assert found["handle"] != first["handle"]
    assert "resuming from step 20" in project.log(run, 2)
    assert run.read_summary()["optim_steps"] == 40
    shown = cluster.run("sacct", "-X", "-n", "-P", "-o", "JobName,State", "-j", found["handle"])
    assert shown == f"{run.root.name}|COMPLETED\n"
    assert not (cluster.folder / "shared runs" / "submissions" / f"{run.root.name}.2" / "secrets").exists()


def test_a_run_of_a_sweep_that_was_cancelled_in_the_queue_is_resumed_by_itself(project, cluster):
    blocker = occupied(cluster).strip()
    ids = project.run("submit", project.write("some", more="sweep: {seed: [1, 2]}\n")).stdout.split()
    project.run("cancel", "--yes", *ids)
    project.run("resume", ids[1])
    cluster.run("scancel", blocker)
    run = RunDir(project.home / ids[1])
    assert project.finish(run)["state"] == "succeeded", project.log(run)
    assert project.status(RunDir(project.home / ids[0]))["state"] == "cancelled"
    assert "seed: 2" in (cluster.folder / "shared runs" / ids[1] / "config.yaml").read_text()


def counting(folder, cluster, name):
    """A command of Slurm's that writes down each of its calls."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho {name} >>"{folder}/calls"\nexec {shutil.which(name)} "$@"\n')
    path.chmod(0o755)
    return path


def test_five_hundred_runs_are_one_array_and_their_status_two_commands(tmp_path, cluster):
    """Typed where Slurm is. Times are what a busy machine may take; docs/slurm.md has those of an idle one."""
    project = SlurmProject(tmp_path, cluster.variables)
    commands = ", ".join(f'{name}: ["{counting(tmp_path, cluster, name)}"]' for name in ("sbatch", "squeue", "sacct"))
    (tmp_path / "profiles.yaml").write_text(f"default: {{commands: {{{commands}}}}}\n")
    sweep = f"sweep: {{seed: {list(range(500))}, max_parallel: 4}}\n"
    job = project.write("many", profile="default", gpus=0, more=sweep)
    job_text = (tmp_path / job).read_text().replace("cpus: 1,", "extra: {begin: now+1hour},")
    (tmp_path / job).write_text(job_text)
    began = time.monotonic()
    ids = project.run("submit", "--yes", job).stdout.split()
    submitted = time.monotonic() - began
    assert len(ids) == 500
    assert cluster.run("squeue", "-h", "-o", "%F %i").split()[1].endswith("_[0-499%4]")
    (tmp_path / "calls").unlink()
    cluster.run("scancel", f"{cluster.run('squeue', '-h', '-o', '%F').strip()}_[0-9]")
    began = time.monotonic()
    shown = project.run("status", ids[0].rpartition("-")[0]).stdout
    asked = time.monotonic() - began
    assert len((tmp_path / "calls").read_text().split()) <= 2
    assert shown.count("cancelled") == 10
    assert shown.count("queued") == 490
    print(f"500 runs: submitted in {submitted:.2f} s, status in {asked:.2f} s")
    assert (submitted < 8, asked < 4) == (True, True), (submitted, asked)
