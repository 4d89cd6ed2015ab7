"""steve: what is typed, word by word, and runs from end to end on a test double, tests/fakes/steve_cluster.py."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import REPOSITORY
from golden_files import assert_golden
from steve_project import FAKES, JOB, TOKEN, Steve, steve_project
from test_plan import planned

from orchestrator.backends.steve.backend import SteveBackend
from orchestrator.backends.steve.commands import allocation_script, typed
from orchestrator.backends.steve.outcomes import end_of, outcome
from orchestrator.backends.steve.steps import Life, StepHost
from orchestrator.errors import BackendError, UsageError
from orchestrator.hosts import Completed, LocalHost
from orchestrator.profile import Profile
from orchestrator.spec import load_job
from orchestrator.states import FailureClass, RunState
from orchestrator.tables import plan_text
from tests.waiting import eventually
from trainer.run_dir import RunDir

# The command lines of the document that the project starts from.
SEED = r"""
JOBID=$(steve job \
    --partition h200-high \
    --gpus-per-task 1 \
    --ntasks 1 \
    --time 24:00:00 \
    --job-name "dreamer-isaac" \
    --container-image nvcr.io/nvidia/isaac-lab:2.3.0 \
    --jobid-only)
steve cp "$JOBID" ./setup-and-run.sh :/root/setup-and-run.sh
steve step "$JOBID" 'bash /root/setup-and-run.sh --build-only'
steve step -d "$JOBID" 'WANDB_MODE=online bash /root/setup-and-run.sh'
steve step -d "$JOBID" 'WANDB_MODE=online bash /root/setup-and-run.sh env.name=Isaac-Ant-v0'
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Steve]:
    with steve_project(tmp_path) as project:
        yield project


def anymal(**changes: object):
    job = load_job(REPOSITORY / "jobs" / "anymal.yaml")
    resources = job.resources.model_copy(update={"gpus": 1})
    return job.model_copy(update={"name": "dreamer-isaac", "resources": resources, **changes})


def test_the_seeds_command_lines_come_out_word_for_word():
    """The document that the project starts from, "Running on Steve", 1 to 4."""
    profile = Profile(name="default")
    launch = planned(anymal(), profile=profile).runs[0].launch
    again = SteveBackend.at(profile).again(launch, 2, ["env.name=Isaac-Ant-v0"])
    ours = {tuple(command) for command in (*launch.commands, *again.commands)}
    lines = SEED.replace("\\\n", "").replace("JOBID=$(", "").replace("--jobid-only)", "--jobid-only")
    assert {tuple(shlex.split(line)) for line in lines.strip().splitlines()} <= ours
    typed_lines = [typed(command) for command in (*launch.commands, again.commands[-1])]
    assert set(lines.strip().splitlines()[1:]) <= set(typed_lines)


def test_the_plan_and_the_allocation_script_of_anymal_are_as_recorded():
    plan = planned(load_job(REPOSITORY / "jobs" / "anymal.yaml"))
    launch = plan.runs[0].launch
    script = allocation_script(launch.request, launch.commands, folder="/root", ready=1800)
    assert_golden("steve.plan.txt", plan_text(plan) + "\n")
    assert_golden("steve.allocate.sh", script)
    assert_golden("steve.sh", plan.runs[0].files["setup-and-run.sh"])
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    for command in launch.commands:
        assert f"=({shlex.join(command)})\n" in script


def test_without_a_shared_folder_the_plan_warns_that_files_die_with_the_allocation():
    [warning] = [line for line in planned(anymal()).warnings if "die with the allocation" in line]
    assert "pulled every 10m" in warning
    shared = planned(anymal(), profile=Profile(name="site", shared="/scratch"))
    assert not any("die with the allocation" in line for line in shared.warnings)
    assert shared.runs[0].launch.request.run_dir == Path("/scratch/<run>")


def test_a_value_with_blanks_stays_one_assignment():
    command = planned(anymal(environment={"NOTE": "it's one"})).runs[0].launch.commands[-1][-1]
    assert shlex.split(command)[:2] == ["NOTE=it's one", "bash"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"host": "login"}, "needs assume.staging"), ({"shared": "runs"}, "shared: write an absolute path")],
)
def test_a_profile_that_lacks_something_is_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        SteveBackend.at(Profile(name="site", **settings))


