"""What a task shows and takes, remembered from one run to the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.trainer.test_async_pipeline import Roles, roles  # noqa: F401, a fixture
from trainer.config import Config, compose
from trainer.interface import Interface, recall_interface, remember_interface
from trainer.pipelines import learning, learning_loop
from trainer.pipelines.learning_loop import LearningLoop
from trainer.run_dir import RunDir
from trainer.simulators import make_simulator
from trainer.simulators.base import Space

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "longshore" / "interfaces"


def env(*words: str) -> Config:
    return Config.of(compose(["experiment=debug", *words])).env


def remember(*words: str) -> None:
    remember_interface(env(*words), make_simulator(env(*words), 0, CPU))


def test_nothing_is_remembered_of_a_task_that_never_ran():
    assert recall_interface(env()) is None


def test_a_task_is_remembered_with_its_settings():
    remember()
    assert recall_interface(env()) == Interface({"policy": Space((3,))}, 2, recall_interface(env()).control)
    assert recall_interface(env("env.num_envs=3")) is None


def test_what_cannot_be_read_or_kept_is_done_without(cache: Path):
    remember()
    [file] = cache.iterdir()
    for text in ("{", "[]", '"x"', json.dumps({"observation": {"policy": {"shape": [3], "dtype": "pebble"}}})):
        file.write_text(text)
        assert recall_interface(env()) is None
    file.unlink()
    cache.rmdir()
    cache.write_text("in the way")
    remember()
    assert recall_interface(env()) is None


@pytest.mark.parametrize("width", [None, 3, 5])
def test_a_learner_prepares_for_what_is_remembered_and_again_where_that_was_wrong(
    roles: Roles,  # noqa: F811
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    width: int | None,
):
    context = roles.learner("eval.episodes=0")
    monkeypatch.setattr(learning_loop, "compiles", lambda config, device: True)  # as on a GPU
    monkeypatch.setattr(learning_loop, "load_compiler", lambda: None)
    rehearsed = list[torch.device]()
    monkeypatch.setattr(learning_loop, "rehearse", rehearsed.append)
    build, built = LearningLoop._build, list[tuple[int, ...]]()

    def note(self: LearningLoop, observation: dict[str, Space], action: int) -> None:
        built.append(observation["policy"].shape)
        build(self, observation, action)

    monkeypatch.setattr(LearningLoop, "_build", note)
    remembered = None if width is None else Interface({"policy": Space((width,))}, 2, None)
    monkeypatch.setattr(learning_loop, "recall_interface", lambda env: remembered)
    learning.main(context)
    assert built == ([(5,), (3,)] if width == 5 else [(3,)])
    assert len(rehearsed) == (width is None)
    assert json.loads(RunDir(roles.folder).summary.read_text())["optim_steps"] > 0
