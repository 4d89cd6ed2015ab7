"""Packages that register tasks: Isaac Lab's, and those of the user's own that a job's set-up has installed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from importlib.metadata import distributions

from trainer.errors import ConfigError
from trainer.run_dir import CODE_VARIABLE

NO_TASKS = ("tensordict", "torchrl")  # which a job may have installed from a folder too


def import_packages(packages: Sequence[str] | None) -> None:
    """Import modules that register tasks, Isaac Lab's own first.

    Args:
        packages: `env.packages`; None for those that the job's `setup.code` has installed.

    Raises:
        ConfigError: One of them cannot be imported.
    """
    importlib.import_module("isaaclab_tasks")
    key = "setup.code" if packages is None else "env.packages"
    for package in installed_code() if packages is None else packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            hint = "; env.packages names the modules that are to be imported instead" if packages is None else ""
            raise ConfigError(f"{key}: {package!r} cannot be imported: {error}{hint}") from error


def installed_code() -> list[str]:
    """Modules at the top of the packages that the set-up has installed for this run alone, by name."""
    folder = os.environ.get(CODE_VARIABLE)
    if not folder:
        return []
    found = set[str]()
    for distribution in distributions(path=[folder]):
        if distribution.metadata["Name"].lower() not in NO_TASKS:
            for file in distribution.files or ():
                match file.parts:
                    case [package, "__init__.py"]:
                        found.add(package)
                    case [module] if module.endswith(".py"):
                        found.add(module.removesuffix(".py"))
    return sorted(found)
