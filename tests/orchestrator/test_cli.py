"""The command line, typed as its users type it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from orchestrator.surroundings import home
from tests.orchestrator.command_line import REPOSITORY, Project

HEAVY = {"torch", "numpy", "pandas", "docker", "fabric", "paramiko", "tensordict", "hydra"}
COMMANDS = ["submit", "plan", "render", "validate", "runs", "status", "logs", "wait", "cancel", "shell"]
COMMANDS += ["report", "export", "doctor", "pull", "exec", "resume", "watch", "prune", "tasks", "schema", "image"]


@pytest.fixture
def project(tmp_path):
    return Project.make(tmp_path)


def stdout_lines(done):
    return done.stdout.splitlines()


# ---- help, usage, exit codes


def test_help_names_the_commands_of_this_version_and_no_others(project):
    listed = project.run("--help").stdout.split("Commands:")[1]
    assert re.findall(r"^  (\w+)", listed, re.MULTILINE) == COMMANDS


def test_a_bare_call_shows_the_help(project):
    assert project.run().stdout == project.run("--help").stdout


def test_a_typo_in_a_command_gets_the_nearest_one_in_one_line(project):
    done = project.run("sumbit", "tiny.yaml", check=2)
    assert done.stderr == "error: No such command 'sumbit'. Did you mean 'submit'?\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        *(["submit"], ["plan", "tiny.yaml", "--nope"], ["logs", "last", "--attempt", "first"], ["validate"], ["wait"]),
        *(["status"], ["status", "--json"], ["status", "last", "more"], ["runs", "more"], ["--json", "runs"]),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_line_on_stderr_and_exit_code_2(project, arguments):
    done = project.run(*arguments, check=2)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")


def imported_by(project, command):
    """Packages that a command has imported."""
    report = "import sys; print(*sorted(m for m in sys.modules if '.' not in m), file=sys.stderr)"
    code = f"import sys; from orchestrator.entry import main; main({command!r}); {report}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.folder,
        env=project.variables() | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stderr.splitlines()[-1].split())
    assert "orchestrator" in imported
    return imported


@pytest.mark.parametrize("command", [["--help"], ["plan", "tiny.yaml"], ["validate", "tiny.yaml"], ["runs"], ["tasks"]])
def test_no_command_imports_what_takes_long(project, command):
    project.job()
    imported = imported_by(project, command)
    assert not imported & HEAVY
    if command == ["--help"]:
        assert not imported & {"pydantic", "yaml", "jinja2", "rich", "sqlite3"}


@pytest.mark.parametrize("command", [["runs"], ["runs", "--json"], ["status", "last"]])
def test_what_is_typed_all_the_time_waits_for_no_library(project, command):
    project.run("submit", project.job())
    project.run("wait", "last")
    assert not imported_by(project, command) & {*HEAVY, "typer", "pydantic", "yaml", "jinja2", "rich", "bokeh"}


@pytest.mark.parametrize("command", [["runs"], ["runs", "--json"], ["status", "last", "--json"]], ids=" ".join)
def test_the_short_way_to_an_answer_gives_the_same_one(project, command):
    project.run("submit", project.job())
    project.run("wait", "last")
    code = f"from orchestrator.cli import run_command; run_command({command!r})"
    variables = project.variables() | {"PYTHONPATH": str(REPOSITORY)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=project.folder, env=variables, capture_output=True, text=True, check=True)
    assert re.sub(r" *\d+s", "", done.stdout) == re.sub(r" *\d+s", "", project.run(*command).stdout)


# ---- plan, render, validate, schema, tasks: nothing is written


def test_plan_shows_the_run_its_code_its_files_and_its_command(project):
    job = project.job()
    shown = project.run("plan", job, "seed=3").stdout
    assert re.search(r"^run +tiny-\d{6}-\d{6}-[0-9a-f]{4}$", shown, re.MULTILINE)
    assert re.search(r"^backend +local", shown, re.MULTILINE)
    assert "seed=3" in shown
    assert "setup-and-run.sh" in shown


def test_plan_as_json_is_the_plan_of_the_same_arguments(project):
    plan = json.loads(project.run("plan", project.job(), "seed=3", "--json").stdout)
    [run] = plan["runs"]
    assert run["name"] == "tiny"
    assert plan["plan_id"] == run["run_id"]


def test_a_plan_of_a_sweep_lists_what_sets_its_runs_apart(project):
    job = project.job(more="sweep:\n  seed: [0, 1, 2]\n")
    shown = project.run("plan", job).stdout
    assert len(re.findall(r"tiny-\d{6}-\d{6}-[0-9a-f]{4}-00[012] +seed=[012]$", shown, re.MULTILINE)) == 3


def test_tasks_makes_a_sweep_of_a_job(project):
    plan = project.run("plan", project.job(), "--tasks", "Mjlab-Cartpole-Balance,Mjlab-Cartpole-Swingup", "--json")
    assert len(json.loads(plan.stdout)["runs"]) == 2
    (project.folder / "tasks.txt").write_text("# two\nMjlab-Cartpole-Balance\n\nMjlab-Cartpole-Swingup\n")
    listed = project.run("plan", project.job(), "--tasks", "@tasks.txt", "--json")
    names = [run["name"] for run in json.loads(listed.stdout)["runs"]]
    assert names == ["tiny env.name=Mjlab-Cartpole-Balance", "tiny env.name=Mjlab-Cartpole-Swingup"]


def test_render_prints_a_script_that_bash_accepts_and_nothing_else(project):
    done = project.run("render", project.job())
    assert done.stderr == ""
    assert done.stdout.startswith("#!/usr/bin/env bash\n")
    subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True)


def test_render_of_a_sweep_says_whose_script_it_is(project):
    done = project.run("render", project.job(more="sweep:\n  seed: [0, 1]\n"))
    assert done.stdout.startswith("#!/usr/bin/env bash\n")
    assert re.search(r"tiny-\S+-000, the first of 2 runs", done.stderr)


def test_validate_counts_the_runs_of_each_file_and_reports_the_problems_of_all(project):
    good, swept = project.job(), project.job(name="swept", more="sweep:\n  seed: [0, 1]\n")
    assert stdout_lines(project.run("validate", good, swept)) == ["tiny.yaml: 1 run", "swept.yaml: 2 runs"]
    for name in ("bad", "worse"):
        project.job(name=name, more="resources: {gpus: -1}\nnonsense: 1\n")
    done = project.run("validate", "bad.yaml", good, "worse.yaml", check=2)
    assert stdout_lines(done) == ["tiny.yaml: 1 run"]
    problems = done.stderr.splitlines()
    assert len(problems) == 4
    assert all(re.match(r"(bad|worse)\.yaml:\d+:\d+: ", problem) for problem in problems)


def test_schema_prints_the_schema_that_the_job_files_name(project):
    written = (REPOSITORY / "schemas" / "job.schema.json").read_text(encoding="utf-8")
    assert json.loads(project.run("schema").stdout) == json.loads(written)


def test_tasks_are_found_by_a_part_of_their_name_or_a_glob(project):
    assert "Isaac-Ant-v0" in project.run("tasks", "ant-v").stdout
    found = json.loads(project.run("tasks", "Mjlab-Cartpole-*", "--json").stdout)
    assert {"name": "Mjlab-Cartpole-Balance", "simulator": "mjlab", "kind": "state"} in found
    assert all(task["name"].startswith("Mjlab-Cartpole-") for task in found)
    assert "no task matches" in project.run("tasks", "Cheese", check=1).stderr
    kinds = Counter(task["kind"] for task in json.loads(project.run("tasks", "Isaac-*", "--json").stdout))
    assert kinds == {"state": 127, "camera": 23, "multi-agent": 2}, "all 152"


def test_what_only_looks_writes_nothing(project):
    job = project.job()
    before = sorted(project.folder.rglob("*"))
    for arguments in (
        ["plan", job],
        ["plan", job, "--json"],
        ["render", job],
        ["validate", job],
        ["schema"],
        ["tasks"],
    ):
        project.run(*arguments)
    project.run("runs")
    project.run("status", "last", check=2)
    assert sorted(project.folder.rglob("*")) == before


# ---- bad input


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("nonsense: 1\n", "nonsense"),
        ("resources: {time: 25h:00}\n", "resources.time"),
        ("backend: local\n", "backend"),
        ("train2: [\n", ""),
        ("secrets: [NO_SUCH_SECRET]\n", "NO_SUCH_SECRET"),
        ("image: !!python/object/apply:os.system [reboot]\n", ""),
    ],
)
def test_bad_input_is_a_line_with_its_place_and_nothing_is_written(project, more, said):
    done = project.run("submit", project.job(more=more), check=2)
    assert all(re.match(r"tiny\.yaml:\d+:\d+: ", line) for line in done.stderr.splitlines())
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not project.home.exists()


def test_a_missing_file_is_one_line(project):
    done = project.run("submit", "absent.yaml", check=2)
    assert "absent.yaml" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_profile_that_is_not_there_is_named(project):
    done = project.run("plan", project.job(), "--set", "profile=elsewhere", check=2)
    assert "elsewhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_backend_whose_profile_lacks_something_is_planned_but_not_submitted(project):
    job = project.job(more="image: nvcr.io/nvidia/isaac-lab:2.3.0\n")
    (project.folder / "profiles.yaml").write_text("default: {host: login}\n")
    project.run("plan", job, "--backend", "steve")
    done = project.run("submit", job, "--backend", "steve", check=2)
    assert re.fullmatch(r"error: profile default: host needs assume.staging.*\n", done.stderr)
    assert not project.home.exists()


def test_a_secret_is_taken_from_the_environment_and_shown_nowhere(project):
    job = project.job(more="secrets: [TINY_TOKEN]\n")
    project = project.with_variables(TINY_TOKEN="hunter2-hunter2")
    shown = [project.run(*words) for words in (["plan", job], ["plan", job, "--json"], ["render", job])]
    shown += [project.run("submit", job, "--follow"), project.run("status", "last", "--json")]
    assert not any("hunter2" in done.stdout + done.stderr for done in shown)
    files = [path for path in project.home.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"hunter2" in path.read_bytes()]


# ---- runs


def test_submit_prints_the_run_id_alone_and_the_run_goes_its_way(project):
    [run_id] = stdout_lines(project.run("submit", project.job()))
    done = project.run("wait", run_id)
    assert "46.2 of 50" in done.stdout
    assert (project.home / run_id / "SUCCESS").exists()
    assert "step 3" in project.run("logs", run_id).stdout
    assert "succeeded" in project.run("status", "last").stdout


def test_longshore_home_says_where_runs_go(project, tmp_path, monkeypatch):
    elsewhere = project.with_variables(LONGSHORE_HOME=str(tmp_path / "else where"))
    [run_id] = stdout_lines(elsewhere.run("submit", project.job()))
    elsewhere.run("wait", run_id)
    assert (tmp_path / "else where" / run_id / "SUCCESS").exists()
    assert not project.home.exists()
    monkeypatch.delenv("LONGSHORE_HOME", raising=False)
    assert home() == Path.cwd() / "runs"


def test_submitting_the_same_job_again_finds_the_run_that_is_done(project):
    job = project.job()
    [first] = stdout_lines(project.run("submit", job))
    project.run("wait", first)
    done = project.run("submit", job)
    assert stdout_lines(done) == [first]
    assert "succeeded already" in done.stderr
    [second] = stdout_lines(project.run("submit", job, "--again"))
    assert second != first
    project.run("wait", second)


def test_a_failed_run_gives_exit_code_1_and_its_class(project):
    done = project.run("submit", project.job("fail"), "--follow", check=1)
    assert done.stderr.count("failed (nan): the world model's loss is nan") == 1
    assert "failed (nan)" in project.run("wait", "last", check=1).stderr
    status = json.loads(project.run("status", "last", "--json").stdout)
    assert (status["state"], status["failure_class"]) == ("failed", "nan")
    assert [attempt["number"] for attempt in status["attempts"]] == [1]
    assert status["events"][-1]["new"] == "failed"


def test_cancel_ends_a_run_and_lets_it_save(project):
    [run_id] = stdout_lines(project.run("submit", project.job("hang")))
    wait_for_log(project, run_id, "step 2")
    assert stdout_lines(project.run("cancel", "last", "--grace", "20s")) == [f"{run_id} cancelled"]
    assert "checkpoint saved" in project.run("logs", run_id).stdout
    assert project.run("cancel", run_id).stderr == f"{run_id}: already cancelled\n"


def test_wait_gives_up_after_its_timeout(project):
    project.run("submit", project.job("hang"))
    done = project.run("wait", "last", "--timeout", "1s", check=1)
    assert "not ended within 1 s" in done.stderr
    project.run("cancel", "last")
    assert "--timeout" in project.run("wait", "last", "--timeout", "soon", check=2).stderr


def test_runs_are_listed_with_the_newest_last_and_as_json(project):
    [first] = stdout_lines(project.run("submit", project.job("fail", "alpha")))
    project.run("wait", first, check=1)
    [second] = stdout_lines(project.run("submit", project.job(name="beta")))
    project.run("wait", second)
    shown = stdout_lines(project.run("runs"))
    assert [line.split()[0] for line in shown] == ["RUN", first, second]
    assert shown[1].split()[1:3] == ["failed", "nan"]
    assert "\x1b" not in "".join(shown)
    listed = json.loads(project.run("runs", "--json").stdout)
    assert [(run["run_id"], run["state"]) for run in listed] == [(first, "failed"), (second, "succeeded")]


def test_runs_tells_what_each_takes_on_disk(project):
    project.run("submit", project.job(), "--follow")
    [run_id] = [path.name for path in project.home.glob("tiny-*")]
    before = json.loads(project.run("runs", "--disk", "--json").stdout)[0]["disk"]
    (project.home / run_id / "checkpoint").write_bytes(os.urandom(5_000_000))
    [row] = json.loads(project.run("runs", "--disk", "--json").stdout)
    assert 5_000_000 <= row["disk"] - before <= 5_100_000
    done = project.run("runs", "--disk")
    assert re.search(r"DISK\n.* 5\.\d MB$", done.stdout.strip())
    assert done.stderr == "0.01 GB in all\n"


def test_a_sweep_is_waited_for_and_summed_up_as_a_whole(project):
    done = project.run("submit", project.job(more="sweep:\n  seed: [0, 1]\n"))
    members = stdout_lines(done)
    assert [run_id[-4:] for run_id in members] == ["-000", "-001"]
    summed = stdout_lines(project.run("wait", members[0][:-4]))
    assert [line.split()[0] for line in summed] == ["RUN", *members]


def test_a_sweep_is_one_thing_to_every_command_and_grows_when_it_is_submitted_again(project):
    members = stdout_lines(project.run("submit", project.job(more="sweep:\n  seed: [0, 1]\n"), "--follow"))[-2:]
    members = [line.split()[0] for line in members]
    sweep = members[0][:-4]
    again = project.run("submit", project.job(more="sweep:\n  seed: [2, 1, 0]\n"), "--follow")
    grown = [*members, stdout_lines(again)[0]]
    assert again.stderr.count("succeeded already") == 2
    shown = json.loads(project.run("status", sweep, "--json").stdout)
    assert [(run["run_id"], run["differs"]) for run in shown] == [(grown[n], {"seed": n}) for n in range(3)]
    assert "seed=1" in stdout_lines(project.run("status", sweep))[2]
    logged = stdout_lines(project.run("logs", sweep))
    assert list(dict.fromkeys(line.partition(" | ")[0] for line in logged)) == grown
    assert stdout_lines(project.run("logs", sweep, "-f")) == logged
    assert Path(project.run("report", sweep).stdout.strip()).name == f"report-{sweep}.html"
    assert project.run("cancel", sweep).stderr.count("already succeeded") == 3
    assert project.run("resume", sweep).stderr == "no run of it has failed or was cancelled\n"


def test_the_log_of_an_attempt_that_was_not_made_is_refused(project):
    project.run("submit", project.job(), "--follow")
    assert "has no attempt 7; attempts: 1" in project.run("logs", "last", "--attempt", "7", check=2).stderr
    assert project.run("logs", "last", "--attempt", "1").stdout == project.run("logs", "last").stdout


def test_a_reader_that_stops_reading_is_no_error(project):
    project.run("submit", project.job(), "--follow")
    script = f"{' '.join(project.command('logs', 'last'))} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", script], cwd=project.folder, env=project.variables(), capture_output=True, text=True
    )
    assert done.stderr == ""


def test_a_home_that_cannot_be_written_is_one_line(project):
    (project.folder / "file").write_text("")
    done = project.with_variables(LONGSHORE_HOME=str(project.folder / "file")).run("submit", project.job(), check=1)
    assert len(done.stderr.splitlines()) == 1
    assert "file" in done.stderr


def test_a_run_goes_on_when_the_command_that_follows_it_is_killed(project):
    follower = subprocess.Popen(
        project.command("submit", project.job("hang"), "--follow"),
        cwd=project.folder,
        env=project.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    run_id = follower.stdout.readline().strip()
    wait_for_log(project, run_id, "step 2")
    os.kill(follower.pid, signal.SIGKILL)
    follower.wait()
    follower.stdout.close()
    written = project.run("logs", run_id).stdout
    time.sleep(0.5)
    assert len(project.run("logs", run_id).stdout) > len(written)
    assert "running" in project.run("status", run_id).stdout
    project.run("cancel", run_id)


def wait_for_log(project, run_id, text, timeout=60.0):
    """Until the run has written `text`."""
    log = project.home / run_id / "attempts" / "1" / "log.txt"
    end = time.monotonic() + timeout
    while not (log.exists() and text in log.read_text(encoding="utf-8")):
        assert time.monotonic() < end, f"{run_id} did not write {text!r}"
        time.sleep(0.05)
