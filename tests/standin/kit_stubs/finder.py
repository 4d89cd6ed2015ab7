"""Modules out of thin air: any name under `omni`, `carb`, `pxr` … imports, and has whatever attribute is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ROOTS = ("omni", "carb", "pxr", "isaacsim", "usdrt", "hid", "pyglet")
UNUSED = ("matplotlib", "mpl_toolkits", "h5py")  # Isaac Lab imports these for its windows and data sets


class _Anything(type):
    """Metaclass of `Anything`: its attributes are subclasses of it, so they can be called, subclassed and annotated."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        child = _Anything(name, (Anything,), {"__module__": cls.__module__})
        setattr(cls, name, child)
        return child

    def __int__(cls) -> int:
        return 0

    def __iter__(cls) -> Iterator[Any]:
        return iter(())


class Anything(metaclass=_Anything):
    """Takes any argument, and answers any question with more of the same."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> Anything:
        return Anything()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __getitem__(self, _: object) -> Anything:
        return Anything()

    def __int__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class StubModule(ModuleType):
    """A module of Kit."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        child = _Anything(name, (Anything,), {"__module__": self.__name__})
        setattr(self, name, child)
        return child


class KitFinder(MetaPathFinder, Loader):
    """Finds every module under `ROOTS`, ahead of what is installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in (*ROOTS, *UNUSED):
            return None
        return ModuleSpec(name, self, origin="stub", is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StubModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = f"/isaac-sim/stubs/{module.__name__.replace('.', '/')}/__init__.py"
        from .stage import NAMES

        vars(module).update(NAMES.get(module.__name__, {}))
        if module.__name__ == "isaacsim":
            from .simulation_app import SimulationApp, set_paths

            set_paths()
            module.SimulationApp = SimulationApp  # type: ignore[attr-defined]
        elif module.__name__ == "isaacsim.core.version":
            module.get_version = _version  # type: ignore[attr-defined]


def _version() -> tuple[str, ...]:
    """Isaac Sim's version as its own function gives it."""
    return ("5.1.0", "", "5", "1", "0", "", "", "stand-in")


def imported() -> list[str]:
    """Stub modules that were imported so far."""
    return sorted(name for name, module in sys.modules.items() if isinstance(module, StubModule))
