"""Durations and memory in Slurm's forms."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.jobfile.quantities import duration_seconds, memory_mib


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90 * 60),
        ("90:30", 90 * 60 + 30),
        ("24:00:00", 86_400),
        ("48:00:00", 2 * 86_400),
        ("1-12", 36 * 3600),
        ("1-12:30", 36 * 3600 + 30 * 60),
        ("1-12:30:15", 36 * 3600 + 30 * 60 + 15),
        ("0-0:1", 60),
        ("15s", 15),
        ("30m", 1800),
        ("2h", 7200),
        ("1d", 86_400),
    ],
)
def test_durations_are_read_as_slurm_reads_them(text, seconds):
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["25h:00", "24:61:00", "24:00:60", "1-24", "1-2-3", "1:2:3:4", "", "h", "-5", "1.5h", "30 m", "٣٠m", "5\n", "one"],
)
def test_other_durations_are_refused_with_the_accepted_forms(text):
    with pytest.raises(ValueError, match="is no duration; write HH:MM:SS, D-HH:MM:SS or minutes, as Slurm does"):
        duration_seconds(text)


@pytest.mark.parametrize("text", ["0", "0s", "00:00:00", "367d", "999999999"])
def test_durations_that_end_at_once_or_never_are_out_of_range(text):
    with pytest.raises(ValueError, match="out of range"):
        duration_seconds(text)


@pytest.mark.parametrize(
    ("text", "mib"), [("128G", 131_072), ("500M", 500), ("500", 500), ("1T", 1 << 20), ("1025K", 2), ("4g", 4096)]
)
def test_memory_is_read_as_slurm_reads_it(text, mib):
    assert memory_mib(text) == mib


@pytest.mark.parametrize("text", ["128GB", "1.5G", "G", "-1", "", "12 G", "１G", "0", "2000T"])
def test_other_amounts_of_memory_are_refused(text):
    with pytest.raises(ValueError, match=r"is no amount of memory|is out of range"):
        memory_mib(text)


@given(st.integers(0, 300), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_every_clock_time_means_its_seconds(days, hours, minutes, seconds):
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total:
        assert duration_seconds(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == total
        assert duration_seconds(f"{days * 24 + hours}:{minutes:02}:{seconds:02}") == total


@given(st.text(max_size=20))
def test_any_text_is_a_quantity_or_a_value_error(text):
    for parse in (duration_seconds, memory_mib):
        with contextlib.suppress(ValueError):
            assert parse(text) > 0
