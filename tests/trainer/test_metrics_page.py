"""docs/metrics.md says what is logged, no more and no less: by both agents and pipelines, from states and images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trainer.test_sync_pipeline import make_context
from trainer.pipelines import sync_loop
from trainer.run_dir import RunDir
from trainer.simulators.base import Space
from trainer.simulators.debug import DebugSimulator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([\w/…]+)` \| ([^|]+) \| ([^|]+) \| (?:`?([\w= ]+?)`? )?\|$", re.MULTILINE)
ROWS = ROW.findall(PAGE)
AGENTS, PIPELINES = ("dreamer_v3", "dreamer"), ("sync", "async")
REPORTS = "a task that reports"
EVALUATED = "eval.fraction=0.25"  # one of four environments


class ImageSimulator(DebugSimulator):
    """The debug simulator seen by a camera: the position's signs in the four quarters of an image."""

    observation: Mapping[str, Space] = {"pixels": Space((16, 16, 3), torch.uint8)}

    def _observe(self) -> dict[str, Tensor]:
        image = torch.zeros(self.environments, 16, 16, 3, dtype=torch.uint8)
        image[:, :8, :8, 0] = torch.where(self._position[:, 0] > 0, 255, 0).view(-1, 1, 1)
        image[:, 8:, 8:, 1] = torch.where(self._position[:, 1] > 0, 255, 0).view(-1, 1, 1)
        return {"pixels": image.to(self._device)}


def expected(*settings: str) -> set[str]:
    """Names of the page that a run with these settings logs."""
    return {name for name, _, _, only_with in ROWS if not only_with or only_with in settings}


def logged(folder: Path) -> set[str]:
    names = {name for line in RunDir(folder).read_metrics() for name in line}
    return {"task/…" if name.startswith("task/") else name for name in names}


def test_each_row_of_the_page_is_read_and_says_unit_and_meaning():
    assert len(ROWS) == len(re.findall(r"^\| `", PAGE, re.MULTILINE))
    assert len({name for name, *_ in ROWS}) == len(ROWS)
    assert all(unit.strip() and meaning.strip() for _, unit, meaning, _ in ROWS)
    known = {f"agent={agent}" for agent in AGENTS} | {f"pipeline={pipeline}" for pipeline in PIPELINES}
    known |= {REPORTS, "a GPU", "two GPUs"}
    assert {only_with for *_, only_with in ROWS if only_with} <= known


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("agent", AGENTS)
def test_the_page_names_what_is_logged(tmp_path: Path, agent: str, pipeline: str):
    settings = [f"agent={agent}", f"pipeline={pipeline}"]
    more = ["optimization.total_optim_steps=60"] if pipeline == "async" else []  # the simulator is ahead at the start
    done = subprocess.run(
        [sys.executable, "-m", "trainer", "experiment=debug", *settings, *more, EVALUATED],
        env=os.environ | {"PYTHONPATH": str(ROOT), "LONGSHORE_RUN_DIR": str(tmp_path / "run")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert logged(tmp_path / "run") == expected(*settings, REPORTS)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_page_names_what_is_logged_where_an_agent_sees_images(
    tmp_path: Path, agent: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(
        sync_loop, "make_simulator", lambda config, seed, device, *_: ImageSimulator(config, seed, device)
    )
    settings = [f"agent={agent}", "pipeline=sync"]
    context = make_context(tmp_path, *settings, "env.observation_key=pixels", EVALUATED)
    sync_loop.SyncPipeline(context).run()
    assert logged(tmp_path) == expected(*settings, REPORTS)
