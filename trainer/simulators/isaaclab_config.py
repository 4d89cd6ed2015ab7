"""The configuration of an Isaac Lab task: found in gymnasium's registry, and changed by dotted names.

Isaac Lab's environments take it as `cfg`; `gymnasium.make` alone does not give them one. Imports no torch by itself.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from typing import Any

import gymnasium

from trainer.config import Config, nearest
from trainer.errors import ConfigError

ENTRY_POINT = "env_cfg_entry_point"
PIXEL_SPACING = 8.0  # metres; closer together, a camera sees its neighbours' robots


def task_config(name: str) -> Any:
    """A new configuration of a registered task, with its defaults.

    Args:
        name: As gymnasium's registry has it.

    Raises:
        ConfigError: There is no such task, it has no configuration, or it has several agents.
    """
    known = [spec.id for spec in gymnasium.registry.values() if ENTRY_POINT in spec.kwargs]
    if name not in gymnasium.registry:
        raise ConfigError(
            f"env.name: Isaac Lab has no task {name!r}{_hint(name, known)}; tasks of your own are registered by "
            "setup.code or env.packages"
        )
    entry = gymnasium.spec(name).kwargs.get(ENTRY_POINT)
    if entry is None:
        raise ConfigError(f"env.name: {name} is registered without {ENTRY_POINT}, so it is no task of Isaac Lab's")
    config = _made(entry)
    if hasattr(config, "possible_agents"):
        raise ConfigError(
            f"env.name: {name} has several agents ({', '.join(map(str, config.possible_agents))}), and an agent here "
            "acts for one"
        )
    return config


def configure(task: Any, env: Config, seed: int, device: str) -> None:
    """Set on a task's configuration what the trainer's config says.

    Args:
        task: From `task_config`; changed.
        env: `env` of the trainer's config.
        seed: Of the simulation.
        device: As `cuda:0`.

    Raises:
        ConfigError: `env.cfg` names something that the task does not have, or has a value of another kind.
    """
    task.scene.num_envs, task.seed, task.sim.device = env.num_envs, seed, device
    if env.spacing is not None:
        task.scene.env_spacing = float(env.spacing)
    elif env.from_pixels:
        task.scene.env_spacing = max(PIXEL_SPACING, float(task.scene.env_spacing))
    keep_bytes(task)
    override(task, as_mapping(env.cfg), "env.cfg")
    if task.scene.num_envs != env.num_envs:
        raise ConfigError("env.cfg.scene.num_envs: set env.num_envs instead, which the trainer needs to know")


def keep_bytes(task: Any) -> None:
    """Have a task's own pictures come as the camera's bytes: as numbers around zero they take four times the room."""
    for group in _fields(getattr(task, "observations", None)).values():
        for term in _fields(group).values():
            params = getattr(term, "params", None)
            picture = getattr(getattr(term, "func", None), "__name__", "") == "image"
            if picture and isinstance(params, dict) and params.get("data_type", "rgb") == "rgb":
                params["normalize"] = False


def as_mapping(section: Config) -> dict[str, Any]:
    """A section of the trainer's config as nested dictionaries."""
    return {name: as_mapping(value) if isinstance(value, Config) else value for name, value in vars(section).items()}


def override(target: Any, values: Mapping[str, Any], prefix: str) -> None:
    """Set values, by name and one level after the other, on an object of Isaac Lab's configuration.

    Args:
        target: A configuration object or a dictionary within one; changed.
        values: Nested as the target is.
        prefix: Dotted name of the target, for messages.

    Raises:
        ConfigError: There is no such name, or its value is of another kind.
    """
    for name, value in values.items():
        key = f"{prefix}.{name}"
        entries = target if isinstance(target, dict) else _fields(target)
        if name not in entries:
            raise ConfigError(f"{key}: unknown key{_hint(key, [f'{prefix}.{entry}' for entry in entries])}")
        current = entries[name]
        if isinstance(value, Mapping) and current is not None:
            if not isinstance(current, dict) and not _fields(current):
                raise ConfigError(f"{key}: {current!r} has no settings below it; write {key}=VALUE")
            override(current, value, key)
        elif isinstance(target, dict):
            target[name] = _converted(key, value, current)
        else:
            setattr(target, name, _converted(key, value, current))


def _made(entry: Any) -> Any:
    """An entry point as the object that it stands for: `module:Class`, a class or function, or an object to copy."""
    if isinstance(entry, str):
        module, _, name = entry.partition(":")
        entry = getattr(importlib.import_module(module), name)
    return entry() if callable(entry) else copy.deepcopy(entry)


def _fields(target: Any) -> dict[str, Any]:
    return {name: value for name, value in getattr(target, "__dict__", {}).items() if not name.startswith("_")}


def _converted(key: str, value: Any, current: Any) -> Any:
    """A value as the kind that stands there now; null takes a part of a task away, as Isaac Lab has it."""
    if value is None or current is None:
        return value
    match current:
        case bool():
            accepted, kind = isinstance(value, bool), "true or false"
        case int() | float():
            accepted, kind = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        case str():
            accepted, kind = isinstance(value, str), "a string"
        case tuple() | list():
            accepted, kind = isinstance(value, list), f"a list of {len(current)}, as in [1,2]"
            value = type(current)(value) if accepted else value
        case _:
            accepted, kind = not _fields(current) and not isinstance(current, dict), "null, or KEY=VALUE below it"
    if not accepted:
        raise ConfigError(f"{key}: {value!r} is not {kind} (the task's own: {_shown(current)})")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else type(value).__name__


def _hint(word: str, known: list[str]) -> str:
    match = nearest(word, known)
    return f"; did you mean {match}?" if match else ""
