"""docs/results.md and its curves are what the results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning.curves import Curve, over_last
from tools import results

HEAD = {"date": "2026-01-02", "machine": {"gpus": ["NVIDIA H200"]}, "versions": {"torch": "2"}}


def curve(seed: int, returns: list[float], **changes: Any) -> dict[str, Any]:
    points = range(1, len(returns) + 1)
    values = {"frames": [point * 20_000 for point in points], "seconds": [10.0 * point for point in points]}
    values |= {"seed": seed, "returns": returns, "optim_steps": 5, "finished": True, "episodes": [2] * len(returns)}
    return values | changes


def write(folder: Path, name: str, task: str, *curves: dict[str, Any], **settings: str) -> None:
    content = {**HEAD, "settings": {"task": task, **settings}, "figures": list(curves)}
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of results, with none yet but the published figures."""
    (tmp_path / "published.json").write_text((results.RESULTS / "published.json").read_text())
    return tmp_path


def test_the_page_is_current():
    page = (results.DOCS / "results.md").read_text(encoding="utf-8")
    assert page == results.main(), "run `make results`"


def test_the_pictures_show_the_results_that_there_are():
    known = results.learning_results()
    wanted = results.pictures(known)
    assert {path.name for path in results.DOCS.glob("learning-*.svg")} == set(wanted), "run `make results`"
    for file, names in wanted.items():
        shown = (results.DOCS / file).read_text(encoding="utf-8")
        assert results.fingerprint([known[name] for name in names]) in shown, "run `make results`"


def test_seeds_are_put_beside_what_was_published(folder: Path):
    one = curve(0, [10.0, 20.0, 100.0, 300.0, 500.0], trained_return=700.0)
    two = curve(1, [10.0, 20.0, 100.0, 400.0, 600.0], trained_return=800.0)
    write(folder, "learning-dmc-walker-walk-h200", "walker_walk", one, two)
    page = results.main(folder)
    assert "| `walker_walk` | 50,000 frames | 100,000 frames | 200,000 frames | without noise |" in page
    assert "| 518 (285, 592, 477, 702, 533) |" in page
    assert "\n| DreamerV3 | 60 (60, 60) | 450 (400, 500) |  | 700, 800 at 100,000 |" in page, "nobody came to 200,000"
    assert "(learning-walker-walk.svg)" in page
    assert "cartpole_swingup" not in page, "nobody has learnt it"


def test_seeds_that_did_not_come_so_far_have_no_mean(folder: Path):
    one, two = curve(0, [10.0, 20.0, 100.0, 300.0, 500.0], trained_return=700.0), curve(1, [10.0, 20.0, 100.0])
    write(folder, "learning-dmc-walker-walk-h200", "walker_walk", one, two)
    assert "\n| DreamerV3 | 60 (60, 60) | (400) |  |  |" in results.main(folder)


def test_variants_of_a_task_are_told_apart(folder: Path):
    write(folder, "learning-dmc-walker-walk-a-h200", "walker_walk", curve(0, [1.0]), variant="with more of it")
    write(folder, "learning-dmc-walker-walk-b-h200", "walker_walk", curve(0, [1.0]))
    for name, words in (("", ""), ("-two-gpus", "on two GPUs")):
        write(folder, f"learning-mjlab{name}-h200", "Mjlab-Cartpole-Swingup", curve(0, [1.0]), variant=words)
    page = results.main(folder)
    assert 0 < page.index("\n| DreamerV3 |") < page.index("\n| DreamerV3 with more of it |")
    assert "\nDreamerV3 with more of it: NVIDIA" in page
    assert "\n| DreamerV3, seed 0 |" in page
    assert "\n| DreamerV3 on two GPUs, seed 0 |" in page
    assert "\nDreamerV3 on two GPUs: NVIDIA" in page


def test_the_published_code_is_shown_beside_its_published_scores(folder: Path):
    for name, returns in (("", [10.0, 20.0, 100.0, 300.0, 500.0]), ("upstream-", [10.0, 20.0, 100.0, 200.0, 300.0])):
        write(folder, f"learning-{name}dmc-walker-walk-h100", "walker_walk", curve(0, returns), code="f8817c4")
    page = results.main(folder)
    assert "\n| DreamerV3 | 60 (60) | 400 (400) |  |" in page
    assert "\n| danijar/dreamerv3 at f8817c4 | 60 (60) | 250 (250) |  |" in page
    assert "\ndanijar/dreamerv3 at f8817c4: NVIDIA H200, 2026-01-02, torch 2 (`benchmarks/results/learning-up" in page
    beside = ["learning-dmc-walker-walk-h100", "learning-upstream-dmc-walker-walk-h100"]
    assert results.pictures(results.learning_results(folder)) == {"learning-walker-walk.svg": beside}


def test_ppo_and_ours_are_compared_by_frames_and_by_seconds(folder: Path):
    task = "Mjlab-Cartpole-Swingup"
    trained = {"trained_return": 45.2, "trained_frames": 50_000, "trained_seconds": 25.0}
    write(folder, "learning-mjlab-cartpole-swingup-h200", task, curve(2, [0.0, 39.0], episodes=[1, 1], **trained))
    write(folder, "learning-ppo-mjlab-cartpole-swingup-h200", task, curve(0, [39.0, 40.0, 42.0, 45.0], episodes=[]))
    page = results.main(folder)
    assert "| DreamerV3, seed 2 | never |  | 19.5 | 0.04 M | 20 | 45.2 at 0.05 M, 25 s |" in page
    assert "| PPO, seed 0 | 0.04 M | 20 | 45.0 | 0.08 M | 40 |  |" in page
    assert results.pictures(results.learning_results(folder)) == {
        "learning-mjlab-cartpole-swingup.svg": [
            "learning-mjlab-cartpole-swingup-h200",
            "learning-ppo-mjlab-cartpole-swingup-h200",
        ]
    }


def test_one_lucky_point_reaches_nothing():
    lucky = Curve(0, [1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0], [0.0, 50.0, 0.0, 0.0], 9, True, episodes=[60] * 4)
    assert results.reached(lucky, 40.0) is None


def test_a_few_failures_do_not_hide_the_many_episodes_before_them():
    together = Curve(0, [1, 2, 3], [1.0, 2.0, 3.0], [10.0, 60.0, 20.0], 9, True, episodes=[300, 900, 90])
    assert over_last(together, 100) == pytest.approx([10.0, 60.0, (60 * 900 + 20 * 90) / 990])


def test_the_same_figures_give_the_same_picture(tmp_path: Path):
    pytest.importorskip("matplotlib")
    content = {"learning-x": {"settings": {"task": "x"}, "figures": [curve(0, [1.0, 2.0])]}}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        results.draw(tmp_path / name / "curve.svg", content)
    one, two = ((tmp_path / name / "curve.svg").read_bytes() for name in ("one", "two"))
    assert one == two
    assert results.fingerprint(list(content.values())).encode() in one
