"""The acceptance run: what a user of the real Isaac Sim starts, here against the stand-in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.standin import TASK, needs_isaaclab, run_inside, train
from trainer.acceptance.checks import Check, Missing, before_start, checked
from trainer.acceptance.report import Training, failures, markdown, write_report
from trainer.config import CONF, Config, compose
from trainer.pipelines.acceptance import visible_gpus
from trainer.pipelines.parts import check_sizes


def stage(name: str, gpus: int, *overrides: str, filmed: str = "false") -> str:
    """A training of the acceptance run, in the grammar of overrides."""
    words = ",".join(f"'{word}'" for word in overrides)
    return f"{{name: {name}, gpus: {gpus}, filmed: {filmed}, published: no figure, overrides: [{words}]}}"


STAGES = ",".join(
    (
        stage("points", 0, *TASK),
        stage("wrong", 0, *TASK, "agent.name=none"),
        stage("unseen", 0, *TASK, "video.enabled=false", filmed="true"),
        stage("large", 99),
    )
)
SET_UP = {"TERM": "xterm", "PYTHONNOUSERSITE": "1", "TD_GET_DEFAULTS_TO_NONE": "1", "HEADLESS": "1"}

CHECKS = [
    Check("Python", None, "3.11"),
    Check("$TERM", True, "xterm", 15),
    Check("Isaac Sim starts", False, "no | GPU", 1, 2.5),
]
TRAININGS = [
    Training("ant", ["agent=dreamer"], None, 15_600.0, 7.0, "15,600 frames/s", 61.0, 1.0, 30.5),
    Training("camera", [], "crash: no picture", None, None, "no figure", 3.0),
]


def test_a_check_says_what_it_found_or_what_is_wrong():
    def missing() -> str:
        raise Missing("is not there;\n install it")

    fine = checked("fine", lambda: "all", 4)
    assert (fine.passed, fine.found, fine.trap) == (True, "all", 4)
    assert checked("gone", missing).found == "is not there; install it"
    assert checked("broken", lambda: str(1 / 0)).found == "ZeroDivisionError: division by zero"


def test_variables_that_the_script_exports_are_looked_for():
    found = {check.name: check.passed for check in before_start({"OMNI_KIT_ACCEPT_EULA": "no", "TERM": "xterm"})}
    assert (found["$OMNI_KIT_ACCEPT_EULA"], found["$TERM"], found["$PYTHONNOUSERSITE"]) == (False, True, False)


def test_the_report_counts_what_failed_and_sets_figures_beside_the_published_ones(tmp_path: Path):
    page = markdown(CHECKS, TRAININGS)
    assert "2 of 5 failed." in page
    assert "| **FAIL** | Isaac Sim starts | no \\| GPU | 1 | 2.5 |" in page
    assert "| ok | ant | 15,600 | 7.00 | 15,600 frames/s | 1.00 → 30.50 | 61 |" in page
    assert "- ant: `python -m trainer agent=dreamer`" in page
    assert failures(CHECKS, TRAININGS) == ["Isaac Sim starts: no | GPU", "camera: crash: no picture"]
    assert "All is well." in markdown(CHECKS[:2], TRAININGS[:1])
    write_report(tmp_path, CHECKS, TRAININGS)
    assert (tmp_path / "acceptance.md").read_text() == page
    assert json.loads((tmp_path / "acceptance.json").read_text())["checks"][1]["trap"] == 15


@pytest.mark.parametrize(("visible", "gpus"), [("0,1", 2), ("", 0), ("GPU-1", 1), ("-1", 0)])
def test_the_gpus_that_may_be_used_are_counted_without_torch(monkeypatch: pytest.MonkeyPatch, visible: str, gpus: int):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == gpus


def test_the_trainings_of_the_acceptance_run_are_valid():
    stages = compose(["pipeline=acceptance"])["pipeline"]["stages"]
    names = ["ant", "ant-filmed", "anymal-two-gpus", "cartpole-camera", "anymal-pixels"]
    assert [stage["name"] for stage in stages] == names
    for stage in stages:
        config = Config.of(compose(stage["overrides"]))
        check_sizes(config)
        assert config.replay_buffer.batch_size % config.replay_buffer.batch_length == 0
    assert (CONF / "pipeline" / "acceptance.yaml").is_file()


@needs_isaaclab
def test_the_acceptance_run_looks_at_everything_whatever_fails(tmp_path: Path):
    done = train(tmp_path, "pipeline=acceptance", f"pipeline.stages=[{STAGES}]", **SET_UP)
    assert done.returncode == 1
    run = tmp_path / "run"
    report = json.loads((run / "acceptance.json").read_text())
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["Isaac Sim starts"]["passed"], checks["Isaac Sim starts"]["found"]
    assert checks["signals are the trainer's again"]["passed"]
    assert checks["a second Isaac Sim is refused"]["passed"]
    assert checks["Isaac Lab's tasks"]["found"].startswith("15")
    assert not checks["GPUs"]["passed"]
    points, wrong, unseen = report["trainings"]
    assert points["failure"] is None
    assert points["steps_per_s"] > 0
    assert wrong["failure"] == "spec: agent.name: 'none' is none of dreamer, dreamer_v3"
    assert unseen["failure"] == "it has left no film; its log says why"
    failure = json.loads((run / "failure.json").read_text())
    assert failure["message"].startswith("Rejected: ")
    assert "wrong: spec: agent.name" in failure["message"]
    assert (run / "acceptance.md").read_text().startswith("# Longshore on Isaac Sim")


@needs_isaaclab
def test_checks_that_take_their_process_with_them_are_told_up_to_the_last(tmp_path: Path):
    code = """
import pathlib
from trainer.pipelines import acceptance
made = acceptance.Acceptance(context)
made._wait_for = lambda command, variables: (pathlib.Path(made._folder / "checks.json").write_text(
    '[{"name": "GPUs", "passed": true, "found": "one"}]'), 139)[1]
print(json.dumps([check.found for check in made._checks()]))
"""
    done = run_inside(tmp_path, code, simulate=False)
    assert json.loads(done.stdout.splitlines()[-1]) == ["one", "their process ended with status 139, after: GPUs"]
