"""Whose a run is, and what a folder of runs that several people share looks like."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from local_runs import BACKEND, SUCCEED, backend_for, single

from orchestrator.errors import UsageError
from orchestrator.keeper import is_kept_up
from orchestrator.runs import RunStore
from orchestrator.sharing import for_the_group
from orchestrator.states import RunState
from orchestrator.submit import execute
from orchestrator.waiting import Lookout
from orchestrator.watch import cancel, refresh


def registered(home: Path, user: str) -> RunStore:
    """The registry as a user sees it who has submitted a run that nobody has started yet."""
    store = RunStore(home, user=user)
    store.add_plan(single(home, f"of-{user}", SUCCEED))
    store.enqueue([f"of-{user}"])
    return store


def test_a_run_is_its_submitters_and_nobody_else_starts_it(home: Path):
    alice, bob = registered(home, "alice"), RunStore(home, user="bob")
    refresh(bob, backend_for)
    assert (bob.get("of-alice").state, bob.get("of-alice").owner) == (RunState.QUEUED, "alice")
    refresh(alice, backend_for)
    assert bob.get("of-alice").state is RunState.SETTING_UP


def test_nobody_else_cancels_or_resumes_it(home: Path):
    registered(home, "alice")
    bob = RunStore(home, user="bob")
    with pytest.raises(UsageError, match="of-alice is alice's, who alone can cancel it"):
        cancel(bob, backend_for, bob.list(), timedelta(0))
    assert bob.get("of-alice").state is RunState.QUEUED
    with pytest.raises(UsageError, match="of-alice is alice's, who alone can resume it"):
        bob.resume("of-alice", ())


def test_who_submits_what_somebody_else_has_submitted_is_told_whose_it_is(home: Path):
    registered(home, "alice")
    [result] = execute(single(home, "of-bob", SUCCEED, key="of-alice"), RunStore(home, user="bob"), BACKEND, {})
    assert result.message == "of-alice: submitted already by alice, queued"


def test_each_user_keeps_the_registry_up_to_date_alone(home: Path):
    alice, bob = RunStore(home, user="alice"), RunStore(home, user="bob")
    Lookout(alice, backend_for, [], print).look()
    assert (is_kept_up(alice), is_kept_up(bob)) == (True, False)


@pytest.mark.parametrize(("mode", "umask"), [(0o2775, 0o002), (0o775, 0o022), (0o2755, 0o022)], ids=oct)
def test_what_is_written_is_open_to_the_group_where_the_folder_of_runs_is(tmp_path: Path, mode: int, umask: int):
    tmp_path.chmod(mode)
    before = os.umask(0o022)
    try:
        with for_the_group(tmp_path):
            (tmp_path / "file").touch()
        (tmp_path / "later").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "later").stat().st_mode & 0o777 == 0o644
