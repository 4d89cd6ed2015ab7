"""From a job file to a running trainer: planning, launching and watching runs from where the user sits.

In a notebook: `from orchestrator import metrics, plan, status, submit, wait`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.notebook import metrics, plan, status, submit, wait

__all__ = ["metrics", "plan", "status", "submit", "wait"]


def __getattr__(name: str) -> Any:
    """The command line imports this package too, and pays only for what it uses."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orchestrator import notebook

    return getattr(notebook, name)
