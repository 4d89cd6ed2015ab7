"""The list of tasks, and what is said of a task that is not in it."""

from __future__ import annotations

import re
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.jobfile.tasks import nearest, simulator_of, simulators, task_error
from orchestrator.spec import load_job


def test_the_lists_say_which_release_they_are_of():
    known = simulators()
    assert (known["isaaclab"].version, len(known["isaaclab"].tasks)) == ("2.3.0", 152)
    assert (known["mjlab"].version, len(known["mjlab"].tasks)) == ("1.6.0", 12)


def test_the_list_of_mjlab_is_that_of_the_installed_one():
    mjlab = find_spec("mjlab")  # read, not imported: that takes a quarter of a minute
    if mjlab is None or version("mjlab") != simulators()["mjlab"].version:
        pytest.skip("another release of mjlab is installed, or none")
    sources = (Path(mjlab.origin).parent / "tasks").rglob("__init__.py")
    named = {name for source in sources for name in re.findall(r'"(Mjlab-[\w-]+)"', source.read_text(encoding="utf-8"))}
    assert set(simulators()["mjlab"].tasks) == named


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("Isaac-Velocity-Flat-Anymal-C-v0", "state"),
        ("Isaac-Cartpole-RGB-v0", "camera"),
        ("Isaac-Stack-Cube-Franka-IK-Rel-Blueprint-v0", "camera"),  # which its name does not tell
        ("Isaac-Shadow-Hand-Over-Direct-v0", "multi-agent"),
        ("Isaac-Reach-Franka-Play-v0", "state"),
    ],
)
def test_tasks_say_what_the_agent_sees(task, kind):
    assert simulators()["isaaclab"].tasks[task].kind == kind


def test_a_misspelt_task_is_refused_with_the_nearest_one():
    assert task_error("Mjlab-Cartpole-Balanse", "mjlab") == (
        "mjlab 1.6.0 has no task 'Mjlab-Cartpole-Balanse'; did you mean 'Mjlab-Cartpole-Balance'?"
    )


def test_a_task_of_another_simulator_says_so():
    assert task_error("Isaac-Ant-v0", "mjlab") == "'Isaac-Ant-v0' is a task of isaaclab; set env.backend=isaaclab"


def test_simulators_without_a_list_take_any_task():
    assert task_error("Debug-Walk", "debug") is None


def test_names_tell_their_simulator():
    assert [simulator_of(name) for name in ("Isaac-X", "Mjlab-X", "walker_walk")] == ["isaaclab", "mjlab", None]


def test_nothing_is_suggested_where_nothing_is_near():
    assert nearest("zzzzzz", ["name", "backend"]) is None


def test_a_jobs_tasks_are_checked_unless_it_brings_its_own(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("name: tiny\nbackend: local\ntrain: {env.name: Own-v0}\n", encoding="utf-8")
    with pytest.raises(SpecError, match=r"3:19: train.env.name: mjlab 1.6.0 has no task 'Own-v0'"):
        load_job(path)
    assert load_job(path, sets=["setup.code=[my_tasks]"]).train["env.name"] == "Own-v0"
    assert load_job(path, overrides=["env.backend=debug"]).train["env.name"] == "Own-v0"
