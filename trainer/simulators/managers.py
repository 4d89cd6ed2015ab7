"""What the managers of a task tell of its observations and actions: mjlab's are Isaac Lab's in that."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Axes(NamedTuple):
    """What the axes of an action are, in their order; None where the task does not tell.

    Attributes:
        joints: What each one moves: a joint, a tendon, a site.
        scale: What the task multiplies its action by, one number an axis …
        offset: … and adds to it, before it becomes the joint's target.
    """

    joints: tuple[str, ...] | None = None
    scale: tuple[float, ...] | None = None
    offset: tuple[float, ...] | None = None


def terms_of(manager: Any, group: str) -> tuple[tuple[str, int], ...]:
    """Names and widths of what a group of observations is put together from, in their order; none of other groups.

    Args:
        manager: The task's `observation_manager`, None where it has none.
        group: Of observations.
    """
    if manager is None or not manager.group_obs_concatenate.get(group):
        return ()
    widths = [math.prod(shape) for shape in manager.group_obs_term_dim[group]]
    return tuple(zip(manager.active_terms[group], widths, strict=True))


def axes_of(manager: Any, described: Callable[[Any], tuple[Any, Any, Any]]) -> Axes:
    """The axes of an action.

    Args:
        manager: The task's `action_manager`, None where it has none.
        described: Names, scale and offset of one of its terms, as the simulator has them: numbers for all axes, or a
            number for each. None, or another count of names than of axes (inverse kinematics moves something by
            several), is not known.
    """
    if manager is None:
        return Axes()
    parts: list[list[Any] | None] = [[], [], []]
    for name in manager.active_terms:
        term = manager.get_term(name)
        names, *numbers = described(term)
        given = [names if names is not None and len(names) == term.action_dim else None]
        given += [_an_axis(number, term.action_dim) for number in numbers]
        pairs = zip(parts, given, strict=True)
        parts = [None if known is None or more is None else [*known, *more] for known, more in pairs]
    return Axes(*(None if part is None else tuple(part) for part in parts))


def _an_axis(value: Any, axes: int) -> list[float] | None:
    """A number for each axis."""
    if isinstance(value, Tensor):
        value = value[0].tolist()  # [N, A], the same in all environments
    if isinstance(value, int | float):
        return [float(value)] * axes
    return None if value is None or len(value) != axes else [float(number) for number in value]
