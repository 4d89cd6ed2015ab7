"""Successive halving: the same runs go on whenever anybody looks, and the others end as stopped, not as failed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_runs import SUCCEED, backend_for, plan_of, planned

from orchestrator.backends.base import Observation
from orchestrator.backends.local import LocalBackend
from orchestrator.errors import SpecError
from orchestrator.halving import StopRule, losers, value_at
from orchestrator.resume import resume
from orchestrator.runs import RunStore
from orchestrator.spec import load_job
from orchestrator.states import RunState
from orchestrator.submit import execute
from orchestrator.waiting import wait
from orchestrator.watch import refresh
from tests.waiting import eventually
from trainer.run_dir import Phase, RunDir, Status

RULE = StopRule("eval/return", at=(0.25, 0.5), keep=0.5)
# As the trainer does: goes on until it is told to stop or its test says so, and says what has become of it.
TRAINER = """
until [ -e stop ] || [ -e go ]; do sleep 0.02; done
if [ -e go ]; then echo {} >SUCCESS; exit; fi
printf '{"class": "stopped", "message": "%s", "exit_code": 75, "attempt": %d}' "$(cat stop)" "$LONGSHORE_ATTEMPT" \
  >failure.json
echo 75 >"attempts/$LONGSHORE_ATTEMPT/exit_code"
exit 75
"""


def submitted(store: RunStore, runs: int, rule: StopRule = RULE) -> list[str]:
    members = [planned(store.home, f"s-{n}", f"cd {store.home}/s-{n}\n{TRAINER}", index=n) for n in range(runs)]
    plan = replace(plan_of(store.home, *members, sweep="s", max_parallel=runs), stop=rule)
    return [result.run_id for result in execute(plan, store, LocalBackend(), {})]


def reached(store: RunStore, run_id: str, step: int, value: float) -> None:
    """The run logs a value at a step of a hundred."""
    run_dir = RunDir(store.home / run_id)
    with run_dir.metrics.open("a") as file:
        file.write(json.dumps({"step": step, "eval/return": value}) + "\n")
    run_dir.write_status(Status(Phase.TRAINING, step, 100))


def states(store: RunStore) -> list[str]:
    refresh(store, backend_for)
    return [str(record.state) for record in store.resolve("s")]


def test_a_run_is_stopped_once_as_many_are_better_as_may_go_on():
    assert losers(RULE, {"a": [3.0], "b": [2.0], "c": [1.0]}, runs=4).keys() == {"c"}
    assert losers(RULE, {"a": [3.0], "b": [2.0]}, runs=4) == {}
    assert losers(RULE, {"a": [3.0, 1.0], "b": [2.0, 5.0], "c": [1.0, 9.0], "d": [0.0]}, runs=4).keys() == {
        *("a", "c", "d")  # c was better in the end, and is not asked any more
    }


def test_one_always_goes_on():
    assert RULE.places(1) == [1, 1]
    assert RULE.places(9) == [5, 3]
    assert StopRule("m", (0.1,), 0.01).places(7) == [1]


@given(st.permutations(range(8)))
def test_who_goes_on_does_not_hang_on_the_order_in_which_they_come(order: list[int]):
    """Each run is stopped as soon as it can be, and none of those that the full comparison keeps."""
    final = set(losers(RULE, {str(run): [run, run] for run in range(8)}, runs=8))
    so_far: dict[str, list[float]] = {str(run): [] for run in range(8)}
    stopped: set[str] = set()
    for point in (0, 1):
        for run in order:
            if str(run) not in stopped:
                so_far[str(run)] = [run] * (point + 1)
                stopped |= losers(RULE, so_far, runs=8).keys()
    assert stopped == final == {"0", "1", "2", "3", "4", "5"}


def test_the_value_that_counts_is_the_first_from_the_point_on():
    lines = [{"step": 10, "m": 1.0}, {"step": 24, "x": 9.0}, {"step": 26, "m": 2.0}, {"step": 40, "m": 3.0}]
    assert (value_at(lines, "m", 25), value_at(lines, "m", 41), value_at(lines, "none", 1)) == (2.0, None, None)
    assert value_at([{"step": 1, "m": float("nan")}], "m", 1) == float("-inf")


def test_the_worse_half_saves_itself_and_is_stopped_and_the_sweep_is_done_when_the_rest_is(store: RunStore):
    ids = submitted(store, 4)
    for number, run_id in enumerate(ids):
        reached(store, run_id, 30, float(number))
    eventually(lambda: states(store) == ["stopped", "stopped", "running", "running"])
    record = store.get(ids[0])
    assert (record.failure_class, record.attempt) == (None, 1)
    assert record.message == "stopped by its sweep: eval/return of 0 at 25% of its steps is not among the best 2"
    reached(store, ids[2], 55, 7.0)
    reached(store, ids[3], 55, 6.0)
    eventually(lambda: states(store)[3] == "stopped")
    (store.home / ids[2] / "go").touch()
    ended = wait(store, backend_for, ids, timeout=30, interval=0.05)
    assert [str(record.state) for record in ended] == ["stopped", "stopped", "succeeded", "stopped"]


def test_a_run_that_failed_before_the_first_point_takes_nobodys_place(store: RunStore):
    ids = submitted(store, 3)
    store.observe({ids[0]: (store.get(ids[0]).handle or "", Observation(RunState.FAILED))})
    reached(store, ids[1], 30, 1.0)
    reached(store, ids[2], 30, 2.0)
    eventually(lambda: states(store)[1] == "stopped")
    assert states(store)[2] in {"running", "setting-up"}


def test_a_stopped_run_is_done_and_goes_on_by_hand_alone(store: RunStore):
    ids = submitted(store, 2)
    for number, run_id in enumerate(ids):
        reached(store, run_id, 30, float(number))
    eventually(lambda: states(store)[0] == "stopped")
    members = [planned(store.home, f"t-{n}", SUCCEED, key=f"s-{n}", index=n) for n in range(2)]
    again = execute(plan_of(store.home, *members, sweep="t"), store, LocalBackend(), {})
    assert [result.run_id for result in again] == ids
    assert again[0].message == f"{ids[0]}: stopped already; --again makes another run"
    resume(store, store.get(ids[0]), [], None)
    refresh(store, backend_for)
    refresh(store, backend_for)
    assert not RunDir(store.home / ids[0]).stop.exists()
    (store.home / ids[0] / "go").touch()
    assert wait(store, backend_for, [ids[0]], timeout=30, interval=0.05)[0].state is RunState.SUCCEEDED


@pytest.mark.parametrize(
    ("stop", "problem"),
    [
        ("{metric: eval/return, at: [0.5, 0.25]}", "sweep.stop.at: must ascend: [0.25, 0.5]"),
        ("{metric: eval/return, at: [25]}", "sweep.stop.at.0: 25 is no share; write a number between 0 and 1"),
        ("{metric: eval/return, at: [0.5], keep: 1}", "sweep.stop.keep: 1 is no share"),
        ("{metric: a b, at: [0.5]}", "sweep.stop.metric: 'a b' is no metric; write a name of metrics.jsonl"),
        ("{at: [0.5]}", "sweep.stop.metric: is missing"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(tmp_path: Path, stop: str, problem: str):
    path = tmp_path / "job.yaml"
    path.write_text(f"name: tiny\nbackend: local\nsweep: {{seed: [1, 2], stop: {stop}}}\n")
    with pytest.raises(SpecError) as caught:
        load_job(path)
    assert problem in str(caught.value)


def test_where_run_directories_are_elsewhere_nothing_can_be_judged(tmp_path: Path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: tiny\nbackend: steve\nimage: image:1\nsweep: {seed: [1, 2], stop: {metric: eval/return, at: [0.5]}}\n"
    )
    with pytest.raises(SpecError, match="needs run directories that this machine sees"):
        load_job(path)
