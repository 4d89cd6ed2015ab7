"""What Isaac Lab's package registers, task by task, as JSON on stdout; a GPU and Isaac Sim are not needed.

Usage: .venv-torch27/bin/python tools/isaaclab_registry.py

Kit's modules are stubs. The configuration of every task is made as training makes it, and given a number of
environments and a camera.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ENVIRONMENTS = 3  # to see that it is set


def main() -> None:
    """Write the JSON."""
    with contextlib.redirect_stdout(sys.stderr):  # Isaac Lab prints what it reads
        tasks = described()
    json.dump({"version": version("isaaclab"), "tasks": tasks}, sys.stdout, indent=1)


def described() -> dict[str, dict[str, Any]]:
    """Every task: `kind` (`state`, `camera` or `multi-agent`), `entry` (`string` or `class`) and what was set."""
    _stub()
    import gymnasium

    from trainer.config import Config, compose
    from trainer.errors import ConfigError
    from trainer.simulators.isaaclab_camera import NAME, add_camera
    from trainer.simulators.isaaclab_config import ENTRY_POINT, configure, task_config
    from trainer.simulators.task_packages import import_packages

    env = Config.of(compose(["env.backend=isaaclab", "env.from_pixels=true", f"env.num_envs={ENVIRONMENTS}"])).env
    import_packages([])
    tasks: dict[str, dict[str, Any]] = {}
    for spec in gymnasium.registry.values():
        if ENTRY_POINT not in spec.kwargs:
            continue
        entry = "string" if isinstance(spec.kwargs[ENTRY_POINT], str) else "class"
        try:
            task = task_config(spec.id)
        except ConfigError as error:
            tasks[spec.id] = {"kind": "multi-agent", "entry": entry, "refused": str(error)}
            continue
        cameras = sorted(_cameras(task, set()))
        configure(task, env, 0, "cuda:0")
        add_camera(task, env.camera)
        tasks[spec.id] = {
            "kind": "camera" if cameras else "state",
            "entry": entry,
            "cameras": cameras,
            "num_envs": task.scene.num_envs,
            "spacing": task.scene.env_spacing,
            "added": NAME in vars(task.scene) and f"scene.{NAME}" not in cameras,
        }
    return dict(sorted(tasks.items()))


def _stub() -> None:
    """Stubs of Kit, and of what a few tasks ask of it while their configuration is made."""
    os.environ |= {"OMNI_KIT_ACCEPT_EULA": "yes", "OMNI_KIT_ALLOW_ROOT": "1"}
    os.environ["PYTORCH_JIT"] = "0"  # scripted functions would look into what is a stub
    from tests.standin import install

    if not install():
        sys.exit(f"{sys.executable} has no isaaclab; make test-torch27 installs it")
    import isaacsim.core.utils.extensions as extensions

    extensions.get_extension_path_from_name = lambda name: f"/isaac-sim/exts/{name}"  # type: ignore[attr-defined]
    if importlib.util.find_spec("numba") is None:  # one task has a kernel of its own
        sys.modules["numba"] = MagicMock()


def _cameras(node: Any, seen: set[int], path: str = "") -> Iterator[str]:
    """Dotted names of the cameras within a configuration."""
    from isaaclab.sensors import CameraCfg

    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, CameraCfg):
        yield path
        return
    configuration = dataclasses.is_dataclass(node) and not isinstance(node, type)
    parts = node if isinstance(node, dict) else vars(node) if configuration else {}
    for name, value in parts.items():
        yield from _cameras(value, seen, f"{path}.{name}".lstrip("."))


if __name__ == "__main__":
    main()
