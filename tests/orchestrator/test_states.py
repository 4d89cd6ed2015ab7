"""The table of run states, looked at from every side."""

import itertools

import pytest

from orchestrator.states import MAY_FOLLOW, TERMINAL, RunState, Verdict, judge, may_follow, next_state
from trainer.run_dir import FailureClass

# Rows: where a run stands. Columns: what its backend says, in the same order. Entries: where it stands then.
COLUMNS = "planned submitting queued setting-up running requeued succeeded failed cancelled stopped"
NEXT = """
planned   planned   submitting planned   planned   planned   planned   planned   planned   cancelled planned
submitting submitting submitting queued    submitting submitting submitting submitting submitting cancelled submitting
queued    queued    queued    queued    setting-up running   requeued  succeeded failed    cancelled stopped
setting-up setting-up setting-up requeued  setting-up running   requeued  succeeded failed    cancelled stopped
running   running   running   requeued  running   running   requeued  succeeded failed    cancelled stopped
requeued  requeued  requeued  queued    setting-up running   requeued  succeeded failed    cancelled stopped
succeeded succeeded succeeded succeeded succeeded succeeded succeeded succeeded succeeded succeeded succeeded
failed    failed    failed    failed    failed    failed    failed    failed    failed    failed    failed
cancelled cancelled cancelled cancelled cancelled cancelled cancelled cancelled cancelled cancelled cancelled
stopped   stopped   stopped   stopped   stopped   stopped   stopped   stopped   stopped   stopped   stopped
"""
TABLE = {
    (RunState(row.split()[0]), RunState(observed)): RunState(new)
    for row in NEXT.strip().splitlines()
    for observed, new in zip(COLUMNS.split(), row.split()[1:], strict=True)
}


def test_the_table_has_an_entry_for_every_pair():
    assert set(TABLE) == set(itertools.product(RunState, RunState))


@pytest.mark.parametrize(("old", "observed"), TABLE)
def test_a_run_goes_where_the_table_says(old: RunState, observed: RunState):
    assert next_state(old, observed) is TABLE[old, observed]


@pytest.mark.parametrize(("old", "observed"), TABLE)
def test_every_step_that_is_taken_is_an_allowed_one(old: RunState, observed: RunState):
    for cancelling in (False, True):
        new = next_state(old, observed, cancelling=cancelling)
        assert new is old or may_follow(old, new)


@pytest.mark.parametrize(("old", "observed"), TABLE)
def test_a_run_that_is_being_cancelled_does_not_fail(old: RunState, observed: RunState):
    meant = RunState.CANCELLED if observed is RunState.FAILED else observed
    assert next_state(old, observed, cancelling=True) is TABLE[old, meant]


def test_success_that_came_before_the_cancel_stays_success():
    assert next_state(RunState.RUNNING, RunState.SUCCEEDED, cancelling=True) is RunState.SUCCEEDED


def test_after_the_end_a_run_can_be_resumed_alone_and_before_it_be_cancelled():
    for state in RunState:
        assert (MAY_FOLLOW[state] == {RunState.REQUEUED}) == (state in TERMINAL)
        assert may_follow(state, RunState.CANCELLED) == (state not in TERMINAL)


def test_staying_is_no_step():
    assert not any(may_follow(state, state) for state in RunState)


def test_every_state_can_be_reached_from_planned():
    reached = {RunState.PLANNED}
    while more := {new for old in reached for new in MAY_FOLLOW[old]} - reached:
        reached |= more
    assert reached == set(RunState)


@pytest.mark.parametrize(
    ("last", "again", "verdict"),
    [
        (None, False, Verdict.NEW),
        (RunState.PLANNED, False, Verdict.FINISH),
        (RunState.SUBMITTING, False, Verdict.FINISH),
        (RunState.QUEUED, False, Verdict.ACTIVE),
        (RunState.SETTING_UP, False, Verdict.ACTIVE),
        (RunState.RUNNING, False, Verdict.ACTIVE),
        (RunState.REQUEUED, False, Verdict.ACTIVE),
        (RunState.SUCCEEDED, False, Verdict.DONE),
        (RunState.FAILED, False, Verdict.NEW),
        (RunState.CANCELLED, False, Verdict.NEW),
        (RunState.SUCCEEDED, True, Verdict.NEW),
        (RunState.RUNNING, True, Verdict.ACTIVE),
        (RunState.SUBMITTING, True, Verdict.FINISH),
    ],
)
def test_submitting_again_means(last: RunState | None, again: bool, verdict: Verdict):
    assert judge(last, again=again) is verdict


def test_the_failure_classes_are_those_of_the_run_directory():
    from orchestrator import states

    assert states.FailureClass is FailureClass
