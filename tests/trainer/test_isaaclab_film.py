"""Films of Isaac Lab's tasks that show no pictures to their agent, in Isaac Lab's own environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.standin import WALKS, answer_inside, needs_isaaclab, run_inside, train
from trainer.run_dir import RunDir

pytestmark = needs_isaaclab

ENVIRONMENTS = 12
FILMED = ["env.num_envs=12", "video.enabled=true", "video.environments=3"]

# A picture of the stand-in's is of one colour: the environment's number, how often was rendered, the camera's x.
FILM = """
from tests.standin.kit_stubs.stage import app
simulator = make()
raw = simulator._raw
before, ended = app.renders, 0
for _ in range(25):  # an episode has ten steps
    ended += int(simulator.step(torch.zeros(12, 2)).is_last.sum())
collected = app.renders - before
raw.scene["robot"].data.root_pos_w[:12, 0] = 50 + 10 * torch.arange(12)
first = simulator.render(3)
step = simulator.step(torch.zeros(12, 2))
second = simulator.render(3)
answer = {
    "seen": sorted(step.observation),
    "spacing": raw.cfg.scene.env_spacing,
    "ended": ended,
    "renders": [collected, app.renders - before],
    "first": first[:, 0, 0].tolist(),
    "second": second[:, 0, 0].tolist(),
    "shape": [first.shape, str(first.dtype), bool((first == first[:, :1, :1]).all())],
    "sensors": list(raw.scene.sensors),
    "now": app.renders % 256,
}
"""


@pytest.fixture(scope="module", params=WALKS)
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a simulation says of itself whose first three environments are filmed."""
    return answer_inside(tmp_path_factory.mktemp("film"), FILM, f"env.name={request.param}", *FILMED)


def test_nothing_is_rendered_while_nobody_films(film: Any):
    """Isaac Lab would, once a step and once more where an episode begins, as soon as there is a camera."""
    assert film["ended"] == 2 * ENVIRONMENTS
    assert film["renders"] == [0, 2], "and once for each picture"


def test_pictures_are_of_the_first_environments_alone_and_of_now(film: Any):
    assert film["shape"] == [[3, 240, 320, 3], "uint8", True]
    assert [environment for environment, _, _ in film["first"]] == [0, 1, 2]
    assert {rendered for _, rendered, _ in film["second"]} == {film["now"]}


def test_the_camera_goes_along_with_its_robot(film: Any):
    """Three metres behind, as `env.camera.view` has it."""
    assert [x for _, _, x in film["first"]] == [47, 57, 67]


def test_the_agent_sees_no_pictures_and_the_environments_stay_where_they_are(film: Any):
    assert film["seen"] == ["policy"]
    assert film["spacing"] == 2.5


def test_a_camera_in_some_environments_is_neither_updated_nor_reset_with_all_of_them(film: Any):
    """The scene would reset the twelfth of three, which on a GPU ends the process."""
    assert film["sensors"] == []


def test_a_camera_on_a_link_stays_there(tmp_path: Path):
    code = """
raw = (simulator := make())._raw
raw.scene["robot"].data.root_pos_w[:, 0] = 50
answer = [raw.scene.cfg.film_camera.prim_path, simulator.render(3)[:, 0, 0, 2].tolist()]
"""
    words = [f"env.name={WALKS[0]}", *FILMED, "env.camera.parent=Robot"]
    assert answer_inside(tmp_path, code, *words) == ["/World/envs/env_[0-2]/Robot/FilmCamera", [0, 0, 0]]


def test_more_environments_than_can_be_named_are_refused(tmp_path: Path):
    done = run_inside(tmp_path, "make()", f"env.name={WALKS[0]}", *FILMED, "video.environments=11")
    assert "ConfigError: video.environments: 11 are too many; with Isaac Lab 10 can be filmed" in done.stderr


@pytest.mark.parametrize(("task", "pipeline"), [(WALKS[0], "sync"), (WALKS[1], "async")])
def test_a_run_on_states_leaves_a_film_of_its_evaluation(tmp_path: Path, task: str, pipeline: str):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    done = train(tmp_path, f"env.name={task}", "video.enabled=true", "video.environments=2", f"pipeline={pipeline}")
    assert done.returncode == 0, done.stderr
    [film] = RunDir(tmp_path / "run").videos.glob("evaluation-*.mp4")
    assert next(imageio_ffmpeg.read_frames(str(film)))["size"] == (640, 240)
