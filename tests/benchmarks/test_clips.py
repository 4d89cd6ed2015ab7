"""What a clip takes is measured on any simulator that can be filmed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.clips import main

SMALL = ["experiment=debug", "device=cpu", "video.length=20", "video.environments=2"]


def test_clips_are_filmed_and_a_task_replaces_its_own_figure_alone(tmp_path: Path):
    path = tmp_path / "clips.json"
    for _ in range(2):
        main([*SMALL, "video.enabled=true", "--json", str(path)])
    [figure] = json.loads(path.read_text())["figures"]
    assert (figure["task"], figure["filmed"], figure["steps"], figure["files"]) == ("Debug-Reach", "view", 20, 3)
    assert 0 < figure["clip_s"] < 60
    assert figure["every_minutes"] == pytest.approx(figure["clip_s"] / 0.01 / 60)


def test_a_config_that_films_nothing_is_said():
    with pytest.raises(SystemExit, match="nothing is filmed"):
        main(SMALL)
