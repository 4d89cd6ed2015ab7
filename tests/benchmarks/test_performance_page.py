"""docs/performance.md is what the results say."""

from __future__ import annotations

from pathlib import Path

from tools import performance

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_current():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert page == performance.main(), "run `make performance`"


def test_every_result_has_a_place_on_the_page():
    prefixes = [prefix for prefix, *_ in performance.SECTIONS] + [
        "learning",
        "published",
        "actors",
    ]  # docs/results.md, docs/scaling.md
    for path in performance.RESULTS.glob("*.json"):
        assert any(path.stem == prefix or path.stem.startswith(prefix + "-") for prefix in prefixes), path.name
