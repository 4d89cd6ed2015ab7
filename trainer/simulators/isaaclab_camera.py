"""A camera for scenes of Isaac Lab that have none: where it stands, where it looks, and how its pictures are read.

`from_pixels` of TorchRL's and gymnasium's wrappers adds none, and a task's groups of observations do not hold what a
camera sees: it is put into the scene's configuration here, and read from the scene after every step.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.config import Config
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

NAME = "tiled_camera"
DATA = "rgb"

# Metres from the environment's origin, for a robot that is half a metre high.
VIEWS = {"rear": (-3.0, 0.0, 2.0), "side": (0.0, -3.0, 1.5), "top": (0.0, 0.0, 5.0)}

FOCAL_LENGTH, APERTURE = 24.0, 20.955  # millimetres, as Isaac Lab's own cameras: 47 degrees from side to side
FOCUS_DISTANCE = 400.0
CLIPPING = (0.1, 20.0)  # metres

MANY = 512  # cameras; from here on they are slow, and a GPU of 24 GB is full

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]  # w, x, y, z


class Pose(NamedTuple):
    """Metres from the parent's origin, and a rotation that turns x forward and z up."""

    position: Vector
    rotation: Quaternion


def add_camera(task: Any, camera: Config) -> None:
    """Put a camera into a task's scene, or see to it that the task's own gives colours.

    Args:
        task: Configuration of the task; changed.
        camera: `env.camera` of the trainer's config.

    Raises:
        ConfigError: The pose makes no sense.
    """
    own = getattr(task.scene, NAME, None) or getattr(task, NAME, None)
    if own is not None:
        if DATA not in own.data_types:
            own.data_types = [*own.data_types, DATA]
    else:
        put_camera(task, NAME, sensor("{ENV_REGEX_NS}", "Camera", camera, pose(camera, robot_position(task))))
    if task.scene.num_envs > MANY:
        log.warning("env.num_envs: %s cameras; more than %s are slow", task.scene.num_envs, MANY)
    # One picture a step, and one more where an episode begins: else its first would be the last one's.
    task.sim.render_interval = max(task.sim.render_interval, task.decimation)
    task.rerender_on_reset = True


def put_camera(task: Any, name: str, camera: Any) -> None:
    """Put a sensor into a task's scene.

    Args:
        task: Configuration of the task; changed.
        name: Of the sensor in the scene.
        camera: Its configuration.
    """
    setattr(task.scene, name, camera)
    # Copies that are made in Fabric alone are not on the stage, where cameras are looked for: there would be one.
    task.scene.clone_in_fabric = False


def make_env(name: str, task: Any) -> Any:
    """The environment of a registered task, with the cameras that its scene's configuration was given.

    Args:
        name: As gymnasium's registry has it.
        task: Its configuration; changed.
    """
    import gymnasium
    from gymnasium.envs.registration import load_env_creator
    from isaaclab.scene import InteractiveSceneCfg
    from isaaclab.sensors import CameraCfg

    spec = gymnasium.spec(name)
    entry: Any = spec.entry_point
    made = load_env_creator(entry) if isinstance(entry, str) else entry
    cameras = {key: value for key, value in vars(task.scene).items() if isinstance(value, CameraCfg)}
    # A scene that is built in code has nothing else in its configuration. Isaac Lab would take it for one that is not,
    # and copy an empty environment.
    if cameras and type(task.scene) is InteractiveSceneCfg and hasattr(made, "_setup_scene"):
        for key in cameras:
            delattr(task.scene, key)
        spec = copy.copy(spec)
        spec.entry_point = _with_cameras(made, cameras)
    return gymnasium.make(spec, cfg=task)


def read_camera(scene: Any) -> Tensor:
    """What the camera sees now, uint8 `[N, H, W, 3]`; the next picture is written to the same memory."""
    return scene[NAME].data.output[DATA][..., :3]


def robot_position(task: Any) -> Vector:
    """Where the robot's base starts, in metres from the environment's origin; the origin where that is not known."""
    for owner in (task.scene, task):
        for name in ("robot", "robot_cfg"):
            start = getattr(getattr(owner, name, None), "init_state", None)
            if start is not None:
                return _vector(start.pos, "init_state.pos")
    return (0.0, 0.0, 0.0)


