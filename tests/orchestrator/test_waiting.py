"""Waiting for runs while backends do not answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from local_runs import BACKEND, SUCCEED, single
from test_watch import Cluster, on, submit

from orchestrator import waiting
from orchestrator.backends.base import Backend, Observation
from orchestrator.errors import BackendError, UsageError
from orchestrator.keeper import is_kept_up
from orchestrator.runs import RunStore
from orchestrator.states import RunState
from orchestrator.waiting import Lookout, wait

SILENT = "warning: the login node does not answer"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "AGAIN", 0.02)


def test_a_backend_of_other_runs_may_be_silent_for_good(store: RunStore, home: Path):
    backends: dict[str, Backend] = {"slurm": on(Cluster(reachable=False), store, ["a"]), "local": BACKEND}
    submit(store, single(home, "demo-1", SUCCEED))
    told = list[str]()
    ended = wait(store, lambda name, _: backends[name], ["demo-1"], timeout=30, interval=0.02, tell=told.append)
    assert [record.state for record in ended] == [RunState.SUCCEEDED]
    assert told == [SILENT]


def test_a_backend_of_the_run_is_asked_again(store: RunStore):
    cluster = on(Cluster(reachable=False), store, ["a"])
    cluster.answers = {"job of a": Observation(RunState.SUCCEEDED)}
    told = list[str]()

    def tell(line: str) -> None:
        told.append(line)
        assert not is_kept_up(store)  # `status` asks by itself, and says that it cannot
        cluster.reachable = True

    assert wait(store, lambda *_: cluster, ["a"], timeout=30, interval=0.01, tell=tell)[0].state is RunState.SUCCEEDED
    assert told == [f"{SILENT}; asking again"]
    assert len(cluster.asked) == 2


def test_waiting_ends_when_the_backend_stays_silent(store: RunStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(waiting, "PATIENCE", 0.2)
    cluster = on(Cluster(reachable=False), store, ["a"])
    told = list[str]()
    with pytest.raises(BackendError, match="login node does not answer"):
        wait(store, lambda *_: cluster, ["a"], timeout=30, interval=0.01, tell=told.append)
    assert told == [f"{SILENT}; asking again"]
    assert 2 < len(cluster.asked) <= 12


def test_what_can_never_be_asked_ends_it_at_once(store: RunStore):
    on(Cluster(), store, ["a"])

    def gone(name: str, profile: str) -> Backend:
        raise UsageError(f"there is no profile {profile}")

    with pytest.raises(UsageError, match="no profile"):
        wait(store, gone, ["a"], timeout=30, interval=0.01)


def test_logs_that_cannot_be_brought_now_are_later_and_of_a_run_that_has_just_ended_too(store: RunStore):
    cluster = on(Cluster(), store, ["a"])
    told, fetched = list[str](), list[list[str]]()
    errors = [{("slurm", "default"): BackendError("the login node does not answer")}, {}, {}]

    def fetch(records):
        fetched.append([record.run_id for record in records])
        return errors.pop(0)

    lookout = Lookout(store, lambda *_: cluster, ["a"], told.append, fetch)
    lookout.look()
    lookout.look()  # too soon
    assert fetched == [["a"]]
    lookout._asked -= 1
    cluster.answers = {"job of a": Observation(RunState.SUCCEEDED)}
    lookout.look()
    assert fetched == [["a"], ["a"]]
    assert store.get("a").state is RunState.SUCCEEDED
    assert told == [f"{SILENT}; asking again"]
