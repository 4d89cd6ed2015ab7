"""A stand-in for Isaac Sim: stubs of Kit's modules and a small vectorised task, around the real `isaaclab` package.

`install()` lets the real Isaac Lab 2.3 import on a machine with neither Isaac Sim nor a GPU; `standin_tasks.register()`
adds `Standin-Reach-v0` to gymnasium. Both are part of the stand-in image too, where the package is called `standin`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from .kit_stubs import KitFinder

__all__ = ["install", "isaaclab_sources"]


def install() -> bool:
    """Put Kit's stubs in place, and Isaac Lab's source folders on the path; a second call changes nothing.

    Whoever starts the stubbed app needs what Kit needs: OMNI_KIT_ACCEPT_EULA=yes, as root OMNI_KIT_ALLOW_ROOT=1, and
    `headless`.

    Returns:
        Whether Isaac Lab is there; the stubs are, either way.
    """
    if not any(isinstance(finder, KitFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, KitFinder())
    for folder in isaaclab_sources():
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.util.find_spec("isaaclab") is not None


def isaaclab_sources() -> list[Path]:
    """Folders of Isaac Lab's packages in the installed wheel, whose own `isaaclab` only knows how to start Kit."""
    for entry in sys.path:
        sources = Path(entry or ".") / "isaaclab" / "source"
        if (sources / "isaaclab").is_dir():
            return sorted(path for path in sources.iterdir() if path.is_dir())
    return []
