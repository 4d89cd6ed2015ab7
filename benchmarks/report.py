"""The page about runs: how large it is, how long it takes to write, and until Chromium has painted it.

    python benchmarks/report.py [--json [FILE]]

The runs are made up by the tests. Without Chromium nothing is measured.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

from playwright.sync_api import Browser, sync_playwright

from benchmarks.results import save_result
from orchestrator.report.collect import collect
from orchestrator.report.page import render
from tests.orchestrator.report_runs import START, make_runs

ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
TIMES = 3  # the fastest counts


@dataclass(frozen=True)
class Figure:
    """Of a page about so many runs of 300 lines each."""

    runs: int
    megabytes: float
    written_s: float
    painted_s: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", nargs="?", type=Path, const=Path(), metavar="FILE")
    arguments = parser.parse_args()
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        figures = [measure(browser, Path(folder) / str(seeds), rates, seeds) for rates, seeds in ((2, 3), (20, 10))]
        version = browser.version
        browser.close()
    for figure in figures:
        print(figure)
    save_result(arguments.json, "report", figures, ("bokeh",), {"note": f"Chromium {version}"})


def measure(browser: Browser, folder: Path, rates: int, seeds: int) -> Figure:
    """The page about `rates` times `seeds` runs."""
    store = make_runs(folder / "runs", rates=tuple(0.01 * rate for rate in range(1, rates + 1)), seeds=seeds, lines=300)
    begun = time.perf_counter()
    text = render(collect(store, store.list(), "reach", START + 2000), lambda run, artefact: f"{run.run_id}/{artefact}")
    written = time.perf_counter() - begun
    page = folder / "report.html"
    page.write_text(text, encoding="utf-8")
    painted = min(_painted(browser, page) for _ in range(TIMES))
    return Figure(rates * seeds, page.stat().st_size / 1e6, written, painted)


def _painted(browser: Browser, page: Path) -> float:
    tab = browser.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector("body[data-drawn]", state="attached")
    seconds = float(tab.locator("body").get_attribute("data-drawn") or "nan") / 1000
    tab.close()
    return seconds


if __name__ == "__main__":
    main()
