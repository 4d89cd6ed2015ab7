"""The camera of Isaac Lab's scenes: where it looks, and what it takes from the config."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators.isaaclab_camera import (
    APERTURE,
    FOCAL_LENGTH,
    VIEWS,
    Pose,
    add_camera,
    look_at,
    pose,
    robot_position,
)

ANYMAL = (0.0, 0.0, 0.6)  # where its base starts, in Isaac Lab's own configuration
SEED_ROTATION = (0.9945, 0.0, 0.1045, 0.0)  # 12 degrees downwards


def camera(**changes: Any) -> Config:
    defaults = {"view": "rear", "position": None, "target": None, "rotation": None, "parent": None}
    return Config(**{**defaults, "width": 64, "height": 64, **changes})


def rotated(vector: Tensor, rotation: tuple[float, ...]) -> Tensor:
    """A vector of the camera's own axes in those of the environment."""
    w, axis = rotation[0], torch.tensor(rotation[1:], dtype=torch.float64)
    twice = 2 * torch.linalg.cross(axis, vector)
    return vector + w * twice + torch.linalg.cross(axis, twice)


def projected(point: tuple[float, ...], seen_from: Pose) -> tuple[float, float] | None:
    """Where a point is in the picture, each axis from -1 to 1, x to the right and y up; None behind the camera."""
    offset = torch.tensor(point, dtype=torch.float64) - torch.tensor(seen_from.position, dtype=torch.float64)
    axes = (rotated(torch.eye(3, dtype=torch.float64)[axis], seen_from.rotation) for axis in range(3))
    forward, left, up = (float(offset @ axis) for axis in axes)
    if forward <= 0:
        return None
    edge = APERTURE / (2 * FOCAL_LENGTH)  # half the picture's width at a distance of one
    return (-left / forward / edge, up / forward / edge)


def inside(place: tuple[float, float] | None) -> bool:
    return place is not None and max(map(abs, place)) < 1


@pytest.mark.parametrize("view", VIEWS)
def test_the_robots_base_is_in_the_middle_of_every_view(view: str):
    assert projected(ANYMAL, pose(camera(view=view), ANYMAL)) == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.parametrize("view", VIEWS)
def test_the_whole_robot_is_in_every_view(view: str):
    """ANYmal-C is some 1 m long and 0.7 m wide, feet on the ground."""
    seen_from = pose(camera(view=view), ANYMAL)
    corners = [(x, y, z) for x in (-0.5, 0.5) for y in (-0.35, 0.35) for z in (0.0, 0.8)]
    assert all(inside(projected(corner, seen_from)) for corner in corners)


def test_the_seeds_rotation_fits_the_view_that_it_was_made_for_and_no_other():
    """The one quaternion of the document looks along x; from the side and from above that misses the robot."""
    seen = {view: inside(projected(ANYMAL, Pose(position, SEED_ROTATION))) for view, position in VIEWS.items()}
    assert seen == {"rear": True, "side": False, "top": False}


@pytest.mark.parametrize("position", [(-3.0, 0.0, 2.0), (2.0, 2.0, 1.0), (0.1, -4.0, 0.2), (0.0, 3.0, 0.6)])
def test_pictures_are_upright(position: tuple[float, float, float]):
    seen_from = Pose(position, look_at(position, ANYMAL))
    above = projected((0.0, 0.0, 0.9), seen_from)
    assert above is not None
    assert above[0] == pytest.approx(0, abs=1e-6)
    assert above[1] > 0


def test_from_above_what_is_ahead_is_up():
    x, y = projected((1.0, 0.0, 0.6), pose(camera(view="top"), ANYMAL)) or (9, 9)
    assert x == pytest.approx(0, abs=1e-6)
    assert 0 < y < 1


def test_rotations_are_of_length_one():
    rotation = look_at((1.0, -2.0, 3.0), ANYMAL)
    assert math.hypot(*rotation) == pytest.approx(1)


def test_any_pose_can_be_set():
    placed = pose(camera(position=[1, 2, 3], target=[0, 0, 0]), ANYMAL)
    assert placed.position == (1.0, 2.0, 3.0)
    assert projected((0.0, 0.0, 0.0), placed) == pytest.approx((0, 0), abs=1e-6)
    assert pose(camera(rotation=[1, 0, 0, 0]), ANYMAL) == Pose(VIEWS["rear"], (1.0, 0.0, 0.0, 0.0))


def test_a_camera_on_a_link_looks_at_that_link():
    placed = pose(camera(parent="Robot/base"), ANYMAL)
    assert projected((0.0, 0.0, 0.0), placed) == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"position": [1, 2]}, r"env.camera.position: \[1, 2\] is no list of 3 numbers"),
        ({"target": "robot"}, r"env.camera.target: 'robot' is no list of 3 numbers"),
        ({"rotation": [1, 1, 0, 0]}, r"env.camera.rotation: \[1, 1, 0, 0\] is no rotation"),
        ({"position": [1, 1, 1], "target": [1, 1, 1]}, "is where the camera is"),
    ],
)
def test_poses_that_make_no_sense_are_refused(changes: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        pose(camera(**changes), ANYMAL)


def task_with(own: Any = None, environments: int = 256) -> Any:
    start = SimpleNamespace(init_state=SimpleNamespace(pos=[0.0, 0.0, 0.6]))
    scene = SimpleNamespace(num_envs=environments, robot=start, tiled_camera=own)
    return SimpleNamespace(scene=scene, decimation=4, sim=SimpleNamespace(render_interval=1), rerender_on_reset=False)


def test_a_tasks_own_camera_stays_where_it_is_and_gives_colours():
    own = SimpleNamespace(data_types=["distance_to_camera"])
    task = task_with(own)
    add_camera(task, camera())
    assert task.scene.tiled_camera is own
    assert own.data_types == ["distance_to_camera", "rgb"]


def test_there_is_one_picture_a_step_and_one_more_where_an_episode_begins():
    """Without the latter an episode's first picture shows how the last one ended."""
    task = task_with(SimpleNamespace(data_types=["rgb"]))
    add_camera(task, camera())
    assert (task.sim.render_interval, task.rerender_on_reset) == (4, True)


@pytest.mark.parametrize(("environments", "warned"), [(512, False), (513, True)])
def test_many_cameras_are_warned_about(environments: int, warned: bool, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        add_camera(task_with(SimpleNamespace(data_types=["rgb"]), environments), camera())
    assert ("env.num_envs: 513 cameras; more than 512 are slow" in caplog.text) == warned


def test_where_a_robot_starts_is_read_from_the_task():
    assert robot_position(task_with()) == ANYMAL
    direct = SimpleNamespace(scene=SimpleNamespace(), robot_cfg=task_with().scene.robot)
    assert robot_position(direct) == ANYMAL
    assert robot_position(SimpleNamespace(scene=SimpleNamespace())) == (0.0, 0.0, 0.0)
