"""What a simulator needs before torch is imported. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.config import Config

if TYPE_CHECKING:
    from trainer.role import RoleContext


def start_before_torch(context: RoleContext) -> None:
    """Start Isaac Sim where the config asks for it; other simulators start when they are made.

    To be called by the role that simulates, before it imports anything that imports torch. Isaac Sim takes a minute,
    and a quarter of an hour where its shaders are compiled for the first time.

    Raises:
        ConfigError: Isaac Sim cannot start here, or not with this config.
        RuntimeError: Torch was imported before.
    """
    if start_isaac(Config.of(context.config)):
        context.reinstall_signals()  # AppLauncher has put its own in their place
        context.exits_at_once = True  # closing Isaac Sim may hang, and ends the process with status 0 where it does not


def start_isaac(config: Config) -> bool:
    """The same where there is no role; whether Isaac Sim was started."""
    if config.env.backend != "isaaclab":
        return False
    from trainer.simulators.isaaclab_app import start_app

    start_app(config)
    return True
