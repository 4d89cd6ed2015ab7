"""A camera for films of Isaac Lab's tasks whose agent sees no pictures: over a few robots, at rest while nobody films.

A scene with a camera is rendered once a step, and updates and resets its sensors with all environments. This one is
taken out of the scene as soon as it is there, Isaac Lab's rendering is turned off again, and the scene is rendered when
a picture is wanted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators.isaaclab_camera import DATA, pose, put_camera, robot_position, sensor

NAME = "film_camera"
WIDTH, HEIGHT = 320, 240  # pixels
MOST = 10  # environments: Isaac Sim's patterns of prim paths know of ranges of one digit
RENDERING = "/isaaclab/render/rtx_sensors"  # Isaac Lab's setting; a camera that is made turns it on


def add_film_camera(task: Any, camera: Config, environments: int) -> None:
    """Put a camera into the first environments of a task's scene. They stay as far apart as they are.

    Args:
        task: Configuration of the task; changed.
        camera: `env.camera` of the trainer's config; where it stands, and not how many pixels it has.
        environments: How many.

    Raises:
        ConfigError: The pose makes no sense, or these are too many.
    """
    count = min(environments, task.scene.num_envs)
    if count > MOST:
        raise ConfigError(f"video.environments: {environments} are too many; with Isaac Lab {MOST} can be filmed")
    paths = f"/World/envs/env_[0-{count - 1}]"
    seen_from = pose(camera, robot_position(task))
    put_camera(
        task,
        NAME,
        sensor(paths, "FilmCamera", Config(**{**vars(camera), "width": WIDTH, "height": HEIGHT}), seen_from),
    )


class Film:
    """The camera, in the environments that have been made.

    It goes along with the robots without turning, unless it is fixed to a link of theirs.

    Args:
        env: Isaac Lab's environment; its scene has the camera no more afterwards.
        camera: `env.camera` of the trainer's config.
    """

    def __init__(self, env: Any, camera: Config) -> None:
        self._env = env
        self._camera = env.scene.sensors.pop(NAME)
        robots = env.scene.articulations
        self._robot: Any = robots.get("robot") or next(iter(robots.values()), None)
        self._offset: torch.Tensor | None = None  # metres, from the robots to their cameras
        if self._robot is not None and not camera.parent:
            start = robot_position(env.cfg)
            away = [there - here for there, here in zip(pose(camera, start).position, start, strict=True)]
            self._offset = torch.tensor(away, device=env.device)

    def begin(self) -> None:
        """Have no more steps rendered; after the first reset, which waits for textures where a task asks for that."""
        self._env.sim.set_setting(RENDERING, False)

    def pictures(self) -> NDArray[np.uint8]:
        """What the filmed environments look like now, `[K, H, W, 3]`."""
        if self._offset is not None:
            robots = self._robot.data.root_pos_w[: self._camera.num_instances]
            self._camera.set_world_poses(robots + self._offset)
        self._env.sim.render()
        self._camera.update(0.0)  # what it showed before is out of date
        pictures: NDArray[np.uint8] = self._camera.data.output[DATA][..., :3].cpu().numpy()
        return pictures
