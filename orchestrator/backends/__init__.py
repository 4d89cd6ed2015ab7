"""Who runs a job: one backend a file or a folder, nothing shared sideways."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.backends.base import Backend
    from orchestrator.profile import Profile


def load_backend(name: str, profile: Callable[[], Profile]) -> Backend:
    """The backend of a job; its module is imported only now, because each needs other libraries.

    Args:
        name: Of the backend.
        profile: Gives the settings of the site; asked only where the backend has some.

    Raises:
        UsageError: This version cannot submit to it.
    """
    if name == "local":
        from orchestrator.backends.local import LocalBackend

        return LocalBackend()
    if name == "docker":
        from orchestrator.backends.docker import DockerBackend

        return DockerBackend()
    if name == "slurm":
        from orchestrator.backends.slurm import SlurmBackend

        return SlurmBackend.at(profile())
    if name == "steve":
        from orchestrator.backends.steve.backend import SteveBackend

        return SteveBackend.at(profile())
    raise UsageError(f"there is no backend {name}")
