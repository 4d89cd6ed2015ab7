"""Bring the registry up to date with the backends, start what waits for a slot, and end runs."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta

from orchestrator.backends.base import (
    Backend,
    FollowingBackend,
    GpuBackend,
    Launch,
    Observation,
    SweepBackend,
)
from orchestrator.errors import BackendError, LongshoreError, RefusedStart, UnclearStart, UsageError
from orchestrator.gpus import Gpu
from orchestrator.halving import halve
from orchestrator.processes import Process
from orchestrator.runs import Event, RunRecord, RunStore
from orchestrator.states import TERMINAL, RunState
from orchestrator.sweep_files import unpack

BackendFor = Callable[[str, str], Backend]  # of a name, at the site of a profile
Errors = dict[tuple[str, str], LongshoreError]  # by backend and profile
WAITING = frozenset({RunState.QUEUED, RunState.REQUEUED})
NOT_STARTED = WAITING | {RunState.CANCELLED}


def refresh(store: RunStore, backend_for: BackendFor, environment: Mapping[str, str] = os.environ) -> tuple[Event, ...]:
    """Ask each backend once what became of its runs, stop what sweeps give up, start the queued ones that have a slot.

    Args:
        store: The registry.
        backend_for: Gives the backend of a name and a profile.
        environment: Where the secrets of runs are taken from that are started.

    Returns:
        Changes of state that were seen; a run that could not be started says so in its message.

    Raises:
        LongshoreError: A backend could not be asked; the others were.
    """
    changes, errors = ask(store, backend_for, environment)
    for error in errors.values():
        raise error
    return changes


def ask(
    store: RunStore, backend_for: BackendFor, environment: Mapping[str, str] = os.environ
) -> tuple[tuple[Event, ...], Errors]:
    """`refresh` for those who go on whatever could not be asked: changes, and errors."""
    changes, errors = _observe(store, backend_for, store.with_handle())
    halve(store)
    changes += store.end_what_waits_in_vain()
    start_queued(store, backend_for, environment)
    return changes, errors


def observe(store: RunStore, backend_for: BackendFor, records: Iterable[RunRecord]) -> tuple[Event, ...]:
    """Ask the backends of some runs what became of them.

    Raises:
        LongshoreError: A backend could not be asked; the others were.
    """
    changes, errors = _observe(store, backend_for, records)
    for error in errors.values():
        raise error
    return changes


def _observe(
    store: RunStore, backend_for: BackendFor, records: Iterable[RunRecord]
) -> tuple[tuple[Event, ...], Errors]:
    seen: dict[str, tuple[str, Observation]] = {}
    errors: Errors = {}
    for (name, profile), runs in _by_backend(records).items():
        try:
            answers = backend_for(name, profile).poll({handle: record.run_dir for handle, record in runs.items()})
        except LongshoreError as error:
            errors[name, profile] = error
            continue
        seen |= {runs[handle].run_id: (handle, observation) for handle, observation in answers.items()}
    changes = store.observe(seen)
    started = [change.run_id for change in changes if change.old in WAITING and change.new not in NOT_STARTED]
    unpack(record.run_dir for record in store.records(started))  # of a run that goes on elsewhere
    return changes, errors


def start_queued(
    store: RunStore, backend_for: BackendFor, environment: Mapping[str, str], only: Collection[str] | None = None
) -> tuple[LongshoreError, ...]:
    """Start the queued runs that have a slot.

    Whoever starts a run may die at any moment: the next one takes its claim over and asks the backend for the same
    attempt again, and a backend starts an attempt once.

    Args:
        store: The registry.
        backend_for: Gives the backend of a name and a profile.
        environment: Where secrets are taken from.
        only: Ids of runs to look at; None for all.

    Returns:
        Why some could not be started; they go on waiting with that message.
    """
    errors = []

    def gpus(record: RunRecord, launch: Launch) -> Sequence[Gpu]:
        backend = backend_for(record.backend, record.profile)
        return backend.gpus(launch) if isinstance(backend, GpuBackend) else ()

    def follows(record: RunRecord) -> bool:
        return isinstance(backend_for(record.backend, record.profile), FollowingBackend)

    def give_up(claimed: Iterable[RunRecord], error: LongshoreError) -> None:
        for waiting in claimed:
            unseen = isinstance(error, UnclearStart) or (waiting.retaken and not isinstance(error, RefusedStart))
            store.give_up_start(waiting.run_id, str(error), unclear=unseen)
        errors.append(error)

    claimed = []
    for record, launch in store.claim_startable(str(Process.current()), _is_gone, gpus, only, follows):
        try:
            claimed.append((record, _next(backend_for(record.backend, record.profile), record, launch)))
        except LongshoreError as error:
            give_up([record], error)
    for together in _together(claimed):
        records, launches = zip(*together, strict=True)
        first, backend = launches[0].request, backend_for(records[0].backend, records[0].profile)
        try:
            if missing := [name for name in first.secrets if name not in environment]:
                raise LongshoreError(f"cannot be started from here: {', '.join(missing)} is not set")
            if first.place is None:
                unpack(waiting.run_dir for waiting in records)
            handles = _launch(backend, launches, {name: environment[name] for name in first.secrets})
        except LongshoreError as error:
            give_up(records, error)
            continue
        for left in (record for record in records if record.run_id not in handles):
            store.give_up_start(left.run_id, "waits until others of its sweep have ended")
        for now in store.all_started(handles, first.attempt, queues=backend.queues):
            if now.state in TERMINAL:
                backend.cancel({handles[now.run_id]: now.run_dir}, timedelta(0))  # cancelled while it was being started
    return tuple(errors)


def _together(claimed: Iterable[tuple[RunRecord, Launch]]) -> list[list[tuple[RunRecord, Launch]]]:
    """What is started as one: attempts of one number whose runs have a place in a sweep, and every other by itself."""
    groups: dict[tuple[str, int], list[tuple[RunRecord, Launch]]] = defaultdict(list)
    for record, launch in claimed:
        place = launch.request.place
        groups[record.run_id if place is None else place.sweep_id, launch.request.attempt].append((record, launch))
    return list(groups.values())


def _next(backend: Backend, record: RunRecord, launch: Launch) -> Launch:
    """The launch of a run's next attempt, on the GPUs that it has."""
    if record.state is RunState.REQUEUED:
        launch = backend.again(launch, record.attempt + 1, record.words)
    if record.follows and isinstance(backend, FollowingBackend):
        launch = backend.following(launch, record.follows)
    wanted = launch.request.gpus
    if not (wanted and isinstance(backend, GpuBackend)):
        return launch
    if record.gpus:
        return backend.on_gpus(launch, record.gpus)
    if known := len(backend.gpus(launch)):
        raise LongshoreError(
            f"{record.run_id} asks for {wanted} GPUs, and there are {known} here; lower resources.gpus"
        )
    return launch


