"""A stage with prims, a simulation that steps and renders, and pictures of cameras: what Isaac Lab asks of Kit.

With these in Kit's place, Isaac Lab's own `DirectRLEnv`, `ManagerBasedRLEnv`, `InteractiveScene` and `TiledCamera` run
unchanged. What Isaac Sim draws they cannot show: a picture tells which prim it is of, when it was rendered, and from
where.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from .finder import Anything


class Settings(dict[str, Any]):
    """`carb.settings`."""

    def set(self, name: str, value: Any) -> None:
        self[name] = value

    set_bool = set_int = set_float = set_string = set

    def get_as_bool(self, name: str) -> bool:
        return bool(self.get(name))


settings = Settings({"/rtx/rendermode": "RaytracedLighting"})


class Prim:
    """`Usd.Prim`: something on the stage, with a kind and attributes."""

    def __init__(self, path: str, kind: str) -> None:
        self.path, self.kind = path, kind
        self.attributes: dict[str, Any] = {}
        self.position = (0.0, 0.0, 0.0)  # metres, in the world, where something has set it

    def GetName(self) -> str:
        return self.path.rpartition("/")[2]

    def GetPath(self) -> Any:
        return SimpleNamespace(pathString=self.path)

    def GetAllChildren(self) -> list[Prim]:
        return [prim for path, prim in stage.prims.items() if path.rpartition("/")[0] == self.path]

    def GetAttribute(self, name: str) -> Any:
        def write(value: Any) -> None:
            self.attributes[name] = value

        return SimpleNamespace(Get=lambda: self.attributes.get(name), Set=write)

    def CreateAttribute(self, name: str, _: Any) -> Any:
        return self.GetAttribute(name)

    def IsA(self, schema: type) -> bool:
        return schema is UsdCamera and self.kind == "Camera"


class Stage:
    """`Usd.Stage`."""

    def __init__(self) -> None:
        self.prims: dict[str, Prim] = {}

    def DefinePrim(self, path: str, kind: str = "Xform") -> Prim:
        parent = path.rpartition("/")[0]
        if parent and parent not in self.prims:
            self.DefinePrim(parent)
        return self.prims.setdefault(path, Prim(path, kind))

    def GetPrimAtPath(self, path: str) -> Any:
        return self.prims.get(path) or Anything()

    def GetPseudoRoot(self) -> Prim:
        return Prim("", "")


stage = Stage()


class UsdCamera:
    """`UsdGeom.Camera`."""

    def __init__(self, prim: Prim) -> None:
        self.GetFocalLengthAttr = lambda: prim.GetAttribute("focalLength")
        self.GetHorizontalApertureAttr = lambda: prim.GetAttribute("horizontalAperture")


class UsdGeom(Anything):
    """`pxr.UsdGeom`."""

    Camera = UsdCamera


class UsdUtils(Anything):
    """`pxr.UsdUtils`."""

    StageCache = SimpleNamespace(Get=lambda: SimpleNamespace(GetId=lambda _: SimpleNamespace(ToLongInt=lambda: 1)))


def create_prim(path: str, kind: str = "Xform", **_: Any) -> Prim:
    return stage.DefinePrim(path, kind)


class Cloner:
    """`isaacsim.core.cloner.Cloner` and `GridCloner`. What is cloned in Fabric is nowhere to be seen on the stage."""

    def __init__(self, **_: Any) -> None: ...

    def define_base_env(self, path: str) -> None:
        stage.DefinePrim(path)

    def generate_paths(self, root: str, count: int) -> list[str]:
        return [f"{root}_{number}" for number in range(count)]

    def clone(
        self, source_prim_path: str, prim_paths: Sequence[str], *, clone_in_fabric: bool = False, **_: Any
    ) -> np.ndarray:
        source = stage.DefinePrim(source_prim_path)
        below = {path: prim for path, prim in stage.prims.items() if path.startswith(f"{source.path}/")}
        for target in [] if clone_in_fabric else prim_paths:
            stage.DefinePrim(target, source.kind).attributes |= source.attributes
            for path, prim in below.items():
                stage.DefinePrim(target + path.removeprefix(source.path), prim.kind).attributes |= prim.attributes
        return np.zeros((len(prim_paths), 3))

    def replicate_physics(self, **_: Any) -> None: ...

    def filter_collisions(self, *_: Any, **__: Any) -> None: ...


class XFormPrim:
    """`isaacsim.core.prims.XFormPrim`: all prims that a pattern names."""

    def __init__(self, pattern: str, **_: Any) -> None:
        compiled = re.compile(pattern.replace(".*", "[^/]*"))
        self.prim_paths = [path for path in stage.prims if compiled.fullmatch(path)]
        self.count = len(self.prim_paths)

    def initialize(self) -> None: ...

    def get_world_poses(self, indices: Sequence[int]) -> tuple[Any, Any]:
        import torch

        positions = [stage.prims[self.prim_paths[number]].position for number in indices]
        return torch.tensor(positions), torch.tensor([[1.0, 0.0, 0.0, 0.0]] * len(positions))

    def set_world_poses(self, positions: Any, orientations: Any, indices: Sequence[int]) -> None:
        for number, position in zip(indices, positions, strict=True):
            stage.prims[self.prim_paths[number]].position = tuple(position.tolist())


class RenderProduct:
    """Of `omni.replicator.core.create.render_product_tiled`: cameras side by side in one picture.

    A camera's tile is of one colour: the number of its environment, how often the app has rendered, and its place on
    the x axis in metres.
    """

    made: ClassVar[dict[str, RenderProduct]] = {}

    def __init__(self, cameras: Sequence[str], tile_resolution: tuple[int, int]) -> None:
        self.path = f"/Render/{len(self.made)}"
        self.made[self.path] = self
        self._cameras, (self._width, self._height) = list(cameras), tile_resolution
        self._columns = math.ceil(math.sqrt(len(cameras)))
        rows = math.ceil(len(cameras) / self._columns)
        self.picture = np.zeros((rows * self._height, self._columns * self._width, 4), np.uint8)

    def draw(self) -> None:
        for number, path in enumerate(self._cameras):
            row, column = divmod(number, self._columns)
            environment = int(re.search(r"env_(\d+)", path)[1])  # type: ignore[index]
            rows = slice(row * self._height, (row + 1) * self._height)
            columns = slice(column * self._width, (column + 1) * self._width)
            colour = (environment, app.renders % 256, round(stage.prims[path].position[0]) % 256, 255)
            self.picture[rows, columns] = colour


class Annotator:
    """Of `omni.replicator.core.AnnotatorRegistry`: reads what was rendered last."""

    def attach(self, products: Sequence[str]) -> None:
        [path] = products
        self._product = RenderProduct.made[path]

    def detach(self, *_: Any) -> None: ...

    def get_data(self) -> np.ndarray:
        return self._product.picture.copy()


class App:
    """`omni.kit.app`'s interface.

    Attributes:
        renders: How often it has rendered.
    """

    renders = 0

    def update(self) -> None:
        self.renders += 1
        for product in RenderProduct.made.values():
            product.draw()

    def get_post_update_event_stream(self) -> Any:
        return Anything()


app = App()


class Timeline:
    """`omni.timeline`'s interface and its stream of events: who wants to hear of an event, in the order of `order`."""

    def __init__(self) -> None:
        self._subscribed: list[tuple[int, int, Callable[[Any], None]]] = []

    def get_timeline_event_stream(self) -> Timeline:
        return self

    def create_subscription_to_pop_by_type(self, kind: int, function: Callable[[Any], None], order: int = 0) -> Any:
        self._subscribed.append((kind, order, function))
        return Anything()

    def tell(self, kind: int) -> None:
        for _, _, function in sorted((entry for entry in self._subscribed if entry[0] == kind), key=lambda e: e[1]):
            function(None)


