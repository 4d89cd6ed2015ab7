"""The replay ratio: neither side far ahead, and never both waiting."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.pipelines.balance import Balance


@given(
    ratio=st.floats(1e-3, 1e3),
    batch=st.integers(1, 5000),
    chunk=st.integers(1, 5000),
    eager=st.lists(st.sampled_from(["learner", "simulator"]), min_size=1, max_size=60),
)
def test_neither_side_gets_further_ahead_than_the_slack_and_one_of_them_may_always_go_on(
    ratio: float, batch: int, chunk: int, eager: list[Literal["learner", "simulator"]]
):
    """Whoever is eager goes on where it may; what is collected counts at once for the one and later for the other."""
    balance = Balance(ratio, batch, chunk)
    begun = 0  # frames collected or being collected
    for side in eager:
        may_collect = begun + chunk <= balance.permitted()
        assert balance.may_learn() or may_collect or begun > balance.collected
        if side == "simulator" and may_collect:
            begun += chunk
        elif side == "simulator":
            balance.collected = begun  # the learner takes in what there is
        elif balance.may_learn():
            balance.trained += batch
        lead = balance.trained - ratio * begun
        assert -balance.slack * (1 + 1e-9) <= lead
        assert balance.trained - ratio * balance.collected <= balance.slack * (1 + 1e-9)


def test_both_may_go_on_at_the_same_time():
    balance = Balance(ratio=4, batch=32, chunk=64)
    assert balance.may_learn()
    assert balance.permitted() >= 64


def test_the_slack_is_one_chunk_and_one_step():
    balance = Balance(ratio=4, batch=32, chunk=64)
    assert balance.slack == 4 * 64 + 32
    assert balance.permitted() == 64
    while balance.may_learn():
        balance.trained += 32
    assert balance.trained == 4 * 64 + 32


def test_without_a_ratio_nobody_waits():
    balance = Balance(None, batch=32, chunk=64, trained=10**9)
    assert balance.may_learn()
    assert balance.permitted() == math.inf


@pytest.mark.parametrize("ratio", [0.1, 0.3, 1 / 3, 7.7])
def test_a_ratio_that_is_no_round_number_stops_nobody(ratio: float):
    balance = Balance(ratio, batch=32, chunk=64)
    for _ in range(10_000):
        if balance.may_learn():
            balance.trained += 32
        elif balance.collected + 64 <= balance.permitted():
            balance.collected += 64
        else:
            pytest.fail("both wait")
    assert balance.trained / balance.collected == pytest.approx(ratio, rel=0.05)
