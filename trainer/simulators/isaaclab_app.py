"""Isaac Sim's application, which Isaac Lab needs to run before torch is imported. Imports no torch."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators.isaaclab_tasks import CAMERA_TASKS

_DRIVER = Path("/dev/nvidiactl")  # there where the NVIDIA driver is

_app: Any = None  # kept: a collected one would close itself


def start_app(config: Config) -> None:
    """Start Isaac Sim in this process, without a window.

    Args:
        config: The trainer's config.

    Raises:
        ConfigError: Isaac Lab is not installed, or the config asks for a device that it does not run on.
        RuntimeError: Torch was imported before, or Isaac Sim runs already.
    """
    global _app
    if _app is not None:
        raise RuntimeError("Isaac Sim was started in this process already; one process runs one simulation")
    refuse_torch(sys.modules)
    arguments = launch_arguments(config)
    if importlib.util.find_spec("isaaclab") is None:
        raise ConfigError(
            f"env.backend: {sys.executable} has no isaaclab; run in Isaac Lab's image, nvcr.io/nvidia/isaac-lab:2.3.0, "
            "whose Python is /workspace/isaaclab/isaaclab.sh -p"
        )
    from isaaclab.app import AppLauncher

    del sys.argv[1:]  # Kit reads it, and takes words that it knows for its own
    parser = argparse.ArgumentParser()
    # A setting of Isaac Sim's own, and false: else it renders on every GPU that it sees, the learner's too.
    parser.add_argument("--multi_gpu", action="store_true")
    AppLauncher.add_app_launcher_args(parser)
    _app = AppLauncher(parser.parse_args(arguments)).app


def is_running() -> bool:
    """Whether `start_app` has been called in this process."""
    return _app is not None


def launch_arguments(config: Config) -> list[str]:
    """AppLauncher's arguments for a config.

    Raises:
        ConfigError: The device is another than `cuda:0`, which is where Isaac Lab runs.
    """
    return [
        "--headless",
        *(["--enable_cameras"] if needs_cameras(config) else []),
        "--device",
        simulation_device(config),
    ]


def needs_cameras(config: Config) -> bool:
    """Whether something is to be rendered: Isaac Sim has to know before it starts, before the task can be asked."""
    return renders(config.env) or config.video.enabled is True


def renders(env: Config, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether every step of the task renders what its cameras see.

    Tasks of one's own that have cameras need the variable ENABLE_CAMERAS=1, which AppLauncher reads.
    """
    return bool(env.from_pixels) or env.name in CAMERA_TASKS or environment.get("ENABLE_CAMERAS") == "1"


def simulation_device(config: Config, driver: Path = _DRIVER) -> str:
    """Where Isaac Lab is to run.

    Raises:
        ConfigError: Not on the first GPU, and `env.allow_cpu` does not say that this is a test.
    """
    chosen = getattr(config.pipeline, "simulator_device", "auto")
    key = "device" if chosen == "auto" else "pipeline.simulator_device"
    device = config.device if chosen == "auto" else chosen
    if device in ("cuda", "cuda:0"):
        return "cuda:0"
    if config.env.allow_cpu and (device == "cpu" or (device == "auto" and not driver.exists())):
        return "cpu"
    if device == "auto":
        return "cuda:0"
    raise ConfigError(f"{key}: Isaac Lab runs on cuda:0, not on {device}; write auto or cuda:0")


def refuse_torch(modules: Mapping[str, ModuleType]) -> None:
    """Make sure that torch was not imported yet: Isaac Sim brings libraries of its own that must be loaded first.

    Args:
        modules: `sys.modules`.

    Raises:
        RuntimeError: It was; says what imported it.
    """
    if "torch" not in modules:
        return
    importers = importers_of_torch(modules)
    raise RuntimeError(
        "torch was imported before Isaac Sim's AppLauncher, which must come first: "
        + (f"{importers[0]} has imported it" if importers else "it is not known by what")
        + (f", and so have {', '.join(importers[1:4])}" if importers[1:] else "")
    )


def importers_of_torch(modules: Mapping[str, ModuleType]) -> list[str]:
    """Modules that have something of torch's among their names, the one that was first at it in front.

    A module is entered in `sys.modules` before what it imports, so the one that began closest before torch was
    imported is the one that did it.
    """
    names = list(modules)
    torch_at = names.index("torch")
    users = [
        (position, name)
        for position, name in enumerate(names)
        # Torch puts things of its own into modules of the standard library.
        if name.partition(".")[0] not in {"torch", *sys.stdlib_module_names} and _uses_torch(modules[name])
    ]
    before = [name for position, name in reversed(users) if position < torch_at]
    return before + [name for position, name in users if position > torch_at]


def _uses_torch(module: ModuleType) -> bool:
    for value in list(getattr(module, "__dict__", {}).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name.partition(".")[0] == "torch":
            return True
    return False