class Answers(LocalHost):
    """A host whose steve runs steps here, and prints more than they do."""

    def run(self, argv, *, environment=None, timeout=None):
        done = super().run(("sh", "-c", argv[-1]), environment=environment, timeout=timeout)
        return Completed(tuple(argv), 0, f"steve: 2 nodes are down\n{done.stdout}bye\n", done.stderr)


def test_an_answer_is_told_apart_from_what_steve_prints_and_keeps_its_own_exit_code(tmp_path):
    steps = StepHost(Answers(), ["steve"], "1", tmp_path, None, ["run.1"], tmp_path / "scratch")
    done = steps.run(["printf", "%s", "one\ntwo"])
    assert (done.exit_code, done.stdout, steps.lives) == (0, "one\ntwo", (Life.UNBORN,))
    assert steps.run(["bash", "-c", "exit 3"]).exit_code == 3
    RunDir(tmp_path / "run").attempt(1).mkdir(parents=True)
    (RunDir(tmp_path / "run").attempt(1) / "pid").write_text(str(os.getpid()))
    steps.run(["true"])
    assert steps.lives == (Life.ALIVE,)


def test_a_step_that_steve_refuses_is_an_error():
    class Refuses(LocalHost):
        def run(self, argv, *, environment=None, timeout=None):
            return Completed(tuple(argv), 1, "", "steve: error: another step is running\n")

    with pytest.raises(BackendError, match="another step is running"):
        StepHost(Refuses(), ["steve"], "1", Path("/runs"), None, ["run.1"], Path("/scratch")).run(["true"])


def test_a_lost_allocation_is_a_node_failure_unless_the_run_had_ended(tmp_path):
    run = RunDir(tmp_path)
    assert outcome(run, 1, "gone", lost=FailureClass.NODE_FAILURE).failure_class is FailureClass.NODE_FAILURE
    run.write_success(1)
    assert outcome(run, 1, "gone", lost=FailureClass.NODE_FAILURE).state is RunState.SUCCEEDED


