"""The set-up script, run for real with a trainer of a few lines: markers, exit codes, signals, leftovers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.script import ScriptContext, render_script
from tests.waiting import eventually, gone
from trainer.run_dir import FailureClass, RunDir

FAKE = Path(__file__).parent / "fake_trainer.py"


@dataclass
class Script:
    """A rendered script and the run directory that it works in."""

    context: ScriptContext
    folder: Path

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.folder)

    @property
    def seen(self) -> dict:
        """What the trainer saw: argv, cwd, environment, pid."""
        return json.loads((self.folder / "seen.json").read_text())

    def start(self, *words: str, attempt: int | None = 1, **variables: str) -> subprocess.Popen[str]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.run_dir.script.write_text(render_script(self.context))
        environment = {**os.environ, **variables}
        if attempt is not None:
            environment["LONGSHORE_ATTEMPT"] = str(attempt)
        return subprocess.Popen(
            ["bash", os.fspath(self.run_dir.script), *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, attempt: int | None = 1, **variables: str) -> tuple[int, str]:
        """Exit code and output."""
        process = self.start(*words, attempt=attempt, **variables)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output


@pytest.fixture
def script(tmp_path: Path) -> Script:
    package = tmp_path / "snap shot" / "trainer"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(FAKE, package / "__main__.py")
    folder = tmp_path / "ru ns" / "demo-1"
    context = ScriptContext(
        run_id="demo-1",
        run_dir=os.fspath(folder),
        snapshot=os.fspath(package.parent),
        python=(sys.executable,),
        imports=("json",),
        modules=("trainer",),
        grace=2,
    )
    return Script(context, folder)


def exit_code(script: Script, attempt: int = 1) -> int:
    return int(script.run_dir.exit_code(attempt).read_text())


def test_a_run_that_succeeds_leaves_success_and_exit_code_zero(script):
    status, output = script.run("behaviour=succeed")
    assert (status, exit_code(script)) == (0, 0), output
    assert script.run_dir.success.exists()
    assert not script.run_dir.failure.exists()


def test_the_trainer_gets_the_jobs_words_then_those_of_the_command_line(script):
    script.context = replace(script.context, train=("env.name=Ant", "note='a b'"))
    script.run("behaviour=succeed", "seed=3")
    assert script.seen["argv"] == ["env.name=Ant", "note='a b'", "behaviour=succeed", "seed=3"]


def test_the_trainer_runs_in_the_run_directory_with_the_snapshots_code_and_the_runs_variables(script):
    script.context = replace(script.context, environment={"WANDB_MODE": "offline"}, time_limit=3600)
    before = int(time.time())
    script.run("behaviour=succeed", PYTHONPATH="/somewhere", WANDB_MODE="online", TERM="")
    seen = script.seen["environment"]
    assert script.seen["cwd"] == os.fspath(script.folder)
    assert seen["PYTHONPATH"] == f"{script.context.snapshot}:/somewhere"
    assert (seen["LONGSHORE_RUN_ID"], seen["LONGSHORE_RUN_DIR"]) == ("demo-1", os.fspath(script.folder))
    assert (seen["LONGSHORE_ATTEMPT"], seen["WANDB_MODE"], seen["TERM"]) == ("1", "offline", "xterm")
    assert before + 3600 <= int(seen["LONGSHORE_DEADLINE"]) <= time.time() + 3600


def test_a_deadline_that_the_backend_sets_stands(script):
    script.context = replace(script.context, time_limit=3600)
    script.run("behaviour=succeed", LONGSHORE_DEADLINE="1234567890")
    assert script.seen["environment"]["LONGSHORE_DEADLINE"] == "1234567890"


def test_variables_named_like_the_scripts_own_reach_the_trainer_and_do_not_disturb_the_script(script):
    names = ["status", "stage", "child", "grace", "build_only", "attempt_dir", "word", "signal", "pids", "until"]
    script.context = replace(script.context, environment={name: f"mine {name}" for name in names})
    status, output = script.run("behaviour=crash")
    assert (status, exit_code(script)) == (1, 1), output
    assert {name: script.seen["environment"][name] for name in names} == script.context.environment


def test_a_second_start_after_success_says_so_and_trains_nothing(script):
    script.run("behaviour=succeed")
    (script.folder / "seen.json").unlink()
    status, output = script.run("behaviour=crash", attempt=2)
    assert status == 0
    assert "done already" in output
    assert not (script.folder / "seen.json").exists()
    assert not script.run_dir.failure.exists()


def test_build_only_verifies_and_leaves_no_marker(script):
    status, output = script.run("--build-only")
    assert status == 0, output
    assert "set up and verified" in output
    assert [path.name for path in script.folder.iterdir()] == ["setup-and-run.sh"]


@pytest.mark.parametrize("words", [["--build"], ["train"], ["seed=1", "--build-only"]])
def test_other_words_are_refused_before_anything_happens(script, words):
    status, output = script.run(*words)
    assert status == 2
    assert output.startswith("usage: ")
    assert [path.name for path in script.folder.iterdir()] == ["setup-and-run.sh"]


def test_an_attempt_that_is_no_number_is_refused(script):
    status, output = script.run(LONGSHORE_ATTEMPT='1", "class": "nan', attempt=None)
    assert status == 2
    assert "must be a number" in output


def test_started_by_hand_it_takes_the_next_free_attempt(script):
    script.run("behaviour=stop")
    script.run("behaviour=succeed", attempt=None)
    assert script.seen["environment"]["LONGSHORE_ATTEMPT"] == "2"
    assert (exit_code(script, 1), exit_code(script, 2)) == (75, 0)


def test_a_crash_without_a_word_is_told_by_the_script(script):
    status, _ = script.run("behaviour=crash")
    failure = script.run_dir.read_failure()
    assert status == exit_code(script) == 1
    assert failure is not None
    assert (failure.failure_class, failure.message) == (FailureClass.CRASH, "the trainer ended with exit status 1")
    assert (failure.exit_code, failure.attempt) == (1, 1)


def test_a_trainer_that_is_killed_is_a_crash_that_names_the_signal(script):
    status, _ = script.run("behaviour=be killed", attempt=4)
    failure = script.run_dir.read_failure()
    assert status == exit_code(script, 4) == 137
    assert failure is not None
    assert failure.message == "the trainer was ended by signal 9 (SIGKILL)"
    assert (failure.failure_class, failure.attempt) == (FailureClass.CRASH, 4)


def test_exit_status_zero_without_success_is_a_crash(script):
    status, _ = script.run()
    failure = script.run_dir.read_failure()
    assert status == exit_code(script) == 1
    assert failure is not None
    assert "wrote neither SUCCESS nor failure.json" in failure.message


def test_what_the_trainer_says_of_its_failure_stands(script):
    script.run("behaviour=fail")
    assert json.loads(script.run_dir.failure.read_text())["class"] == "nan"


def test_success_stands_even_when_the_process_crashes_on_its_way_out(script):
    status, _ = script.run("behaviour=succeed and crash")
    assert status == exit_code(script) == 128 + signal.SIGSEGV
    assert not script.run_dir.failure.exists()


def test_a_stopped_trainer_is_resumable_and_no_failure(script):
    status, _ = script.run("behaviour=stop")
    assert status == exit_code(script) == 75
    assert not script.run_dir.failure.exists()


def test_the_failure_of_an_earlier_attempt_is_removed_at_the_start(script):
    script.run("behaviour=crash")
    script.run("behaviour=stop", attempt=2)
    assert not script.run_dir.failure.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_reaches_the_trainer_as_term_and_its_checkpoint_is_waited_for(script, number):
    process = script.start("behaviour=stop when asked")
    eventually((script.folder / "seen.json").exists)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == exit_code(script) == 75, output
    assert (script.folder / "checkpoint").exists()


def test_signals_that_come_again_and_again_do_not_lose_the_exit_code(script):
    process = script.start("behaviour=stop when asked")
    eventually((script.folder / "seen.json").exists)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert process.returncode == exit_code(script) == 75


def test_a_trainer_that_does_not_stop_is_ended_by_force_with_all_that_it_started(script):
    process = script.start("behaviour=ignore")
    eventually((script.folder / "seen.json").exists)
    start = time.monotonic()
    process.terminate()
    process.communicate(timeout=30)
    failure = script.run_dir.read_failure()
    assert process.returncode == exit_code(script) == 137
    assert time.monotonic() - start > 1
    assert failure is not None
    assert "did not stop within 2 seconds of SIGTERM" in failure.message
    assert gone(script.seen["pid"])


def test_a_trainer_that_dies_of_the_request_to_stop_is_resumable(script):
    process = script.start("behaviour=sleep")
    eventually((script.folder / "seen.json").exists)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == exit_code(script) == 75
    assert not script.run_dir.failure.exists()


def test_a_signal_reaches_a_trainer_that_runs_under_a_wrapper(script, tmp_path):
    wrapper = tmp_path / "isaaclab.sh"
    wrapper.write_text(f'#!/bin/bash\nshift\n{sys.executable} "$@"\nexit $?\n')
    wrapper.chmod(0o755)
    script.context = replace(script.context, python=(os.fspath(wrapper), "-p"))
    process = script.start("behaviour=stop when asked")
    eventually((script.folder / "seen.json").exists)
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert (script.folder / "checkpoint").exists()


def test_a_stop_during_set_up_is_resumable(script):
    script.context = replace(script.context, imports=("slow",))
    package = Path(script.context.snapshot) / "slow.py"
    package.write_text("import pathlib, time; pathlib.Path('started').touch(); time.sleep(100)")
    process = script.start("behaviour=succeed")
    eventually((script.folder / "started").exists)
    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == exit_code(script) == 75
    assert "stopped by SIGTERM during verify" in output
    assert not script.run_dir.failure.exists()


def test_a_module_that_is_missing_fails_the_set_up_and_says_which(script):
    script.context = replace(script.context, imports=("json", "no_such_module"))
    status, output = script.run("behaviour=succeed")
    failure = script.run_dir.read_failure()
    assert status == exit_code(script) == 1
    assert failure is not None
    assert failure.failure_class is FailureClass.SETUP
    assert f"{sys.executable} cannot import no_such_module: ModuleNotFoundError" in failure.message
    assert not (script.folder / "seen.json").exists(), output


def test_what_is_only_looked_for_is_told_with_its_version_and_not_imported(script):
    script.context = replace(script.context, imports=(), modules=("trainer", "pytest"))
    package = Path(script.context.snapshot) / "trainer" / "__init__.py"
    package.write_text("import sys\nif sys.argv[0] == '-':\n    sys.exit('imported to verify')\n")
    _, output = script.run("behaviour=succeed")
    assert f"  ok    trainer: {package}\n" in output
    assert f"  ok    pytest: {pytest.__version__}\n" in output


def test_a_simulator_that_is_not_there_fails_the_set_up_without_being_imported(script):
    script.context = replace(script.context, modules=("trainer.simulators.nowhere",))
    script.run("behaviour=succeed")
    failure = script.run_dir.read_failure()
    assert failure is not None
    assert "trainer.simulators" in failure.message


def test_a_python_that_does_not_exist_fails_the_set_up_with_command_and_line(script):
    script.context = replace(script.context, python=('/no/such "python"\\',))
    script.run("behaviour=succeed")
    failure = script.run_dir.read_failure()
    assert failure is not None
    assert failure.failure_class is FailureClass.SETUP
    line = int(failure.message.split("line ")[1].split()[0])
    assert script.run_dir.script.read_text().splitlines()[line - 1].startswith("step verify ")
    assert "exit status 127 of: /no/such" in failure.message


def test_what_an_attempt_leaves_running_is_ended_when_it_ends(script):
    script.run("behaviour=leave an orphan")
    assert gone(script.seen["orphan"])


def test_a_start_ends_what_an_earlier_attempt_of_this_run_left_and_nothing_else(script):
    marks = {"LONGSHORE_RUN_ID": "demo-1", "LONGSHORE_RUN_DIR": os.fspath(script.folder)}
    environments = {
        "stale": marks,
        "stale and deaf": marks,
        "another run": {**marks, "LONGSHORE_RUN_ID": "demo-10"},
        "another home": {**marks, "LONGSHORE_RUN_DIR": "/elsewhere/demo-1"},
        "nobody's": {},
        "looks alike": {"NOTE": "LONGSHORE_RUN_ID=demo-1", "X": f"\nLONGSHORE_RUN_DIR={script.folder}"},
    }
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(100)"
    awake = deaf.replace("signal.SIG_IGN", "signal.SIG_DFL")
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-c", deaf if "deaf" in name else awake],
            env={**os.environ, **variables, "LONGSHORE_ATTEMPT": "1"},
            stdout=subprocess.PIPE,
        )
        for name, variables in environments.items()
    }
    try:
        for process in processes.values():
            assert process.stdout is not None
            process.stdout.readline()
        text = render_script(script.context).replace("end_processes 30", "end_processes 1")
        script.folder.mkdir(parents=True)
        script.run_dir.script.write_text(text)
        subprocess.run(
            ["bash", os.fspath(script.run_dir.script), "behaviour=succeed"],
            env={**os.environ, **marks, "LONGSHORE_ATTEMPT": "2"},  # as a backend starts it: it carries the marks too
            check=True,
            timeout=60,
        )
        ended = {name: process.poll() for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    assert ended == {
        **dict.fromkeys(environments),
        "stale": -signal.SIGTERM,
        "stale and deaf": -signal.SIGKILL,
    }


def test_a_full_disk_is_said_and_the_exit_code_is_kept(script):
    script.start("--build-only").communicate(timeout=30)
    script.run_dir.attempt(1).mkdir(parents=True)
    text = script.run_dir.script.read_text().replace('cat >"$temporary"', "cat >/dev/full")
    script.run_dir.script.write_text(text)
    done = subprocess.run(
        ["bash", os.fspath(script.run_dir.script), "behaviour=be killed"],
        env={**os.environ, "LONGSHORE_ATTEMPT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 137
    assert "failure.json could not be written" in done.stderr
    assert not script.run_dir.exit_code(1).exists()
