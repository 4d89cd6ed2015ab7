"""Who runs a job: one backend a file, nothing shared sideways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.backends.base import Backend


def load_backend(name: str) -> Backend:
    """The backend of a job; its module is imported only now, because each needs other libraries.

    Raises:
        UsageError: This version cannot submit to it.
    """
    if name == "local":
        from orchestrator.backends.local import LocalBackend

        return LocalBackend()
    if name == "docker":
        from orchestrator.backends.docker import DockerBackend

        return DockerBackend()
    raise UsageError(f"submitting to {name} arrives in a later version; `plan` and `render` show what it will run")
