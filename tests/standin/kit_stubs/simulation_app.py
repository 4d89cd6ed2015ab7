"""`isaacsim.SimulationApp` as far as it can be told from outside: what it refuses, and how it ends."""

from __future__ import annotations

import builtins
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, ClassVar

HANG = "STANDIN_HANG_IN_CLOSE"  # anything but nothing: `close` never returns, as Isaac Sim's does now and then


class SimulationApp:
    """Starts once a process, before torch, headless, with the licence accepted; ends the process when closed.

    Attributes:
        instance: The one that runs.
        config: What it was started with.
        enable_cameras: Whether it was started to render.
    """

    instance: ClassVar[SimulationApp | None] = None

    def __init__(self, launch_config: Mapping[str, Any] | None = None, experience: str = "") -> None:
        """Start.

        Raises:
            RuntimeError: Kit would not start like this, or would crash later for no visible reason.
        """
        self.config = dict(launch_config or {})
        self.enable_cameras = "rendering" in os.path.basename(experience) or bool(self.config.get("enable_cameras"))
        if reason := self._refusal():
            raise RuntimeError(f"stand-in of Isaac Sim: {reason}")
        builtins.ISAAC_LAUNCHED_FROM_TERMINAL = False  # type: ignore[attr-defined]
        from .stage import settings

        settings["/isaaclab/cameras_enabled"] = self.enable_cameras  # as the experience's file has it
        SimulationApp.instance = self

    def _refusal(self) -> str:
        if "torch" in sys.modules:
            return "torch was imported before SimulationApp was started"
        if SimulationApp.instance is not None:
            return "a SimulationApp was started in this process already"
        if os.environ.get("OMNI_KIT_ACCEPT_EULA", "").lower() not in {"y", "yes", "1", "true"}:
            return "the licence is not accepted: OMNI_KIT_ACCEPT_EULA is not 'yes'"
        if os.geteuid() == 0 and os.environ.get("OMNI_KIT_ALLOW_ROOT") != "1":
            return "Kit does not run as root: OMNI_KIT_ALLOW_ROOT is not 1"
        if not self.config.get("headless") and not os.environ.get("DISPLAY"):
            return "there is no display, and headless was not asked for"
        return ""

    def _start_app(self) -> None:
        """Isaac Lab patches a method of this name."""

    def is_running(self) -> bool:
        return True

    def update(self) -> None:
        """One frame of the app's own loop."""

    def close(self, *_: object, **__: object) -> None:
        """End the process with status 0, whatever happened before; or hang, when told to."""
        sys.stdout.flush()
        sys.stderr.flush()
        while os.environ.get(HANG):
            time.sleep(1)
        os._exit(0)


def set_paths() -> None:
    """What importing `isaacsim` sets, and Isaac Lab reads."""
    os.environ.setdefault("ISAAC_PATH", "/isaac-sim")
    os.environ.setdefault("CARB_APP_PATH", "/isaac-sim/kit")
    os.environ.setdefault("EXP_PATH", "/isaac-sim/apps")
