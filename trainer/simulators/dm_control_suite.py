"""The tasks of dm_control's suite. Imports no torch: neither do the processes that step them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.errors import ConfigError


def task_names() -> Mapping[str, Sequence[str]]:
    """Domain and task of each name, as `cartpole_swingup`.

    Raises:
        ConfigError: dm_control is not installed, or finds no OpenGL where MUJOCO_GL asks for it.
    """
    try:
        from dm_control import suite
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"env.backend: dm_control cannot be imported ({error}); pip install dm_control, in the release made for "
            "the installed mujoco"
        ) from None
    except Exception as error:  # PyOpenGL raises whatever the missing library makes of it
        backend = os.environ.get("MUJOCO_GL")
        raise ConfigError(
            f"env.from_pixels: MUJOCO_GL={backend} does not work here ({error}); install libegl1 (with a GPU's driver "
            "or libgl1-mesa-dri), or libosmesa6 and set MUJOCO_GL=osmesa"
        ) from None
    return {f"{domain}_{task}": (domain, task) for domain, task in suite.ALL_TASKS}


def load(domain: str, task: str, seed: int) -> Any:
    """One environment."""
    from dm_control import suite

    return suite.load(domain, task, task_kwargs={"random": seed})