timeline = Timeline()
PLAY, STOP = 1, 2


class SimulationContext:
    """`isaacsim.core.api.simulation_context.SimulationContext`: what Isaac Lab's own is a kind of."""

    _instance: ClassVar[Any] = None

    def __init__(self, *, physics_dt: float, backend: str, **_: Any) -> None:
        type(self)._instance = SimulationContext._instance = self
        self.backend, self._physics_dt = backend, physics_dt
        self._settings, self._app, self._physics_context = settings, app, Anything()
        self.app, self.stage, self.physics_sim_view = app, stage, None
        self._init_stage()

    @classmethod
    def instance(cls) -> Any:
        return SimulationContext._instance

    def _init_stage(self, *_: Any, **__: Any) -> Stage:
        return stage

    def get_physics_dt(self) -> float:
        return self._physics_dt

    def is_playing(self) -> bool:
        return True

    def reset(self, soft: bool = False) -> None:
        timeline.tell(PLAY)

    def step(self, render: bool = True) -> None:
        if render:
            app.update()


class SimulationManager:
    """`isaacsim.core.simulation_manager.SimulationManager`."""

    _device = "cpu"

    @classmethod
    def set_physics_sim_device(cls, device: str) -> None:
        cls._device = device

    @classmethod
    def get_physics_sim_device(cls) -> str:
        return cls._device

    @staticmethod
    def register_callback(*_: Any, **__: Any) -> int:
        return 0

    @staticmethod
    def assets_loading() -> bool:
        return False


@contextlib.contextmanager
def use_stage(_: Any) -> Iterator[None]:
    yield


NAMES: dict[str, dict[str, Any]] = {
    "pxr": {"UsdGeom": UsdGeom, "UsdUtils": UsdUtils},
    "carb": {"settings": SimpleNamespace(get_settings=lambda: settings)},
    "carb.settings": {"get_settings": lambda: settings},
    "isaacsim.core.utils.carb": {
        "get_carb_setting": lambda owner, name: owner.get(name),
        "set_carb_setting": lambda owner, name, value: owner.set(name, value),
    },
    "isaacsim.core.utils.stage": {
        "get_current_stage": lambda *_, **__: stage,
        "get_current_stage_id": lambda: 0,
        "use_stage": use_stage,
    },
    "isaacsim.core.utils.prims": {
        "is_prim_path_valid": lambda path: path in stage.prims,
        "create_prim": create_prim,
        "get_prim_at_path": lambda path: stage.GetPrimAtPath(path),
    },
    "isaacsim.core.cloner": {"Cloner": Cloner, "GridCloner": Cloner},
    "isaacsim.core.prims": {"XFormPrim": XFormPrim},
    "isaacsim.core.api.simulation_context": {"SimulationContext": SimulationContext},
    "isaacsim.core.simulation_manager": {"SimulationManager": SimulationManager},
    "omni.kit.app": {"get_app_interface": lambda: app},
    "omni.timeline": {
        "get_timeline_interface": lambda: timeline,
        "TimelineEventType": SimpleNamespace(PLAY=PLAY, STOP=STOP),
    },
    "omni.replicator.core": {
        "create": SimpleNamespace(render_product_tiled=RenderProduct),
        "AnnotatorRegistry": SimpleNamespace(get_annotator=lambda *_, **__: Annotator()),
    },
}
