"""All tasks of Isaac Lab 2.3.0: its own configuration classes, made and changed as training does it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from orchestrator.jobfile.tasks import simulators
from tests.trainer.standin import needs_isaaclab
from trainer.config import Config, compose
from trainer.errors import ConfigError
from trainer.pipelines.parts import check_sizes
from trainer.simulators.isaaclab_tasks import CAMERA_TASKS

ROOT = Path(__file__).parents[2]

# Tasks that the seed names, all of them there in 2.3.0 …
SEED_TASKS = (
    "Isaac-Ant-v0",
    "Isaac-Humanoid-v0",
    "Isaac-Cartpole-v0",
    "Isaac-Cartpole-RGB-v0",
    "Isaac-Velocity-Flat-Anymal-C-v0",
    "Isaac-Velocity-Rough-Anymal-C-v0",
    "Isaac-Velocity-Flat-Unitree-Go2-v0",
    "Isaac-Velocity-Flat-H1-v0",
    "Isaac-Reach-Franka-v0",
    "Isaac-Lift-Cube-Franka-v0",
    "Isaac-Open-Drawer-Franka-v0",
    "Isaac-Repose-Cube-Allegro-v0",
)


@pytest.fixture(scope="module")
def registry() -> Any:
    """What tools/isaaclab_registry.py says; a process of its own, because Kit's modules are stubs in it."""
    command = [sys.executable, str(ROOT / "tools" / "isaaclab_registry.py")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def tasks_of_jobs() -> dict[str, set[str]]:
    """Names of Isaac Lab's tasks in each job file."""
    files = sorted((ROOT / "jobs").rglob("*.yaml"))
    found = {file.name: set(re.findall(r"\bIsaac-[\w-]+-v\d\b", file.read_text(encoding="utf-8"))) for file in files}
    return {name: tasks for name, tasks in found.items() if tasks}


@needs_isaaclab
def test_every_task_gets_a_number_of_environments_and_a_camera(registry: Any):
    tasks = registry["tasks"]
    assert len(tasks) == 152
    made = {name: task for name, task in tasks.items() if task["kind"] != "multi-agent"}
    assert {task["num_envs"] for task in made.values()} == {3}
    assert min(task["spacing"] for task in made.values()) == 8.0
    own = {name for name, task in made.items() if {"scene.tiled_camera", "tiled_camera"} & set(task["cameras"])}
    assert {name for name, task in made.items() if task["added"]} == set(made) - own


@needs_isaaclab
def test_configurations_are_found_under_strings_and_under_classes(registry: Any):
    assert Counter(task["entry"] for task in registry["tasks"].values()) == {"string": 136, "class": 16}


@needs_isaaclab
def test_tasks_of_several_agents_are_refused_with_that_reason(registry: Any):
    refused = {name: task["refused"] for name, task in registry["tasks"].items() if "refused" in task}
    assert set(refused) == {"Isaac-Cart-Double-Pendulum-Direct-v0", "Isaac-Shadow-Hand-Over-Direct-v0"}
    assert all("has several agents" in reason for reason in refused.values())


@needs_isaaclab
def test_the_lists_are_those_of_the_installed_package(registry: Any):
    """Where this fails, run tools/list_tasks.py."""
    kinds = {name: task["kind"] for name, task in registry["tasks"].items()}
    known = simulators()["isaaclab"]
    assert (known.version, {name: task.kind for name, task in known.tasks.items()}) == (registry["version"], kinds)


def test_the_trainer_knows_the_tasks_with_cameras_that_the_list_has():
    kinds = {name: task.kind for name, task in simulators()["isaaclab"].tasks.items()}
    assert {name for name, kind in kinds.items() if kind == "camera"} == CAMERA_TASKS


@pytest.mark.parametrize("task", SEED_TASKS)
def test_tasks_of_the_seed_exist(task: str):
    assert task in simulators()["isaaclab"].tasks


def test_tasks_of_the_job_files_exist():
    named = tasks_of_jobs()
    assert {"anymal.yaml", "ant.yaml", "anymal-pixels.yaml"} <= set(named)
    for file, tasks in named.items():
        assert tasks <= set(simulators()["isaaclab"].tasks), file


# Settings by dotted names, on anything that is built as Isaac Lab's configurations are.


def task() -> Any:
    term = SimpleNamespace(func=lambda: None, params={"weight": 1.5, "range": (0.0, 1.0)})
    return SimpleNamespace(
        decimation=4,
        episode_length_s=20.0,
        enabled=True,
        name="anymal",
        commands=None,
        sim=SimpleNamespace(dt=0.005, gravity=(0.0, 0.0, -9.81)),
        events=SimpleNamespace(push=term, _private=1),
    )


def changed(values: dict[str, Any]) -> Any:
    isaaclab_config = pytest.importorskip("trainer.simulators.isaaclab_config", exc_type=ImportError)
    target = task()
    isaaclab_config.override(target, values, "env.cfg")
    return target


def test_values_are_set_at_any_depth():
    target = changed(
        {
            "decimation": 2,
            "sim": {"dt": 0.01, "gravity": [0, 0, -1.62]},
            "events": {"push": {"params": {"weight": 3, "range": [1, 2]}}},
        }
    )
    assert (target.decimation, target.sim.dt, target.sim.gravity) == (2, 0.01, (0, 0, -1.62))
    assert target.events.push.params == {"weight": 3, "range": (1, 2)}


def test_null_takes_a_part_away_and_what_is_null_takes_anything():
    target = changed({"events": {"push": None}, "commands": "none"})
    assert target.events.push is None
    assert target.commands == "none"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("decimaton: 2", "env.cfg.decimaton: unknown key; did you mean env.cfg.decimation?"),
        (
            "events: {push: {params: {weigth: 1}}}",
            "params.weigth: unknown key; did you mean env.cfg.events.push.params",
        ),
        ("events: {_private: 2}", "env.cfg.events._private: unknown key"),
        ("sim: {dt: fast}", r"env.cfg.sim.dt: 'fast' is not a number \(the task's own: 0.005\)"),
        ("sim: {dt: true}", "env.cfg.sim.dt: True is not a number"),
        ("enabled: 1", "env.cfg.enabled: 1 is not true or false"),
        ("name: 1", "env.cfg.name: 1 is not a string"),
        ("sim: {gravity: 9.81}", "env.cfg.sim.gravity: 9.81 is not a list of 3"),
        ("sim: 3", "env.cfg.sim: 3 is not null, or KEY=VALUE below it"),
        ("decimation: {deep: 1}", "env.cfg.decimation: 4 has no settings below it"),
    ],
)
def test_wrong_settings_are_answered_with_what_is_right(values: str, words: str):
    with pytest.raises(ConfigError, match=words):
        changed(yaml.safe_load(values))