def test_a_run_is_allocated_copied_set_up_trained_and_released(project):
    [run] = project.submit("succeed")
    project.run("wait", "last")
    verbs = [words[1:3] if words[1:2] == ["step"] else words[:2] for words in project.calls()]
    assert verbs[:5] == [["steve", "job"], *[["steve", "cp"]] * 3, ["step", verbs[4][1]]]
    root = project.folder / "root"
    assert project.calls("steve", "step", "-d")[0][4] == f"STANDIN=succeed bash {root}/setup-and-run.sh"
    assert len(project.calls("steve", "job")) == len(project.calls("scancel")) == 1
    assert project.jobs() == []
    log = project.run("logs", "last").stdout
    assert f"token of {len(TOKEN)} characters" in log
    left = int(log.partition("left ")[2].split()[0])
    assert 500 < left <= 600
    assert (run.checkpoints / "latest" / "weights").read_text() == "after 3 steps"
    files = [path for path in project.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


def test_a_set_up_that_fails_is_told_at_once_and_nothing_is_started(project):
    project.submit("broken")
    assert project.run("wait", "last", check=1).stderr.count("failed (setup)") == 1
    assert "there is no torch" in project.status()["message"]
    assert project.calls("steve", "step", "-d") == []
    assert project.jobs() == []


def running(project: Steve, run: RunDir) -> None:
    eventually(lambda: project.status()["state"] == "running" and (run.checkpoints / "latest").exists())


def test_secrets_are_readable_by_their_owner_alone_and_a_cancelled_run_saves_first(project):
    [run] = project.submit("long")
    running(project, run)
    [job] = project.jobs()
    assert (job / "root" / "longshore.env").stat().st_mode & 0o777 == 0o600
    assert "from step 0" in project.run("logs", "last").stdout
    assert project.run("cancel", "last").stdout.split()[1] == "cancelled"
    assert project.status()["message"] == "after saving a checkpoint"
    assert "checkpoint saved" in run.log(1).read_text()
    assert project.jobs() == []
    assert len(project.calls("scancel")) == 1


def test_commands_run_in_the_container_and_checkpoints_come_when_they_are_asked_for(project):
    project.assume(pull="1h")
    [run] = project.submit("long")
    eventually(lambda: project.status()["state"] == "running")
    far = project.folder / "root" / "longshore" / run.root.name
    done = project.run("exec", "last", "--", "bash", "-c", 'pwd; echo "$STANDIN"; echo oops >&2; exit 7', check=7)
    assert done.stdout.splitlines() == [str(far.resolve()), "long"]
    assert done.stderr == "oops\n"
    large = far / "checkpoints" / "large"
    large.mkdir()
    (large / "replay").write_bytes(os.urandom(1 << 20))
    done = project.run("pull", "last", "--what", "all")
    assert (run.checkpoints / "large" / "replay").read_bytes() == (large / "replay").read_bytes()
    assert (run.checkpoints / "latest" / "weights").exists()
    project.run("cancel", "last")
    assert "all that there is lies here" in project.run("pull", "last").stderr


def test_after_a_lost_allocation_the_run_goes_on_from_the_checkpoint_that_was_pulled(project):
    [run] = project.submit("long")
    running(project, run)
    [job] = project.jobs()
    pulled = int((run.checkpoints / "latest").resolve().name.removeprefix("step_"))
    subprocess.run([str(FAKES / "scancel"), job.name], env=project.variables(), check=True)
    project.run("wait", "last")
    status = project.status()
    assert [attempt["failure_class"] for attempt in status["attempts"]] == ["node-failure", None]
    start = int(run.log(2).read_text().partition("from step ")[2].split()[0])
    assert start >= pulled > 0
    assert len(project.calls("steve", "job")) == 2
    assert project.jobs() == []


def test_a_run_that_has_succeeded_goes_on_in_a_shared_folder_when_it_is_resumed(project, tmp_path):
    project.assume(shared=tmp_path / "shared")
    [run] = project.submit("succeed")
    project.run("wait", "last")
    project.run("resume", "last", "optimization.total_optim_steps=7")
    project.run("wait", "last")
    assert project.begun([run]) == [(0, 1), (0, 2)]
    assert "from step 3" in run.log(2).read_text()


def test_a_steve_that_answers_late_and_warns_before_the_id_is_asked_once(project):
    project.set(slow=3, warnings=["2026-11-23 WARNING: quota at 93%", "17 nodes are down"])
    project.assume(answer="1s")
    (project.folder / "tiny.yaml").write_text(JOB % "succeed")
    assert "did not answer within 1 s" in project.run("submit", "tiny.yaml", check=3).stderr
    time.sleep(3)
    project.run("submit", "tiny.yaml")
    project.run("wait", "last")
    assert len(project.calls("steve", "job")) == 1
    assert project.calls("scancel")[0][1] == project.calls("steve", "cp")[0][2] == "4712"


@pytest.mark.parametrize(
    ("answer", "code", "failure_class"),
    [
        ("RUNNING", 0, None),
        ("COMPLETING", 0, None),
        ("PREEMPTED", 0, "preempted"),
        ("CANCELLED+", 0, "node-failure"),
        ("TIMEOUT", 0, "timeout"),
        ("", 0, "node-failure"),
        ("", 1, None),
    ],
)
def test_how_an_allocation_ended_is_what_the_state_command_says(answer, code, failure_class):
    end = end_of(Completed(("state",), code, f"{answer}\n", ""))
    assert (None if end is None else end.failure_class) == failure_class


@pytest.mark.parametrize("listed", [False, True], ids=["nothing answers", "the list of jobs says so"])
def test_a_job_that_is_lost_right_after_its_id_fails_after_its_retries(project, listed):
    project.set(loses=True)
    if listed:
        state = ["sh", "-c", f"ls {project.cluster}/jobs/{{job_id}} 2>/dev/null || true"]
        project.assume({"state": state}, ready="30m", lost="30m")
    project.submit("succeed")
    project.run("wait", "last", check=1)
    assert project.status()["failure_class"] == "node-failure"
    assert len(project.calls("steve", "job")) == 2
    typed_then = len(project.calls())
    time.sleep(3)
    assert len(project.calls()) - typed_then <= 1  # whoever tried to copy has given up, at most after one more time


def test_where_steps_may_not_overlap_a_run_is_looked_at_when_it_has_ended(project):
    project.set(overlap=False)
    project.assume(overlap=False)
    project.submit("succeed")
    project.run("wait", "last")
    assert project.status()["state"] == "succeeded"
    assert project.jobs() == []
