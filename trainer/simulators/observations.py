"""Which of a simulator's observations the agent sees, and under which names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators.base import Space

PIXELS = "pixels"  # key of what a camera sees


def chosen_groups(env: Config, default: str) -> list[str]:
    """Groups of observations that `env.observation_key` names.

    Args:
        env: `env` of the trainer's config.
        default: The group of a policy in this simulator; what the agent sees unless the config says otherwise. With
            `from_pixels` that is no group at all: the pixels are to be enough.

    Raises:
        ConfigError: It is neither a name nor a list of names.
    """
    named: Any = env.observation_key
    if named is None:
        return [] if env.from_pixels else [default]
    groups = [named] if isinstance(named, str) else named
    if not isinstance(groups, list) or not groups or not all(isinstance(group, str) for group in groups):
        raise ConfigError(f"env.observation_key: {named!r} is neither a name nor a list of names")
    return groups


def check_groups(groups: Sequence[str], known: Sequence[str], task: str) -> None:
    """Refuse groups that a task does not have.

    Raises:
        ConfigError: It says which there are.
    """
    for group in groups:
        if group not in known:
            raise ConfigError(f"env.observation_key: {task} has {', '.join(known)}, not {group!r}")


def picked(observation: Mapping[str, Any], groups: Sequence[str]) -> dict[str, Tensor]:
    """The groups as tensors of the caller's own: bytes as they are, everything else as float32.

    A group that is not one tensor but several gives one key for each, as `policy.joint_pos`.
    """
    return {key: own(value) for group in groups for key, value in _leaves(group, observation[group])}


def own(value: Tensor) -> Tensor:
    """A copy: simulators write the next step's values to the same memory."""
    return value.clone() if value.dtype == torch.uint8 else value.to(torch.float32, copy=True)


def spaces_of(observation: Mapping[str, Tensor]) -> dict[str, Space]:
    """Shapes and types of one environment's part of `[N, …]`."""
    return {key: Space(tuple(value.shape[1:]), value.dtype) for key, value in observation.items()}


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(f"{name}.{key}", part)
    else:
        yield name, value