def _launch(backend: Backend, launches: Sequence[Launch], secrets: Mapping[str, str]) -> dict[str, str]:
    """Handles by run id of what was started as one."""
    if isinstance(backend, SweepBackend):
        return backend.launch_sweep(launches, secrets)
    [launch] = launches
    return {launch.request.run_id: backend.launch(launch, secrets)}


def cancel(
    store: RunStore,
    backend_for: BackendFor,
    records: Sequence[RunRecord],
    grace: timedelta,
    environment: Mapping[str, str] = os.environ,
) -> tuple[RunRecord, ...]:
    """End runs: they are asked to save and stop, and ended by force after `grace`.

    A submission that was cut short is finished first: only then is it known what there is to end.

    Returns:
        The runs as they are now: cancelled, or succeeded where that came first.

    Raises:
        UsageError: One is somebody else's.
        BackendError: Some could not be ended.
    """
    if others := [record for record in records if not store.is_mine(record)]:
        raise UsageError(f"{others[0].run_id} is {others[0].owner}'s, who alone can cancel it")
    ids = frozenset(record.run_id for record in records)
    if unclear := store.unclear(ids, _is_gone):
        errors = start_queued(store, backend_for, environment, only=frozenset(unclear))
        if left := store.unclear(ids, _is_gone):
            reason = f": {errors[0]}" if errors else ""
            raise BackendError(f"{', '.join(left)}: may have been started or not, and is not cancelled{reason}")
    started = store.request_cancel([record.run_id for record in records])
    for (name, profile), runs in _by_backend(started).items():
        backend_for(name, profile).cancel({handle: record.run_dir for handle, record in runs.items()}, grace)
    observe(store, backend_for, started)
    now = store.records([record.run_id for record in records])
    if left := [record.run_id for record in now if record.state not in TERMINAL]:
        raise BackendError(f"{', '.join(left)}: does not end, not even by force")
    return now


def _by_backend(records: Iterable[RunRecord]) -> dict[tuple[str, str], dict[str, RunRecord]]:
    """Started runs by handle, by backend and profile."""
    grouped: dict[tuple[str, str], dict[str, RunRecord]] = defaultdict(dict)
    for record in records:
        if record.handle is not None:
            grouped[record.backend, record.profile][record.handle] = record
    return grouped


def _is_gone(claimer: str) -> bool:
    """Whether the process that had claimed a run's start has ended. Of another machine nobody knows."""
    process = Process.parse(claimer)
    return process.is_here and not process.is_alive
