"""Wait for runs: look at them again and again, and put up with a backend that does not answer for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from orchestrator.errors import BackendError, LongshoreError
from orchestrator.keeper import forget_keeper, note_keeper
from orchestrator.runs import RunRecord, RunStore
from orchestrator.watch import BackendFor, Errors, ask

INTERVAL = 0.5  # seconds between two looks
AGAIN = 5.0  # seconds between them while a backend does not answer: each try may take as long as a connection does
PATIENCE = 600.0  # seconds that it may take to answer again: a login node restarts, an engine is updated


class Lookout:
    """Keeps the registry up to date for somebody who waits for runs; everybody else need only read it meanwhile.

    Args:
        store: The registry.
        backend_for: Gives the backend of a name and a profile.
        run_ids: Whole ids of the runs that are waited for.
        tell: Gets a line when a backend begins not to answer.
        fetch: Brings what the runs have written; errors by backend and profile.
    """

    def __init__(
        self,
        store: RunStore,
        backend_for: BackendFor,
        run_ids: Sequence[str],
        tell: Callable[[str], None],
        fetch: Callable[[Sequence[RunRecord]], Errors] = lambda records: {},
    ) -> None:
        self._store, self._backend_for, self._run_ids = store, backend_for, run_ids
        self._tell, self._fetch = tell, fetch
        self._silent: dict[tuple[str, str], float] = {}  # since when, in monotonic seconds
        self._asked = 0.0

    def look(self) -> None:
        """Bring the registry up to date.

        Raises:
            BackendError: The backend of one that goes on has not answered for `PATIENCE` seconds.
            LongshoreError: It can never be asked.
        """
        now = time.monotonic()
        if self._silent and now < self._asked + AGAIN:
            return
        self._asked = now
        going = self._store.records(self._run_ids, active=True)
        _, errors = ask(self._store, self._backend_for)
        errors = self._fetch(going) | errors  # of those that have just ended, too
        if errors:
            forget_keeper(self._store)
        else:
            note_keeper(self._store)
        places = {(record.backend, record.profile) for record in going}
        for place, error in errors.items():
            waited = place in places
            if waited and not (isinstance(error, BackendError) and now < self._silent.get(place, now) + PATIENCE):
                raise error
            if place not in self._silent:
                self._tell(f"warning: {error}" + ("; asking again" if waited else ""))
        self._silent = {place: self._silent.get(place, now) for place in errors}


def wait(
    store: RunStore,
    backend_for: BackendFor,
    run_ids: Sequence[str],
    *,
    timeout: float | None = None,
    interval: float = INTERVAL,
    tell: Callable[[str], None] = print,
) -> tuple[RunRecord, ...]:
    """Wait until runs have ended, and start those whose turn comes meanwhile.

    Args:
        store: The registry.
        backend_for: Gives the backend of a name and a profile.
        run_ids: Whole ids.
        timeout: Seconds to wait at most, None for as long as it takes.
        interval: Seconds between two looks.
        tell: See `Lookout`.

    Returns:
        The runs as they ended.

    Raises:
        LongshoreError: The time is over, or see `Lookout.look`.
    """
    lookout = Lookout(store, backend_for, run_ids, tell)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        lookout.look()
        going = store.records(run_ids, active=True)
        if not going:
            return store.records(run_ids)
        if deadline is not None and time.monotonic() >= deadline:
            states = ", ".join(f"{record.run_id} is {record.state}" for record in going[:3])
            raise LongshoreError(f"not ended within {timeout:g} s: {states}{' …' if len(going) > 3 else ''}")
        time.sleep(interval)
