"""The registry: what it keeps, what it refuses, and that many processes at once do it no harm."""

from __future__ import annotations

import itertools
import sqlite3
import time
from pathlib import Path

import pytest
from local_runs import plan_of, planned, python, single, sweep

from orchestrator.backends.base import Observation
from orchestrator.errors import LongshoreError, UsageError
from orchestrator.runs import RunStore
from orchestrator.states import FailureClass, RunState, Verdict
from trainer.run_dir import RunDir

NETWORK = "server:/home / nfs4 rw 0 0\n"
FAILED = Observation(RunState.FAILED, FailureClass.NAN, 1, "loss is not finite")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def store(home: Path) -> RunStore:
    ticks = itertools.count(1000)
    return RunStore(home, clock=lambda: float(next(ticks)))


def add(store: RunStore, run_id: str = "demo-1", key: str | None = None, *, again: bool = False) -> Verdict:
    return store.add_plan(single(store.home, run_id, "true\n", key=key), again=again)[0].verdict


def start(store: RunStore, run_id: str = "demo-1", handle: str = "h1") -> None:
    store.enqueue([run_id])
    claim(store)
    store.started(run_id, 1, handle)


def claim(store: RunStore, claimer: str = "me", gone: tuple[str, ...] = ()) -> list[str]:
    return [record.run_id for record, _ in store.claim_startable(claimer, lambda name: name in gone)]


# --- the file -----------------------------------------------------------------------------------------------------


def test_the_registry_uses_a_write_ahead_log(store: RunStore):
    [[mode]] = sqlite3.connect(store.path).execute("PRAGMA journal_mode")
    assert (store.path.name, mode, store.warnings) == ("registry.sqlite3", "wal", ())


def test_on_a_network_file_system_it_uses_a_rollback_journal_and_says_so(home: Path):
    store = RunStore(home, mounts=NETWORK)
    [[mode]] = sqlite3.connect(store.path).execute("PRAGMA journal_mode")
    assert mode == "delete"
    assert "network file system (nfs4)" in store.warnings[0]
    add(store)
    assert store.get("last").run_id == "demo-1"


def test_a_registry_that_moves_to_a_network_file_system_changes_its_journal(home: Path):
    here = RunStore(home)
    add(here)
    here.close()
    moved = RunStore(home, mounts=NETWORK)
    assert sqlite3.connect(moved.path).execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert moved.get("last").run_id == "demo-1"


def test_what_one_process_wrote_another_reads(store: RunStore, home: Path):
    add(store)
    assert RunStore(home).list() == store.list()