def test_a_tasks_own_pictures_come_as_bytes():
    isaaclab_config = pytest.importorskip("trainer.simulators.isaaclab_config", exc_type=ImportError)

    def image() -> None:
        """Stands for `isaaclab.envs.mdp.image`."""

    def term(function: Any, **params: Any) -> Any:
        return SimpleNamespace(func=function, params=params)

    group = SimpleNamespace(
        colours=term(image, data_type="rgb"), depth=term(image, data_type="depth"), joints=term(task), concatenate=True
    )
    with_pictures = SimpleNamespace(observations=SimpleNamespace(policy=group))
    isaaclab_config.keep_bytes(with_pictures)
    assert group.colours.params == {"data_type": "rgb", "normalize": False}
    assert (group.depth.params, group.joints.params) == ({"data_type": "depth"}, {})


# The job files of this project, on Isaac Lab's own configurations.

CONFIGURE = """
import json, sys
sys.path[:0] = [{root!r}, {root!r} + "/tools"]
import isaaclab_registry
isaaclab_registry._stub()
from trainer.config import Config, compose
from trainer.simulators.isaaclab_camera import add_camera
from trainer.simulators.isaaclab_config import configure, task_config
from trainer.simulators.task_packages import import_packages
import_packages([])
found = {{}}
for name, words in json.loads({words!r}).items():
    env = Config.of(compose(words)).env
    task = task_config(env.name)
    configure(task, env, 0, "cuda:0")
    if env.from_pixels:
        add_camera(task, env.camera)
        task.validate()
    ranges = getattr(getattr(task, "commands", None), "base_velocity", None)
    found[name] = [task.scene.num_envs, getattr(getattr(task.scene, "tiled_camera", None), "prim_path", None),
                   None if ranges is None else list(ranges.ranges.lin_vel_x)]
print(json.dumps(found))
"""


def words_of(file: Path) -> list[str]:
    """A job's settings of the trainer, as the script hands them on."""
    spec = pytest.importorskip("orchestrator.spec")
    words = list(spec.train_arguments(spec.load_job(file)))
    return [word for word in words if not word.startswith("pipeline=acceptance")]


@pytest.mark.parametrize("file", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_trainer_takes_every_job(file: Path):
    config = Config.of(compose(words_of(file)))
    check_sizes(config)
    assert config.replay_buffer.batch_size % config.replay_buffer.batch_length == 0


@needs_isaaclab
def test_jobs_set_what_their_tasks_have(tmp_path: Path):
    jobs = {stem: words_of(ROOT / "jobs" / f"{stem}.yaml") for stem in ("ant", "anymal", "anymal-pixels")}
    code = CONFIGURE.format(root=str(ROOT), words=json.dumps(jobs))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "ant": [4096, None, None],
        "anymal": [4096, None, [-1.0, 1.0]],
        "anymal-pixels": [256, "{ENV_REGEX_NS}/Robot/base/Camera", [1.0, 1.0]],
    }
