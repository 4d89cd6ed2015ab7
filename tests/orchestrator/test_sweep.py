"""Sweeps: which runs they make, in which order, and which of them are refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.jobfile.job import JobSpec
from orchestrator.jobfile.sweep import Sweep
from orchestrator.spec import load_job
from orchestrator.sweep import expand


def job_with(sweep, **train):
    return JobSpec.model_validate({"name": "tiny", "backend": "local", "train": train, "sweep": sweep})


def rows(sweep):
    return [tuple(member.differs.values()) for member in expand(job_with(sweep))]


def test_a_job_without_a_sweep_is_one_run():
    job = job_with(None, seed=1)
    (member,) = expand(job)
    assert (member.index, member.name, member.job, member.differs) == (0, "tiny", job, {})


def test_axes_are_multiplied_and_the_last_varies_fastest():
    assert rows({"env.name": ["a", "b"], "seed": [0, 1]}) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_zipped_lists_go_together():
    assert rows({"zip": {"a": [1, 2], "b": [3, 4]}, "seed": [0, 1]}) == [(1, 3, 0), (1, 3, 1), (2, 4, 0), (2, 4, 1)]


def test_listed_runs_may_set_different_keys():
    assert [member.differs for member in expand(job_with({"list": [{"a": 1}, {"b": 2, "c": 3}]}))] == [
        {"a": 1},
        {"b": 2, "c": 3},
    ]


def test_excluded_pairs_are_left_out():
    assert rows({"a": [1, 2], "b": [1, 2], "exclude": [{"a": 1, "b": 2}]}) == [(1, 1), (2, 1), (2, 2)]


def test_a_partial_match_leaves_out_every_run_that_has_it():
    assert rows({"a": [1, 2], "b": [1, 2], "c": [3, 4], "exclude": [{"a": 1}, {"b": 2, "c": 4}]}) == [
        (2, 1, 3),
        (2, 1, 4),
        (2, 2, 3),
    ]


def test_each_run_is_a_whole_job_without_a_sweep():
    members = expand(job_with({"seed": [7, 8]}, **{"env.name": "x", "seed": 1}))
    assert [member.job.train for member in members] == [{"env.name": "x", "seed": 7}, {"env.name": "x", "seed": 8}]
    assert [member.name for member in members] == ["tiny seed=7", "tiny seed=8"]
    assert all(member.job.sweep is None for member in members)


def test_lists_are_values_of_an_axis_too():
    assert rows({"layers": [[1, 2], [3]]}) == [([1, 2],), ([3],)]


@pytest.mark.parametrize(
    ("sweep", "problem"),
    [
        ("{max_parallel: 2}", "4:8: sweep: varies nothing; write KEY: [VALUE, …]"),
        ("{seed: 3}", "4:15: sweep.seed: 3 is no list; write [A, B]"),
        ("{seed: []}", "4:15: sweep.seed: is an empty list"),
        ("{seed: [1, 1]}", "4:19: sweep.seed.1: 1 stands twice; each run is started once"),
        (
            "{zip: {seed: [1, 2], threads: [1]}}",
            "4:14: sweep.zip: its lists have 1 and 2 values; write as many in each",
        ),
        ("{seed: [1], zip: {seed: [2]}}", "4:15: sweep.seed: stands in zip too; vary a key in one place"),
        ("{list: [{seed: 1}], seed: [2]}", "4:34: sweep.seed: stands in list too; vary a key in one place"),
        ("{seed: [1, 2], exclude: [{seed: 3}]}", "4:33: sweep.exclude.0: matches no run"),
        ("{seed: [1], exclude: [{seed: 1}]}", "4:29: sweep.exclude: leaves no run"),
        ("{seed: [1], max_parallel: 0}", "4:34: sweep.max_parallel: 0 is too small; write 1 or more"),
        (
            "{list: [{seed: 1}, {seed: 2}, {seed: 1}]}",
            "4:8: sweep: makes a run twice: seed=1; each run is started once",
        ),
        ("{sed: [1]}", "4:9: sweep.sed: the trainer has no such setting; did you mean 'seed'?"),
        ("{seed: [one]}", "4:16: sweep.seed: 'one' is not accepted; write a whole number"),
        ("[1]", "4:8: sweep: a list is no mapping; write KEY: VALUE pairs"),
    ],
)
def test_a_sweep_that_cannot_be_meant_is_refused(tmp_path, sweep, problem):
    path = tmp_path / "job.yaml"
    path.write_text(f"name: tiny\nbackend: local\ntrain: {{}}\nsweep: {sweep}\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        load_job(path)
    assert str(caught.value).replace(f"{path}:", "").startswith(problem)


def test_a_sweep_of_millions_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match="makes 1,000,000,000 runs; 10,000 are accepted"):
        Sweep.model_validate({key: list(range(1000)) for key in ("a", "b", "c")})


def test_a_thousand_runs_take_well_under_a_second(tmp_path):
    path = tmp_path / "job.yaml"
    seeds = ", ".join(map(str, range(250)))
    path.write_text(
        f"name: tiny\nbackend: local\nsweep: {{seed: [{seeds}], env.num_envs: [1, 2, 3, 4]}}\n", encoding="utf-8"
    )
    before = time.process_time()
    members = expand(load_job(path))
    assert len(members) == 1000
    assert time.process_time() - before < 0.8


AXES = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True), min_size=1
)


@given(AXES)
def test_every_combination_is_run_exactly_once(axes):
    found = [tuple(sorted(member.differs.items())) for member in expand(job_with(axes))]
    count = 1
    for values in axes.values():
        count *= len(values)
    assert len(found) == len(set(found)) == count
