"""Slurm without a Slurm: what is planned, and what its commands' output means. A real one is in tests/services/."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from golden_files import GOLDEN, assert_golden
from hypothesis import given
from hypothesis import strategies as st
from test_plan import planned, read_job

from orchestrator.backends.slurm import SlurmBackend
from orchestrator.backends.slurm.batch_script import (
    apptainer_image,
    array_option,
    directive,
    enroot_image,
    warning_seconds,
)
from orchestrator.backends.slurm.outcomes import FAILURES, STATES, Markers, outcome
from orchestrator.backends.slurm.queries import (
    Entry,
    job_numbers,
    parse_queue,
    parse_sacct,
    parse_squeue,
    waiting_message,
)
from orchestrator.errors import BackendError, UsageError
from orchestrator.profile import Profile
from orchestrator.states import FailureClass, RunState
from trainer.run_dir import Failure

ISAAC = """\
name: anymal
backend: slurm
image: nvcr.io/nvidia/isaac-lab:2.3.0
resources: {gpus: 2, cpus: 16, memory: 128G, time: "24:00:00", extra: {qos: high, exclusive: true, nodes: 1}}
setup: {wheelhouse: /data/wheels}
secrets: [WANDB_API_KEY]
mounts: [{source: ~/isaac-cache, target: /isaac-sim/kit/cache, cache: true}, {source: /data/maps, target: /maps}]
train: {env.name: Isaac-Velocity-Flat-Anymal-C-v0}
retry: {max: 3}
"""
PLAIN = """\
name: cartpole
backend: slurm
resources: {gpus: 1, time: "10:00"}
train: {env.name: Mjlab-Cartpole-Balance}
sweep: {seed: [0, 1, 2], max_parallel: 2}
"""
CLUSTER = """\
name: walker
backend: slurm
image: python:3.11
resources: {gpus: 1, cpus: 8, ntasks: 4, extra: {nodes: 4}}
train: {pipeline: ray, env.backend: dm_control, env.name: walker_walk}
"""
SITE = Profile(name="site", host="me@login", shared="/scratch/my runs", partition="h200", cache="/scratch/cache")


def script_of(folder: Path, text: str, **settings: object) -> str:
    plan = planned(read_job(folder, text), run_id="run", profile=SITE.model_copy(update=settings))
    return plan.runs[0].files["job.sbatch"]


@pytest.mark.parametrize(
    ("name", "text", "runtime"),
    [("pyxis", ISAAC, "pyxis"), ("apptainer", ISAAC, "apptainer"), ("none", PLAIN, None), ("ray", CLUSTER, "pyxis")],
)
def test_a_batch_script_is_as_recorded(tmp_path, name, text, runtime):
    script = script_of(tmp_path, text, container_runtime=runtime)
    assert_golden(f"{name}.sbatch", script)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--shell=bash", "-"], input=script, text=True, check=True)


def test_what_pyxis_is_told_is_what_its_manual_says():
    """The facts of pyxis: `REGISTRY#IMAGE`, SOURCE:TARGET pairs with commas between, a workdir that exists."""
    script = (GOLDEN / "pyxis.sbatch").read_text()
    [line] = [line for line in script.splitlines() if "--container-image" in line]
    words = shlex.split(line.removeprefix("step+=(").removesuffix(")"))
    assert "--container-image=nvcr.io#nvidia/isaac-lab:2.3.0" in words
    assert "--container-workdir=/scratch/my runs" in words
    assert {"--container-writable", "--container-remap-root", "--no-container-mount-home"} <= set(words)
    assert "'/scratch/my runs:/scratch/my runs'" in script  # so the working directory is there
    assert "'~/isaac-cache:/isaac-sim/kit/cache'" in script
    assert "/scratch/cache/kit:/isaac-sim/kit/cache" not in script  # the job's own mount is there instead


def test_all_runs_of_a_sweep_have_one_batch_script_and_one_command(tmp_path):
    plan = planned(read_job(tmp_path, PLAIN), run_id="run", profile=SITE)
    assert len({run.files["job.sbatch"] for run in plan.runs}) == 1
    [command] = {run.launch.commands for run in plan.runs}
    assert command == (("sbatch", "--parsable", "--array=0-2%2", "/scratch/my runs/submissions/run.1/job.sbatch"),)
    assert [run.launch.request.run_dir for run in plan.runs] == [Path(f"/scratch/my runs/run-00{n}") for n in range(3)]
    assert "LONGSHORE_RUN_DIR='/scratch/my runs/run-001'" in plan.runs[1].files["setup-and-run.sh"]


def test_a_resumed_run_is_a_job_of_its_own_with_the_same_script(tmp_path):
    plan = planned(read_job(tmp_path, PLAIN), run_id="run", profile=SITE)
    again = SlurmBackend.at(SITE).again(plan.runs[1].launch, 4, ["seed=7"])
    folder = "/scratch/my runs/submissions/run-001.4"
    own = ("--job-name=run-001", f"--output={folder}/slurm-%j.out")
    assert again.commands == (("sbatch", "--parsable", *own, f"{folder}/job.sbatch", folder, "4", "seed=7"),)
    assert (again.request.attempt, again.request.place) == (4, None)


def test_several_tasks_run_the_script_where_they_are_nodes_of_a_ray_cluster_and_nowhere_else(tmp_path):
    script = script_of(tmp_path, CLUSTER, container_runtime="none")
    assert "\nstep=(srun --ntasks=4 --no-kill --kill-on-bad-exit=0 --wait=0 " in script
    assert "\n#SBATCH --no-kill\n" in script
    other = script_of(tmp_path, CLUSTER.replace("pipeline: ray, ", ""), container_runtime="none")
    assert "\nstep=(srun --ntasks=1 --nodes=1 " in other
    assert "no-kill" not in other
    with pytest.raises(UsageError, match="some of them alone are of several tasks"):
        script_of(tmp_path, CLUSTER + "sweep: {pipeline: [ray, sync]}\n")


def test_secrets_stand_nowhere_in_a_batch_script(tmp_path):
    assert "WANDB_API_KEY" not in script_of(tmp_path, ISAAC)


@pytest.mark.parametrize("value", ['a"b', "a\\b", "$(id)", "`id`", "a\nb", "naïve"])
def test_a_value_that_sbatch_would_misread_is_refused(value):
    with pytest.raises(UsageError, match="cannot stand in a batch script"):
        directive("qos", value)


def test_a_value_stands_in_quotes():
    assert directive("comment", "two words # no comment") == '#SBATCH --comment="two words # no comment"'
    assert directive("exclusive", True) == "#SBATCH --exclusive"


@pytest.mark.parametrize("flag", ["output", "array", "export", "signal", "requeue"])
def test_flags_that_are_longshores_own_are_refused(tmp_path, flag):
    with pytest.raises(UsageError, match=rf"resources\.extra\.{flag}: Longshore sets this flag"):
        script_of(tmp_path, PLAIN.replace("gpus: 1,", f"gpus: 1, extra: {{{flag}: x}},"))


def test_a_run_without_retries_is_never_requeued(tmp_path):
    assert "\n#SBATCH --no-requeue\n" in script_of(tmp_path, PLAIN)
    assert "\n#SBATCH --requeue\n" in script_of(tmp_path, PLAIN + "retry: {max: 1}\n")


def test_the_warning_comes_three_minutes_before_the_limit_or_a_quarter_of_a_short_one():
    assert [warning_seconds(limit) for limit in (None, 86400, 720, 60, 1)] == [180, 180, 180, 15, 1]


@pytest.mark.parametrize(
    ("image", "enroot", "apptainer"),
    [
        (
            "nvcr.io/nvidia/isaac-lab:2.3.0",
            "nvcr.io#nvidia/isaac-lab:2.3.0",
            "docker://nvcr.io/nvidia/isaac-lab:2.3.0",
        ),
        ("localhost:5000/a:1", "localhost:5000#a:1", "docker://localhost:5000/a:1"),
        ("python:3.11", "python:3.11", "docker://python:3.11"),
        ("someone/tool:1", "someone/tool:1", "docker://someone/tool:1"),
        ("/scratch/me/isaac.sqsh", "/scratch/me/isaac.sqsh", "/scratch/me/isaac.sqsh"),
    ],
)
def test_an_image_is_named_as_the_runtime_does(image, enroot, apptainer):
    assert (enroot_image(image), apptainer_image(image)) == (enroot, apptainer)


@given(st.sets(st.integers(0, 40), min_size=1), st.one_of(st.none(), st.integers(1, 9)))
def test_an_array_names_each_task_once(indices, limit):
    option = array_option(tuple(indices), limit).removeprefix("--array=")
    spans, _, at_once = option.partition("%")
    listed = parse_squeue(f"7_[{spans}]|PENDING|N/A|Resources\n")
    assert set(listed) == {f"7_{index}" for index in indices}
    assert at_once == ("" if limit is None else str(limit))


def test_a_place_in_the_queue_counts_the_jobs_of_the_partition_and_an_array_once():
    places = parse_queue("7|normal\n8_[0-499%4]|normal\n9|high\n8_3|normal\n10|normal\n")
    assert places == {"7": "1 of 4 in normal", "8": "2 of 4 in normal", "10": "4 of 4 in normal", "9": "1 of 1 in high"}
    waits = Entry("PENDING", None, "Priority", "2026-11-23T15:30:57")
    shown = "waits in Slurm's queue: Priority, 2 of 4 in normal, start expected 2026-11-23 15:30:57"
    assert waiting_message(waits, places["8"]) == shown
    with pytest.raises(BackendError, match="squeue answers something else"):
        parse_queue("slurm_load_jobs error\n")


def test_squeue_says_what_waits_why_and_until_when():
    listed = parse_squeue(
        "12|PENDING|2026-11-23T15:30:57|Priority\n13_4|RUNNING|2026-11-23T14:00:00|None\n"
        "14|PENDING|N/A|(ReqNodeNotAvail, UnavailableNodes:gpu[1|2])\n13_5|COMPLETED|N/A|None\n"
    )
    assert listed["12"] == Entry("PENDING", None, "Priority", "2026-11-23T15:30:57")
    assert waiting_message(listed["12"]) == "waits in Slurm's queue: Priority, start expected 2026-11-23 15:30:57"
    assert listed["13_4"].reason == ""
    assert listed["14"].reason == "(ReqNodeNotAvail, UnavailableNodes:gpu[1|2])"
    assert set(listed) == {"12", "13_4", "13_5", "14"}


def test_sacct_says_how_jobs_ended():
    ended = parse_sacct("12|CANCELLED by 1000|0:15\n13_4|FAILED|75:0\n13_[5-6%2]|PENDING|0:0\n14|OUT_OF_ME+|0:125\n")
    assert ended["12"] == Entry("CANCELLED", 0)
    assert ended["13_4"] == Entry("FAILED", 75)
    assert ended["13_6"].state == "PENDING"
    assert job_numbers(list(ended)) == ["12", "13", "14"]


@pytest.mark.parametrize("output", ["slurm_load_jobs error\n", "x|PENDING|N/A|None\n", "1|PENDING\n"])
def test_another_answer_than_was_asked_for_is_an_error(output):
    with pytest.raises(BackendError):
        parse_squeue(output)
    with pytest.raises(BackendError):
        parse_sacct(output)


FAILED = Failure(FailureClass.NAN, "loss is nan", exit_code=1, attempt=2)


@pytest.mark.parametrize(
    ("state", "markers", "expected"),
    [
        ("COMPLETED", Markers(success=True), (RunState.SUCCEEDED, None)),
        ("TIMEOUT", Markers(success=True), (RunState.SUCCEEDED, None)),
        ("COMPLETED", Markers(exit_code=0, trained=True), (RunState.FAILED, FailureClass.CRASH)),
        ("FAILED", Markers(failure=FAILED), (RunState.FAILED, FailureClass.NAN)),
        ("FAILED", Markers(exit_code=75), (RunState.FAILED, FailureClass.PREEMPTED)),
        ("FAILED", Markers(exit_code=1), (RunState.FAILED, FailureClass.SETUP)),
        ("FAILED", Markers(), (RunState.FAILED, FailureClass.SETUP)),
        ("TIMEOUT", Markers(failure=FAILED), (RunState.FAILED, FailureClass.TIMEOUT)),
        ("PREEMPTED", Markers(), (RunState.FAILED, FailureClass.PREEMPTED)),
        ("NODE_FAIL", Markers(), (RunState.FAILED, FailureClass.NODE_FAILURE)),
        ("OUT_OF_MEMORY", Markers(failure=FAILED), (RunState.FAILED, FailureClass.OUT_OF_MEMORY)),
        ("CANCELLED", Markers(), (RunState.CANCELLED, None)),
        (None, Markers(), (RunState.CANCELLED, None)),
        (None, Markers(attempt=1), (RunState.FAILED, FailureClass.LOST)),
        (None, Markers(success=True), (RunState.SUCCEEDED, None)),
        (None, Markers(failure=FAILED), (RunState.FAILED, FailureClass.NAN)),
    ],
)
def test_each_end_keeps_its_own_class(state, markers, expected):
    seen = outcome(None if state is None else Entry(state), markers)
    assert (seen.state, seen.failure_class) == expected


def test_no_state_of_slurms_means_two_things():
    assert not set(STATES) & set(FAILURES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "login"}, "host needs `shared`"),
        ({"shared": "runs"}, "shared: write an absolute path"),
    ],
)
def test_a_profile_that_fits_no_cluster_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        SlurmBackend.at(Profile(name="site", **settings))
