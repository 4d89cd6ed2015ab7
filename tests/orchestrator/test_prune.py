"""Runs that nobody needs any more."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_runs import BACKEND, SUCCEED, backend_for, single, sweep

from orchestrator.prune import candidates, disk_use, remove
from orchestrator.runs import RunStore
from orchestrator.states import RunState
from orchestrator.submit import execute
from orchestrator.waiting import wait

DAY = 86_400.0


@pytest.fixture
def store(home: Path) -> RunStore:
    """Of one run that has failed, one that has succeeded with a megabyte of results, and one that goes on."""
    store = RunStore(home)
    big = 'head -c 1000000 /dev/zero >"$LONGSHORE_RUN_DIR/results"\n'
    for run_id, script in (("bad", "exit 1"), ("good", big + SUCCEED), ("going", "sleep 60")):
        execute(single(home, run_id, script), store, BACKEND, {})
    wait(store, backend_for, ["bad", "good"], timeout=30, interval=0.05)
    return store


def names(store: RunStore, **choice: object) -> list[str]:
    now = store.get("bad").updated + DAY
    return [found.record.run_id for found in candidates(store.list(), now, **choice)]  # type: ignore[arg-type]


def test_runs_that_have_ended_are_chosen_by_age_state_and_size(store: RunStore):
    assert names(store) == ["bad", "good"]
    assert names(store, older=2 * DAY) == []
    assert names(store, states={RunState.FAILED}) == ["bad"]
    assert names(store, larger=500_000) == ["good"]


def test_a_file_with_two_names_is_counted_once(tmp_path: Path):
    (tmp_path / "one").write_bytes(bytes(1 << 20))
    size = disk_use(tmp_path)
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    assert disk_use(tmp_path) == size >= 1 << 20


def test_what_is_removed_is_gone_from_the_disk_and_from_the_registry(store: RunStore, home: Path):
    chosen = candidates(store.list(), store.get("bad").updated + DAY)
    assert [record.run_id for record in remove(store, chosen)] == ["bad", "good"]
    assert [record.run_id for record in store.list()] == ["going"]
    assert not (home / "bad").exists()
    assert (home / "going").exists()


def test_a_run_that_goes_on_again_since_it_was_chosen_stays(store: RunStore, home: Path):
    chosen = candidates(store.list(), store.get("bad").updated + DAY)
    store.resume("bad", ())
    assert [record.run_id for record in remove(store, chosen)] == ["good"]
    assert (home / "bad" / "setup-and-run.sh").exists()


def test_what_somebody_left_half_removed_goes_too(store: RunStore, home: Path):
    (home / ".pruned-old").mkdir()
    remove(store, [])
    assert not (home / ".pruned-old").exists()


def test_a_sweep_without_runs_is_forgotten(store: RunStore, home: Path):
    execute(sweep(home, "s", [SUCCEED, SUCCEED], max_parallel=2), store, BACKEND, {})
    wait(store, backend_for, ["s-000", "s-001"], timeout=30, interval=0.05)
    remove(store, [found for found in candidates(store.list(), 2e10) if found.record.sweep_id])
    assert store._db.execute("SELECT count(*) FROM sweeps").fetchone()[0] == 0