def pose(camera: Config, robot: Vector) -> Pose:
    """The pose that the config asks for.

    Args:
        camera: `env.camera` of the trainer's config.
        robot: Where the robot's base starts; a camera fixed to a link looks at that link's origin instead.

    Raises:
        ConfigError: A list has another length, or the camera would look at where it is.
    """
    position = VIEWS[camera.view] if camera.position is None else _vector(camera.position, "env.camera.position")
    if camera.rotation is not None:
        return Pose(position, _rotation(camera.rotation))
    target = (0.0, 0.0, 0.0) if camera.parent else robot
    if camera.target is not None:
        target = _vector(camera.target, "env.camera.target")
    if math.dist(position, target) < 1e-6:
        raise ConfigError(f"env.camera.target: {list(target)} is where the camera is")
    return Pose(position, look_at(position, target))


def look_at(position: Vector, target: Vector) -> Quaternion:
    """Rotation of a camera that looks from one point at another, its x axis forward and its picture upright.

    Looking straight down, the picture's upper edge is in the direction of the x axis.
    """
    x, y, z = (there - here for there, here in zip(target, position, strict=True))
    yaw = math.atan2(y, x) if math.hypot(x, y) > 1e-9 else 0.0
    pitch = math.atan2(-z, math.hypot(x, y))  # downwards is positive
    cos_yaw, sin_yaw = math.cos(yaw / 2), math.sin(yaw / 2)
    cos_pitch, sin_pitch = math.cos(pitch / 2), math.sin(pitch / 2)
    return (cos_yaw * cos_pitch, -sin_yaw * sin_pitch, cos_yaw * sin_pitch, sin_yaw * cos_pitch)


def sensor(environments: str, name: str, camera: Config, pose: Pose) -> Any:
    """Configuration of a camera in each environment.

    Args:
        environments: Pattern of their prims' paths.
        name: Of the camera's prim.
        camera: `env.camera` of the trainer's config.
        pose: Where it is.
    """
    from isaaclab.sensors import TiledCameraCfg
    from isaaclab.sim import PinholeCameraCfg

    parent = f"{camera.parent.strip('/')}/" if camera.parent else ""
    return TiledCameraCfg(
        prim_path=f"{environments}/{parent}{name}",
        offset=TiledCameraCfg.OffsetCfg(pos=pose.position, rot=pose.rotation, convention="world"),
        data_types=[DATA],
        spawn=PinholeCameraCfg(
            focal_length=FOCAL_LENGTH,
            focus_distance=FOCUS_DISTANCE,
            horizontal_aperture=APERTURE,
            clipping_range=CLIPPING,
        ),
        width=camera.width,
        height=camera.height,
    )


def _with_cameras(entry: type[Any], cameras: Mapping[str, Any]) -> type[Any]:
    """A task's class that adds cameras to the scene that it has built in code."""

    class WithCameras(entry):  # type: ignore[misc]
        def _setup_scene(self) -> None:
            super()._setup_scene()
            for name, camera in cameras.items():
                camera.prim_path = camera.prim_path.format(ENV_REGEX_NS=self.scene.env_regex_ns)
                self.scene.sensors[name] = camera.class_type(camera)

    return WithCameras


def _vector(values: Sequence[float], key: str) -> Vector:
    x, y, z = _numbers(values, 3, key)
    return (x, y, z)


def _rotation(values: Sequence[float]) -> Quaternion:
    key = "env.camera.rotation"
    w, x, y, z = _numbers(values, 4, key)
    length = math.hypot(w, x, y, z)
    if not 0.99 < length < 1.01:
        raise ConfigError(f"{key}: {list(values)} is no rotation; the squares of [w, x, y, z] add up to 1")
    return (w / length, x / length, y / length, z / length)


def _numbers(values: Sequence[float], count: int, key: str) -> list[float]:
    numbers = isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values)
    if not numbers or len(values) != count:
        raise ConfigError(f"{key}: {values!r} is no list of {count} numbers")
    return [float(value) for value in values]
