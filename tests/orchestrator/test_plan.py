"""The plan: what it holds, that it depends on its arguments alone, and what makes two submissions the same."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import datetime
from pathlib import Path

import pytest
from golden_files import GOLDEN, assert_golden

from orchestrator.backends import load_backend
from orchestrator.errors import UsageError
from orchestrator.plan import Plan, make_plan, new_run_id
from orchestrator.profile import Profile
from orchestrator.snapshot import GitState, Snapshot, SnapshotFile
from orchestrator.spec import JobSpec, load_job

HOME = Path("/home/user/my runs")
SNAPSHOT = Snapshot(
    source=Path("/home/user/longshore/trainer"),
    files=(SnapshotFile("__init__.py", 0o100644, "00" * 32, 10), SnapshotFile("__main__.py", 0o100644, "11" * 32, 90)),
    digest="5a" * 32,
    git=GitState("c0" * 20, "main", dirty=True, diff="--- a/trainer/__main__.py\n+++ b/trainer/__main__.py\n"),
)

LOCAL = """\
name: cartpole
backend: local
resources: {gpus: 0, time: "1:00:00"}
environment: {NOTE: "it's $(date)"}
train:
  env.name: Mjlab-Cartpole-Balance
  env.num_envs: 16
"""
ISAAC = """\
name: anymal-flat
backend: slurm
image: nvcr.io/nvidia/isaac-lab:2.3.0
resources: {gpus: 2, cpus: 16, memory: 128G, time: "24:00:00", partition: h200-high, extra: {qos: high}}
setup:
  torchrl: {git: https://github.com/pytorch/rl, ref: v0.14.1}
  code: [{git: git@example.org:me/tasks.git, ref: main}]
  pip: [hydra-core, wandb]
  apt: [rsync]
  wheelhouse: /data/wheels
secrets: [WANDB_API_KEY]
mounts: [{source: ~/isaac-cache, target: /isaac-sim/kit/cache, cache: true}]
train:
  env.name: Isaac-Velocity-Flat-Anymal-C-v0
  optimization.total_optim_steps: 100_000
watchdog: {start: 45m}
sweep:
  seed: [0, 1]
  max_parallel: 1
"""


def read_job(folder: Path, text: str) -> JobSpec:
    path = folder / "job.yaml"
    path.write_text(text)
    return load_job(path)


def planned(job: JobSpec, **changes: object) -> Plan:
    arguments = {
        "run_id": "<run>",
        "snapshot": SNAPSHOT,
        "profile": Profile(name="default"),
        "home": HOME,
        "python": "/usr/bin/python3",
    }
    return make_plan(job, **{**arguments, **changes})  # type: ignore[arg-type]


@pytest.fixture
def local(tmp_path: Path) -> JobSpec:
    return read_job(tmp_path, LOCAL)


@pytest.fixture
def isaac(tmp_path: Path) -> JobSpec:
    return read_job(tmp_path, ISAAC)


def golden_plan(plan: Plan, script: str) -> str:
    """The whole plan for comparison; its first script lies beside it as a file of its own."""
    content = plan.to_dict()
    assert content["runs"][0]["script"] == (GOLDEN / script).read_text()
    content["runs"][0]["script"] = f"<{script}>"
    for run in content["runs"][1:]:
        first, other = (GOLDEN / script).read_text().splitlines(), run["script"].splitlines()
        run["script"] = [line for line in other if line not in first]
    return json.dumps(content, indent=2) + "\n"


def test_the_script_and_the_plan_of_a_local_run_are_as_recorded(local):
    plan = planned(local)
    assert_golden("local.sh", plan.runs[0].files["setup-and-run.sh"])
    assert_golden("local.plan.json", golden_plan(plan, "local.sh"))


def test_the_script_and_the_plan_of_an_isaac_sweep_are_as_recorded(isaac):
    plan = planned(isaac)
    assert_golden("isaac.sh", plan.runs[0].files["setup-and-run.sh"])
    assert_golden("isaac.plan.json", golden_plan(plan, "isaac.sh"))


def test_the_script_of_a_container_without_isaac_uses_its_own_python(tmp_path):
    text = "name: go1\nbackend: docker\nimage: python:3.11\nresources: {gpus: 1}\ntrain: {env.backend: mjlab}\n"
    plan = planned(read_job(tmp_path, text))
    assert_golden("container.sh", plan.runs[0].files["setup-and-run.sh"])


def test_the_script_of_several_tasks_trains_in_the_first_and_makes_nodes_of_ray_of_the_others(tmp_path):
    text = "name: walker\nbackend: slurm\nresources: {gpus: 0, ntasks: 2}\nretry: {max: 2, on: [crash]}\n"
    train = "train: {pipeline: ray, env.backend: debug}\n"
    assert_golden("ray.sh", planned(read_job(tmp_path, text + train)).runs[0].files["setup-and-run.sh"])
    alone = planned(read_job(tmp_path, text + "train: {env.backend: debug}\n")).runs[0].files["setup-and-run.sh"]
    assert "LONGSHORE_TASK" not in alone


def test_the_same_arguments_give_the_same_plan(isaac):
    first, second = planned(isaac), planned(isaac)
    assert first == second
    assert first.to_dict() == second.to_dict()
    assert [dict(run.files) for run in first.runs] == [dict(run.files) for run in second.runs]


def test_planning_reads_neither_the_environment_nor_writes_a_file(isaac, local, monkeypatch, tmp_path):
    before = [planned(isaac).to_dict(), planned(local).to_dict()]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name in ("WANDB_API_KEY", "CUDA_VISIBLE_DEVICES", "HOME", "PYTHONPATH"):
        monkeypatch.setenv(name, "changed")
    assert [planned(isaac).to_dict(), planned(local).to_dict()] == before
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_no_value_of_a_secret_is_in_a_plan(isaac, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "hunter2-hunter2")
    plan = planned(isaac)
    assert plan.to_dict()["runs"][0]["secrets"] == ["WANDB_API_KEY"]
    everything = (
        repr(plan) + json.dumps(plan.to_dict()) + "".join(text for run in plan.runs for text in run.files.values())
    )
    assert "hunter2" not in everything


def test_a_single_run_has_the_plans_id_and_a_sweeps_runs_have_it_with_an_index(local, isaac):
    assert [run.run_id for run in planned(local, run_id="r").runs] == ["r"]
    sweep = planned(isaac, run_id="s")
    assert [run.run_id for run in sweep.runs] == ["s-000", "s-001"]
    assert [run.differs for run in sweep.runs] == [{"seed": 0}, {"seed": 1}]
    assert (sweep.is_sweep, sweep.max_parallel) == (True, 1)


def test_a_run_id_is_made_of_name_time_and_four_hexadecimal_digits():
    assert new_run_id("ant", datetime(2026, 3, 7, 9, 5, 1), "00ff") == "ant-260307-090501-00ff"


def test_the_files_of_a_run_are_its_job_script_plan_and_git_state(local):
    [run] = planned(local).runs
    assert sorted(run.files) == ["git.json", "job.yaml", "plan.json", "setup-and-run.sh"]
    plan, git = json.loads(run.files["plan.json"]), json.loads(run.files["git.json"])
    assert (plan["run_id"], plan["key"], plan["sweep_id"]) == ("<run>", run.key, None)
    assert plan["snapshot"]["folder"] == f"{HOME}/snapshots/{SNAPSHOT.digest}"
    assert (git["commit"], git["dirty"], git["snapshot"]) == ("c0" * 20, True, SNAPSHOT.digest)
    assert git["diff"].startswith("--- a/trainer/__main__.py")


def test_the_job_file_of_a_run_can_be_submitted_as_it_is(local, isaac, tmp_path):
    for plan in (planned(local), planned(isaac)):
        for run in plan.runs:
            again = read_job(tmp_path, run.files["job.yaml"])
            assert again == run.job
            assert planned(again, run_id=run.run_id).runs[0].files["setup-and-run.sh"] == run.files["setup-and-run.sh"]


def test_code_from_no_repository_has_a_git_state_of_nulls(local):
    [run] = planned(local, snapshot=dataclasses.replace(SNAPSHOT, git=None)).runs
    assert json.loads(run.files["git.json"])["commit"] is None


def test_the_key_is_of_job_snapshot_and_profile_and_not_of_the_run_id_or_the_place_in_a_sweep(local, isaac):
    [run] = planned(local).runs
    [same] = planned(local, run_id="another", home=Path("/elsewhere")).runs
    others = [
        planned(local.model_copy(update={"train": {**local.train, "seed": 1}})).runs[0],
        planned(local, snapshot=dataclasses.replace(SNAPSHOT, digest="6b" * 32)).runs[0],
        planned(local, profile=Profile(name="default", environment={"A": "b"})).runs[0],
        *planned(isaac).runs,
    ]
    assert same.key == run.key
    assert len({run.key, *(other.key for other in others)}) == 6


def test_the_profiles_variables_stand_below_the_jobs(local):
    profile = Profile(name="site", environment={"NOTE": "the site's", "PYTHONUNBUFFERED": "", "HTTP_PROXY": "proxy:80"})
    script = planned(local, profile=profile).runs[0].files["setup-and-run.sh"]
    assert "export NOTE='it'\"'\"'s $(date)'\n" in script
    assert "export PYTHONUNBUFFERED=''\n" in script
    assert "export HTTP_PROXY=proxy:80\n" in script


def test_the_jobs_watchdog_reaches_the_trainer_unless_the_trainers_own_settings_say_otherwise(tmp_path):
    text = LOCAL + "  watchdog.stall: 77\nwatchdog: {start: 2h, stall: 3h}\n"
    script = planned(read_job(tmp_path, text)).runs[0].files["setup-and-run.sh"]
    assert "  watchdog.start=7200\n" in script
    assert "  watchdog.stall=77\n" in script
    assert "10800" not in script


def test_a_local_run_is_launched_by_the_local_backend(local):
    [run] = planned(local).runs
    assert run.launch == load_backend("local", lambda: Profile(name="default")).plan(run.launch.request)
    assert run.launch.request.script == HOME / "<run>" / "setup-and-run.sh"
    assert (run.launch.request.attempt, run.launch.request.time_limit) == (1, 3600)


def test_what_cannot_be_submitted_with_a_profile_is_planned_with_a_warning(isaac):
    profile = Profile(name="site", host="login")
    plan = planned(isaac, profile=profile)
    assert plan.warnings == ("profile site: host needs `shared`, a folder that it and every node see",)
    assert plan.to_dict()["runs"][0]["launch"] is None
    with pytest.raises(UsageError, match="host needs `shared`"):
        load_backend("slurm", lambda: profile)


def test_settings_that_mean_nothing_on_this_machine_are_warned_about(tmp_path):
    text = LOCAL + "setup: {pip: [wandb], kill: all}\nmounts: [{source: /a, target: /b}]\nimage: nvcr.io/nvidia/x:1\n"
    warnings = " ".join(planned(read_job(tmp_path, text)).warnings)
    for setting in ("setup.pip", "setup.kill", "mounts", "image"):
        assert f"{setting} do" in warnings
    assert "setup.torchrl" not in warnings


def test_a_note_of_the_snapshot_becomes_a_warning(local):
    assert planned(local, snapshot=dataclasses.replace(SNAPSHOT, notes=("no git",))).warnings == ("no git",)


def test_an_interpreter_that_means_another_file_in_the_run_directory_is_refused(local):
    with pytest.raises(UsageError, match="must be an absolute path"):
        planned(local, python=".venv/bin/python")
    planned(local, python="python3")


def test_a_relative_home_is_refused(local):
    with pytest.raises(ValueError, match="absolute"):
        planned(local, home=Path("runs"))


@pytest.mark.parametrize("path", sorted(Path(__file__).parents[2].glob("jobs/**/*.yaml")), ids=lambda path: path.stem)
def test_every_job_file_of_the_project_is_planned_and_rendered(path):
    plan = planned(load_job(path), run_id="run")
    for run in plan.runs:
        assert "-m trainer" in run.files["setup-and-run.sh"]
        assert set(run.files.values())
    json.dumps(plan.to_dict())


def test_a_thousand_runs_are_planned_and_rendered_in_a_second(tmp_path):
    job = read_job(tmp_path, ISAAC.replace("seed: [0, 1]", f"seed: {list(range(1000))}"))
    start = time.process_time()
    plan = planned(job)
    planned_after = time.process_time() - start
    scripts = {run.files["setup-and-run.sh"] for run in plan.runs}
    rendered_after = time.process_time() - start
    assert len(scripts) == 1000
    # Processor time, because tests share the machine; twice what it takes on two slow cores.
    assert (planned_after < 1.0, rendered_after < 2.0) == (True, True), (planned_after, rendered_after)
