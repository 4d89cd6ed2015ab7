"""Execute a plan: put the files of its runs in place, register them, start them.

What is registered has all that it needs, and the registry knows how far it has come. So nothing is locked: after a full
disk or a kill, submitting the same job again goes on where it stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.backends.base import BATCH_SCRIPT, Backend, SweepBackend
from orchestrator.errors import BackendError, LongshoreError
from orchestrator.runs import Registered, RunRecord, RunStore
from orchestrator.snapshot import store_snapshot
from orchestrator.states import TERMINAL, RunState, Verdict, judge
from orchestrator.sweep_files import discard, pack, sweep_folder
from orchestrator.watch import observe, start_queued
from trainer.run_dir import write_atomically

if TYPE_CHECKING:
    from orchestrator.plan import Plan, PlannedRun

COMMON_FILES = (BATCH_SCRIPT, "git.json")  # the same for all runs of a plan
LOCAL_MAX_PARALLEL = 1  # runs of a sweep at once where the job does not say: two would share one machine's cores


@dataclass(frozen=True)
class SubmitResult:
    """What submitting one run came to.

    Attributes:
        run_id: The run that stands for it: a new one, or the one with the same key that was there.
        verdict: Whether it was new, finished, active or done already.
        state: Where it stands now.
        message: For the user; empty for a new run that was started.
    """

    run_id: str
    verdict: Verdict
    state: RunState
    message: str


def execute(
    plan: Plan, store: RunStore, backend: Backend, secrets: Mapping[str, str], *, again: bool = False
) -> list[SubmitResult]:
    """Do what a plan says, once however often it is called with the same job.

    Args:
        plan: What to do.
        store: The registry under the plan's home.
        backend: The one that the plan was made for.
        secrets: Values of the variables that the job names under `secrets`.
        again: Make another run where the same one has succeeded.

    Returns:
        One result a planned run, in the plan's order.

    Raises:
        LongshoreError: Nothing is registered, or the runs are and submitting again starts them; it says which.
    """

    def backend_for(_: str, __: str) -> Backend:
        return backend

    # A run that died unseen must not pass for one that is still going.
    keys = [run.key for run in plan.runs]
    observe(store, backend_for, [last for last in store.find_by_keys(keys).values() if last.state not in TERMINAL])
    registered = _register(plan, store, again, _max_parallel(plan, backend))
    ids = [entry.record.run_id for entry in registered]
    store.enqueue(ids)
    errors = start_queued(store, backend_for, secrets, only=frozenset(ids))
    if errors:
        kind = BackendError if isinstance(errors[0], BackendError) else LongshoreError
        raise kind(f"{errors[0]}; submitting again finishes it")
    now = {record.run_id: record for record in store.records(ids)}
    waits = store.standing(plan.after).waits or "waits for a free slot"
    return [_result(entry, now[entry.record.run_id], store, waits) for entry in registered]


def _register(plan: Plan, store: RunStore, again: bool, max_parallel: int | None) -> tuple[Registered, ...]:
    """Register the plan's runs, the files of new ones before."""
    last = store.find_by_keys([run.key for run in plan.runs])
    states = {key: record.state for key, record in last.items()}
    new = [run for run in plan.runs if judge(states.get(run.key), again=again) is Verdict.NEW]
    if taken := store.records([run.run_id for run in new]):
        raise LongshoreError(f"{taken[0].run_id}: this run id is taken; submit again for another")
    if new:
        if lost := store.standing(plan.after).lost:
            raise LongshoreError(f"after: {lost}; nothing was submitted")
        _put_in_place(plan, new)
    registered: tuple[Registered, ...] = ()
    try:
        ready = frozenset(run.run_id for run in new)
        registered = store.add_plan(plan, again=again, max_parallel=max_parallel, ready=ready)
    finally:
        if new and not any(entry.verdict is Verdict.NEW for entry in registered):
            _take_back(plan, new)  # it failed, or somebody else was faster
    return registered


def _put_in_place(plan: Plan, new: Sequence[PlannedRun]) -> None:
    """Write the files of runs that nobody knows yet, and the code that they run.

    Raises:
        LongshoreError: There is no room or no right to write.
    """
    packed = False
    try:
        if plan.is_sweep:
            pack(sweep_folder(plan.home, plan.plan_id), {run.run_id: run.files for run in new}, COMMON_FILES)
            packed = True
        else:
            for name, text in new[0].files.items():
                write_atomically(new[0].run_dir / name, text)
        store_snapshot(plan.snapshot, plan.home)
    except (LongshoreError, OSError) as error:
        if packed or not plan.is_sweep:
            _take_back(plan, new)
        raise LongshoreError(f"{plan.plan_id}: {error}; nothing was submitted") from error


def _take_back(plan: Plan, new: Sequence[PlannedRun]) -> None:
    """Remove files that were put in place for nothing."""
    if plan.is_sweep:
        discard(plan.home, [plan.plan_id])
        return
    with contextlib.suppress(OSError):
        for name in new[0].files:
            (new[0].run_dir / name).unlink(missing_ok=True)
        new[0].run_dir.rmdir()


def _max_parallel(plan: Plan, backend: Backend) -> int | None:
    """How many runs may be started at once; None where that is no business of this side."""
    if isinstance(backend, SweepBackend):
        return None
    return plan.max_parallel or (LOCAL_MAX_PARALLEL if plan.backend == "local" else None)


def _result(entry: Registered, now: RunRecord, store: RunStore, waits: str) -> SubmitResult:
    by = "" if store.is_mine(now) else f" by {now.owner}"
    message = {
        Verdict.NEW: waits if now.state is RunState.QUEUED and now.handle is None else "",
        Verdict.FINISH: f"its submission{by} had been cut short and is finished now",
        Verdict.ACTIVE: f"submitted already{by}, {now.state}",
        Verdict.DONE: f"{now.state} already; --again makes another run",
    }[entry.verdict]
    return SubmitResult(now.run_id, entry.verdict, now.state, f"{now.run_id}: {message}" if message else "")
