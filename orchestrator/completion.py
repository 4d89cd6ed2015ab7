"""The arguments RUN and RUN..., and what a shell offers there: the newest runs and sweeps that the registry knows."""

from __future__ import annotations

from typing import Annotated

import typer

OFFERED = 50  # the newest ones; more of them fill a screen


def run_names(incomplete: str) -> list[str]:
    """Ids that begin so, the newest first; `last` before them all. No backend is asked, and nothing is said."""
    from orchestrator.errors import LongshoreError
    from orchestrator.references import LAST
    from orchestrator.runs import RunStore
    from orchestrator.surroundings import has_runs, home

    if not has_runs():
        return []
    try:
        records = RunStore(home()).list()
    except LongshoreError:
        return []
    names = [name for record in reversed(records) for name in (record.sweep_id, record.run_id) if name is not None]
    return [name for name in dict.fromkeys([LAST, *names]) if name.startswith(incomplete)][:OFFERED]


RunRef = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run id, a unique prefix of one, or `last`.", autocompletion=run_names),
]
RunRefs = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Run or sweep ids, prefixes, or `last`.", autocompletion=run_names),
]
