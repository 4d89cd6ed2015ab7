"""Figures that pages quote are figures that a benchmark has measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# Of each page: the result, what is no figure, and how the page rounds.
PAGES = {"export.md": "export-cpu.json", "report.md": "report-cpu.json", "videos.md": "video-cpu.json"}
FORMATS = ("{:.1f}", "{:.2f}", "{:.1e}")
FIGURE = re.compile(r"(?<![\w.])\d+\.\d+(?:e-\d+)?(?![\w.])")
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)


def measured(name: str) -> Iterator[str]:
    for figure in json.loads((RESULTS / name).read_text(encoding="utf-8"))["figures"]:
        for value in figure.values():
            if isinstance(value, float):
                yield from (how.format(value) for how in FORMATS)


@pytest.mark.parametrize("page", PAGES)
def test_each_figure_of_the_page_was_measured(page: str):
    text = CODE.sub("", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    figures = set(FIGURE.findall(text)) - {"127.0"}
    assert figures, "the page quotes what was measured"
    assert figures <= set(measured(PAGES[page])), "run the benchmark again, or quote what it says"
