"""One job with a sweep -> one job for each of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.jobfile.job import JobSpec
from orchestrator.jobfile.nodes import differences
from orchestrator.jobfile.overrides import TrainValue


@dataclass(frozen=True)
class SweepMember:
    """One run of a sweep.

    Attributes:
        index: Place in the sweep, from 0.
        name: The job's name and what differs.
        job: What this run does; has no sweep.
        differs: The trainer overrides that the sweep sets for it.
    """

    index: int
    name: str
    job: JobSpec
    differs: Mapping[str, TrainValue]


def expand(job: JobSpec) -> tuple[SweepMember, ...]:
    """The runs of a job, in order; a job without a sweep is one run."""
    if job.sweep is None:
        return (SweepMember(0, job.name, job, {}),)
    # Values were checked once, with the sweep; validating each member again would take seconds for a thousand.
    return tuple(
        SweepMember(
            index,
            f"{job.name} {differences(row)}",
            job.model_copy(update={"train": job.train | row, "sweep": None}),
            row,
        )
        for index, row in enumerate(job.sweep.combinations())
    )
