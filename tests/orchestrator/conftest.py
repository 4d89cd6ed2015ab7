"""A folder of runs, and its registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.runs import RunStore
from tests.orchestrator.local_runs import home_of_runs


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """For runs; what a failing test leaves running is killed."""
    with home_of_runs(tmp_path) as folder:
        yield folder


@pytest.fixture
def store(home: Path) -> RunStore:
    return RunStore(home)
