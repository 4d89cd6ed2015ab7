"""Figures that are told come from result files: pages are written from them, and the README repeats the pages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tools import performance, results, scaling

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"performance.md": performance, "results.md": results, "scaling.md": scaling}
# A number and what it counts, of things that only a measurement can tell.
RATE = r"(?:frames|steps|optimiser steps)(?:/s| a second)"
FIGURE = re.compile(rf"(\d[\d,]*(?:\.\d+)?)\s?(M |k )?({RATE}|ms\b|µs\b|fps\b|GiB\b|GB/s|MB/s)")
# What is said without being measured: the limit that sorts kernels, and the link of a node.
OWN_WORDS = {"performance.md": {"8"}, "scaling.md": {f"{scaling.LINK:g}"}}


def figures_of(text: str) -> set[str]:
    return {number for number, *_ in FIGURE.findall(text)}


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_written_from_the_result_files(name: str):
    page = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert page == PAGES[name].main(), "run `make performance results`"


def scaled(value: Any, factor: float) -> Any:
    """The same results, every measured number another one."""
    match value:
        case float():
            return value * factor
        case dict():
            return {key: value[key] if key == "settings" else scaled(value[key], factor) for key in value}
        case list():
            return [scaled(item, factor) for item in value]
        case _:
            return value


@pytest.mark.parametrize("name", OWN_WORDS)
def test_figures_of_a_page_change_with_the_results(name: str, tmp_path: Path):
    for path in performance.RESULTS.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        (tmp_path / path.name).write_text(json.dumps(scaled(content, 1.613)), encoding="utf-8")
    before, after = (figures_of(PAGES[name].main(folder)) for folder in (performance.RESULTS, tmp_path))
    assert before, "there are figures"
    assert before & after <= OWN_WORDS[name]


def test_the_readme_repeats_figures_of_the_pages_alone():
    pages = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in PAGES)
    known = set(re.findall(r"\d[\d,]*(?:\.\d+)?", pages))
    assert figures_of((ROOT / "README.md").read_text(encoding="utf-8")) <= known


def test_figures_are_found_where_they_are_told():
    told = "It takes 18.3 optimiser steps/s, 1,234 frames/s or 7 ms, and 9.5 GiB; Python 3.11, two cores."
    assert figures_of(told) == {"18.3", "1,234", "7", "9.5"}
