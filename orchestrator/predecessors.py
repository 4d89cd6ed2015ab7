"""How the runs stand that another one follows: `after` of its job. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.records import RunRecord
from orchestrator.references import listed
from orchestrator.states import TERMINAL, RunState

# What to say of a predecessor that has ended without success; one that is not known any more has no state.
ENDINGS: Mapping[RunState | None, str] = {
    RunState.FAILED: "has failed",
    RunState.CANCELLED: "was cancelled",
    RunState.STOPPED: "was stopped by its sweep",
    None: "is not known any more",
}


@dataclass(frozen=True)
class Standing:
    """How the runs that another one follows stand.

    Attributes:
        going: Those that have not ended.
        lost: One that has ended without success, and how; empty where there is none.
    """

    going: tuple[RunRecord, ...] = ()
    lost: str = ""

    @staticmethod
    def of(names: Sequence[str], records: Sequence[RunRecord]) -> Standing:
        """How they stand.

        Args:
            names: What `after` says: whole ids of runs and sweeps.
            records: The runs that it means.
        """
        known = {name for record in records for name in (record.run_id, record.sweep_id)}
        ended = [(r.run_id, r.state) for r in records if r.state in TERMINAL and r.state is not RunState.SUCCEEDED]
        lost = [*ended, *((name, None) for name in names if name not in known)]
        return Standing(
            tuple(record for record in records if record.state not in TERMINAL),
            f"{lost[0][0]} {ENDINGS[lost[0][1]]}" if lost else "",
        )

    @property
    def waits(self) -> str:
        """Which runs are waited for; empty where all have ended."""
        return f"waits for {listed([record.run_id for record in self.going])}" if self.going else ""
