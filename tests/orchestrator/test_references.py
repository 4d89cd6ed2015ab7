"""What RUN on the command line may be."""

import pytest

from orchestrator.errors import UsageError
from orchestrator.references import match_reference

RUNS = [
    ("ant-260101-120000-aaaa", None),
    ("ant-260101-130000-bbbb", None),
    ("walk-260102-090000-cccc-000", "walk-260102-090000-cccc"),
    ("walk-260102-090000-cccc-001", "walk-260102-090000-cccc"),
    ("quick-260103-090000-dddd", None),
]
SWEEP = ("walk-260102-090000-cccc-000", "walk-260102-090000-cccc-001")


@pytest.mark.parametrize(
    ("reference", "ids"),
    [
        ("ant-260101-120000-aaaa", ("ant-260101-120000-aaaa",)),
        ("ant-260101-13", ("ant-260101-130000-bbbb",)),
        ("q", ("quick-260103-090000-dddd",)),
        ("last", ("quick-260103-090000-dddd",)),
        ("walk-260102-090000-cccc", SWEEP),
        ("walk", SWEEP),
        ("walk-260102-090000-cccc-001", ("walk-260102-090000-cccc-001",)),
    ],
)
def test_a_reference_is_an_id_a_unique_prefix_or_last(reference: str, ids: tuple[str, ...]):
    assert match_reference(reference, RUNS) == ids


def test_last_after_a_sweep_is_the_whole_sweep():
    assert match_reference("last", RUNS[:4]) == SWEEP


def test_an_exact_id_wins_over_longer_ones_that_begin_with_it():
    assert match_reference("a", [("a", None), ("ab", None)]) == ("a",)


@pytest.mark.parametrize("reference", ["ant", "walk-260102-090000-cccc-00"])
def test_an_ambiguous_prefix_lists_what_it_may_be(reference: str):
    with pytest.raises(UsageError, match="may be any of") as caught:
        match_reference(reference, RUNS)
    assert all(run_id in str(caught.value) for run_id, _ in RUNS if run_id.startswith(reference))


def test_a_typing_error_gets_the_nearest_name():
    with pytest.raises(UsageError, match="did you mean quick-260103-090000-dddd"):
        match_reference("qiuck-260103-090000-dddd", RUNS)


@pytest.mark.parametrize("reference", ["", "zzz", "%", "_", "*"])
def test_what_nothing_is_called_is_an_error_that_names_the_last_runs(reference: str):
    with pytest.raises(UsageError, match="no run is called"):
        match_reference(reference, RUNS)


@pytest.mark.parametrize("reference", ["last", "ant"])
def test_before_the_first_run_the_error_says_so(reference: str):
    with pytest.raises(UsageError, match="there are no runs yet"):
        match_reference(reference, [])


def test_a_long_list_of_candidates_is_cut():
    runs = [(f"a-{index}", None) for index in range(100)]
    with pytest.raises(UsageError, match="and 92 more"):
        match_reference("a-", runs)
