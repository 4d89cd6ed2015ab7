"""Stubs of the modules that come with Kit and Isaac Sim: they import, and `isaacsim.SimulationApp` starts."""

from .finder import ROOTS, KitFinder
from .simulation_app import SimulationApp

__all__ = ["ROOTS", "KitFinder", "SimulationApp"]