def test_a_registry_of_a_newer_version_is_refused(store: RunStore, home: Path):
    with sqlite3.connect(store.path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(LongshoreError, match=r"version 99, .*update longshore"):
        RunStore(home)


def test_a_file_that_is_no_registry_is_refused_and_left_as_it_is(home: Path):
    home.mkdir()
    (home / "registry.sqlite3").write_text("not a database, and much longer than the header of one " * 50)
    with pytest.raises(LongshoreError, match="file is not a database"):
        RunStore(home)
    assert (home / "registry.sqlite3").read_text().startswith("not a database")


def test_a_home_that_cannot_be_made_is_one_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(LongshoreError, match="Not a directory"):
        RunStore(tmp_path / "file" / "runs")


def test_many_processes_may_make_the_registry_at_once(home: Path):
    code = """
for _ in range(20):
    if os.fork() == 0:
        RunStore(Path(sys.argv[1])).list()
        os._exit(0)
print([os.wait()[1] for _ in range(20)])
"""
    output, errors = python(code, home).communicate(timeout=120)
    assert (output, errors) == (f"{[0] * 20}\n", "")
    assert sqlite3.connect(home / "registry.sqlite3").execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- adding -------------------------------------------------------------------------------------------------------


def test_a_new_run_is_submitting_until_it_queues(store: RunStore):
    add(store)
    record = store.get("demo-1")
    assert (record.state, record.attempt, record.handle, record.index) == (RunState.SUBMITTING, 0, None, None)
    store.enqueue(["demo-1"])
    assert store.get("demo-1").state is RunState.QUEUED


def test_a_run_whose_files_are_not_in_place_is_not_made(store: RunStore):
    """It went on when its submitter looked, so no files were written; then it failed."""
    add(store, key="same")
    start(store)
    store.observe({"demo-1": ("h1", FAILED)})
    [entry] = store.add_plan(single(store.home, "demo-2", "true\n", key="same"), ready=frozenset())
    assert (entry.record.run_id, entry.verdict) == ("demo-1", Verdict.ACTIVE)
    assert [record.run_id for record in store.list()] == ["demo-1"]


def test_members_of_a_sweep_know_it_their_number_and_what_sets_them_apart(store: RunStore):
    store.add_plan(sweep(store.home, "ants", ["true"] * 3))
    assert [(record.sweep_id, record.index, record.differs) for record in store.resolve("ants")] == [
        ("ants", index, {"seed": index}) for index in range(3)
    ]


def test_a_sweep_of_one_run_is_still_a_sweep(store: RunStore):
    store.add_plan(sweep(store.home, "ants", ["true"]))
    assert store.get("ants").index == 0


def test_an_unfinished_submission_is_finished_under_its_own_id(store: RunStore):
    assert add(store, "demo-1", key="same") is Verdict.NEW
    [again] = store.add_plan(single(store.home, "demo-2", "other", key="same"))
    assert (again.verdict, again.record.run_id) == (Verdict.FINISH, "demo-1")
    assert len(store.list()) == 1


def test_a_key_is_free_again_once_its_run_has_failed(store: RunStore):
    add(store, "demo-1", key="same")
    start(store)
    assert add(store, "demo-2", key="same") is Verdict.ACTIVE
    store.observe({"demo-1": ("h1", FAILED)})
    assert add(store, "demo-3", key="same") is Verdict.NEW
    found = store.find_by_key(store.get("demo-1").key)
    assert found is not None
    assert found.run_id == "demo-3"


def test_what_has_succeeded_is_done_unless_again_is_asked_for(store: RunStore):
    add(store, "demo-1", key="same")
    start(store)
    store.observe({"demo-1": ("h1", Observation(RunState.SUCCEEDED))})
    assert add(store, "demo-2", key="same") is Verdict.DONE
    assert add(store, "demo-3", key="same", again=True) is Verdict.NEW
    assert [record.run_id for record in store.list()] == ["demo-1", "demo-3"]


def test_only_the_members_of_a_sweep_that_are_missing_are_made_again(store: RunStore):
    first = [planned(store.home, f"a-{n}", "true", key=f"k{n}", index=n) for n in range(3)]
    store.add_plan(plan_of(store.home, *first, sweep="a"))
    store.request_cancel(["a-1"])
    second = [planned(store.home, f"b-{n}", "true", key=f"k{n}", index=n) for n in range(3)]
    registered = store.add_plan(plan_of(store.home, *second, sweep="b"))
    assert [entry.record.run_id for entry in registered] == ["a-0", "b-1", "a-2"]


def test_what_a_sweep_lacks_joins_it_in_the_place_of_what_had_failed_and_under_the_same_limit(store: RunStore):
    first = [planned(store.home, f"a-{n}", "true", key=f"k{n}", index=n) for n in range(3)]
    store.add_plan(plan_of(store.home, *first, sweep="a"), max_parallel=1)
    store.request_cancel(["a-1"])
    grown = [planned(store.home, f"b-{n}", "true", key=f"k{n}", index=n) for n in range(4)]
    store.add_plan(plan_of(store.home, *grown, sweep="b"), max_parallel=2)
    assert [record.run_id for record in store.resolve("a")] == ["a-0", "a-2", "b-1", "b-3"]
    assert store.get("a-1").state is RunState.CANCELLED
    store.enqueue([record.run_id for record in store.list(active=True)])
    assert claim(store) == ["a-0", "a-2"]


def test_a_sweep_that_is_asked_for_again_is_another_one(store: RunStore):
    for sweep_id in ("a", "b"):
        runs = [planned(store.home, f"{sweep_id}-{n}", "true", key=f"k{n}", index=n) for n in range(2)]
        store.add_plan(plan_of(store.home, *runs, sweep=sweep_id), again=True)
        for run in runs:
            start(store, run.run_id, run.run_id)
            store.observe({run.run_id: (run.run_id, Observation(RunState.SUCCEEDED))})
    assert [record.run_id for record in store.resolve("a")] == ["a-0", "a-1"]
    assert [record.run_id for record in store.resolve("b")] == ["b-0", "b-1"]


def test_a_run_id_that_is_taken_is_an_error_and_nothing_is_written(store: RunStore):
    add(store, "demo-1", key="one")
    with pytest.raises(LongshoreError, match="demo-1: this run id is taken; submit again"):
        add(store, "demo-1", key="two")
    taken = [planned(store.home, "x-0", "true"), planned(store.home, "demo-1", "true", key="three")]
    with pytest.raises(LongshoreError, match="taken"):
        store.add_plan(plan_of(store.home, *taken, sweep="x"))
    assert [record.run_id for record in store.list()] == ["demo-1"]


def test_secrets_are_in_the_registry_by_name_only(store: RunStore):
    store.add_plan(single(store.home, "demo-1", "true", secrets=("TOKEN",)))
    store.enqueue(["demo-1"])
    [(_, launch)] = store.claim_startable("me", lambda _: False)
    assert launch.request.secrets == ("TOKEN",)


def test_a_launch_comes_back_as_it_was_planned(store: RunStore):
    plan = single(store.home, "demo-1", "true", secrets=("TOKEN",))
    store.add_plan(plan)
    store.enqueue(["demo-1"])
    [(_, launch)] = store.claim_startable("me", lambda _: False)
    assert launch == plan.runs[0].launch


def test_a_sweep_of_a_thousand_runs_is_registered_and_listed_in_no_time(home: Path):
    script = "# as long as a real one\n" + "echo line\n" * 1000
    adding, listing = [], []
    for number in range(3):  # other tests run beside this one: what is lost to them is not the registry's
        store = RunStore(home / str(number))
        plan = sweep(home / str(number), "big", [script] * 1000)
        began = time.thread_time()
        store.add_plan(plan)
        added = time.thread_time()
        assert len(store.list()) == 1000
        adding.append(added - began)
        listing.append(time.thread_time() - added)
    assert min(adding) < 0.3
    assert min(listing) < 0.1


# --- changes ------------------------------------------------------------------------------------------------------


def test_every_change_is_an_event_with_its_time(store: RunStore):
    add(store)
    start(store)
    store.observe({"demo-1": ("h1", Observation(RunState.RUNNING))})
    store.observe({"demo-1": ("h1", FAILED)})
    events = store.events("demo-1")
    assert [(event.old, event.new) for event in events] == [
        (None, RunState.SUBMITTING),
        (RunState.SUBMITTING, RunState.QUEUED),
        (RunState.QUEUED, RunState.SETTING_UP),
        (RunState.SETTING_UP, RunState.RUNNING),
        (RunState.RUNNING, RunState.FAILED),
    ]
    assert events[-1].message == "loss is not finite"
    assert [event.time for event in events] == sorted(event.time for event in events)
    record = store.get("demo-1")
    assert (record.failure_class, record.message, record.updated) == (FailureClass.NAN, FAILED.message, events[-1].time)


def test_the_attempt_keeps_how_it_ended(store: RunStore):
    add(store)
    start(store)
    [attempt] = store.attempts("demo-1")
    assert (attempt.number, attempt.handle, attempt.ended) == (1, "h1", None)
    store.observe({"demo-1": ("h1", FAILED)})
    [attempt] = store.attempts("demo-1")
    assert (attempt.failure_class, attempt.exit_code, attempt.message) == (FailureClass.NAN, 1, "loss is not finite")
    assert attempt.ended is not None
    assert attempt.ended > attempt.started


@pytest.mark.parametrize(
    ("exit_code", "failure_class"),
    [(None, FailureClass.NODE_FAILURE), ("75\n", FailureClass.PREEMPTED), ("1\n", FailureClass.CRASH)],
)
def test_an_attempt_that_the_backend_has_followed_by_another_keeps_how_it_ended(
    store: RunStore, exit_code: str | None, failure_class: FailureClass
):
    add(store)
    start(store)
    folder = RunDir(store.home / "demo-1").attempt(1)
    folder.mkdir(parents=True)
    if exit_code is not None:
        (folder / "exit_code").write_text(exit_code)
    store.observe({"demo-1": ("h1", Observation(RunState.RUNNING, attempt=2))})
    first, second = store.attempts("demo-1")
    assert (first.failure_class, second.failure_class) == (failure_class, None)


def test_what_was_seen_of_another_attempt_or_after_the_end_changes_nothing(store: RunStore):
    add(store)
    start(store)
    assert store.observe({"demo-1": ("h0", FAILED)}) == ()
    assert store.observe({"demo-1": ("h1", Observation(RunState.SUCCEEDED))})
    assert store.observe({"demo-1": ("h1", FAILED)}) == ()
    assert store.get("demo-1").state is RunState.SUCCEEDED


def test_an_observation_that_says_nothing_new_writes_nothing(store: RunStore):
    add(store)
    start(store)
    before = store.get("demo-1")
    assert store.observe({"demo-1": ("h1", Observation(RunState.SETTING_UP))}) == ()
    assert store.get("demo-1") == before


def test_a_change_that_cannot_be_is_refused_and_leaves_no_trace(store: RunStore):
    add(store)
    with pytest.raises(LongshoreError, match="running cannot follow submitting"), store._transaction():
        store._move("demo-1", RunState.RUNNING)
    assert store.get("demo-1").state is RunState.SUBMITTING
    assert len(store.events("demo-1")) == 1


def test_a_run_that_was_not_started_is_cancelled_at_once(store: RunStore):
    add(store)
    assert store.request_cancel(["demo-1"]) == ()
    assert store.get("demo-1").state is RunState.CANCELLED
    assert claim(store) == []


def test_a_started_run_is_cancelled_when_it_has_ended(store: RunStore):
    add(store)
    start(store)
    [record] = store.request_cancel(["demo-1"])
    assert record.handle == "h1"
    assert store.get("demo-1").cancelling
    store.observe({"demo-1": ("h1", FAILED)})
    ended = store.get("demo-1")
    assert (ended.state, ended.failure_class) == (RunState.CANCELLED, None)


def test_cancelling_what_has_ended_changes_nothing(store: RunStore):
    add(store)
    start(store)
    store.observe({"demo-1": ("h1", FAILED)})
    assert store.request_cancel(["demo-1"]) == ()
    assert not store.get("demo-1").cancelling


# --- slots --------------------------------------------------------------------------------------------------------


def test_a_queued_run_is_given_to_one_claimer_while_that_lives(store: RunStore):
    add(store)
    store.enqueue(["demo-1"])
    assert claim(store, "one") == ["demo-1"]
    assert claim(store, "two") == []
    assert claim(store, "two", gone=("one",)) == ["demo-1"]
    assert claim(store, "one") == []


def test_a_run_that_could_not_be_started_may_be_claimed_again(store: RunStore):
    add(store)
    store.enqueue(["demo-1"])
    claim(store, "one")
    store.give_up_start("demo-1", "no bash")
    assert store.get("demo-1").message == "no bash"
    assert claim(store, "two") == ["demo-1"]


def test_a_sweep_starts_no_more_runs_than_it_may(store: RunStore):
    store.add_plan(sweep(store.home, "s", ["true"] * 5), max_parallel=2)
    store.add_plan(sweep(store.home, "free", ["true"] * 3))
    store.enqueue([record.run_id for record in store.list()])
    assert claim(store) == ["s-000", "s-001", "free-000", "free-001", "free-002"]
    store.started("s-000", 1, "h0")
    store.started("s-001", 1, "h1")
    assert "s-002" not in claim(store)
    store.observe({"s-001": ("h1", FAILED)})
    assert [run_id for run_id in claim(store) if run_id.startswith("s")] == ["s-002"]


def test_a_dead_claimers_run_keeps_its_slot(store: RunStore):
    store.add_plan(sweep(store.home, "s", ["true"] * 3), max_parallel=1)
    store.enqueue([record.run_id for record in store.list()])
    assert claim(store, "one") == ["s-000"]
    assert claim(store, "two", gone=("one",)) == ["s-000"]


# --- finding ------------------------------------------------------------------------------------------------------


def test_runs_are_listed_in_the_order_of_their_submission(store: RunStore):
    for run_id in ("c", "a", "b"):
        add(store, run_id)
    store.request_cancel(["a"])
    assert [record.run_id for record in store.list()] == ["c", "a", "b"]
    assert [record.run_id for record in store.list(active=True)] == ["c", "b"]


def test_get_wants_one_run_and_names_those_of_a_sweep(store: RunStore):
    store.add_plan(sweep(store.home, "ants", ["true"] * 2))
    assert [record.run_id for record in store.resolve("last")] == ["ants-000", "ants-001"]
    assert store.get("ants-001").index == 1
    with pytest.raises(UsageError, match="a sweep of 2 runs, name one of them: ants-000, ants-001"):
        store.get("ants")
    with pytest.raises(UsageError, match="no run is called 'bees'"):
        store.get("bees")
