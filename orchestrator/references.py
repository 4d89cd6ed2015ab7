"""Which runs a RUN on the command line means."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from orchestrator.errors import UsageError

LAST = "last"
SHOWN = 8  # candidates in an error message; more of them help nobody


def match_reference(reference: str, runs: Sequence[tuple[str, str | None]]) -> tuple[str, ...]:
    """Ids of the runs that a reference means: one run, or all members of a sweep.

    Args:
        reference: A run id, a sweep id, a prefix that only one of either has, or `last` for what was submitted last.
        runs: Run id and sweep id of all runs, the oldest first.

    Raises:
        UsageError: Nothing or more than one thing is called so; the message names candidates.
    """
    members: dict[str, list[str]] = {}
    for run_id, sweep_id in runs:
        members.setdefault(sweep_id or run_id, []).append(run_id)
    if reference == LAST and runs:
        run_id, sweep_id = runs[-1]
        return tuple(members[sweep_id or run_id])
    if reference in members:
        return tuple(members[reference])
    if any(run_id == reference for run_id, _ in runs):
        return (reference,)
    # A prefix of a sweep's id is one of all its members' too: it means the sweep.
    found = {submission: tuple(ids) for submission, ids in members.items() if submission.startswith(reference)}
    found |= {
        run_id: (run_id,)
        for run_id, sweep_id in runs
        if run_id.startswith(reference) and (sweep_id or run_id) not in found
    }
    if not reference or not found:
        raise UsageError(f"no run is called {reference!r}{_near(reference, [*members, *(run for run, _ in runs)])}")
    if len(found) > 1:
        raise UsageError(f"{reference!r} may be any of {listed(list(found))}")
    return next(iter(found.values()))


def listed(names: Sequence[str]) -> str:
    """The first few names and how many there are besides."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _near(reference: str, names: Sequence[str]) -> str:
    known = list(dict.fromkeys(names))
    if not known:
        return ": there are no runs yet"
    near = difflib.get_close_matches(reference, known[-500:], n=3, cutoff=0.4)
    return f"; did you mean {' or '.join(near)}?" if near else f"; the last ones are {listed(known[::-1])}"
