"""Draws docs/report.png: a page of `report` as Chromium shows it, in light colours, and on a phone in dark ones.

python orchestrate.py report last --output report.html
python tools/report_picture.py report.html docs/report.png
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
DESKTOP, PHONE = (1080, 790), (390, 844)  # pixels
GAP = 24  # pixels between the two
COLOURS = 256  # of the picture; more would say nothing


def main(page: Path, picture: Path) -> None:
    """Write the picture of a page."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        light, dark = _seen(browser, page, DESKTOP, "light"), _seen(browser, page, PHONE, "dark")
        browser.close()
    dark = dark.resize((round(dark.width * light.height / dark.height), light.height), Image.Resampling.LANCZOS)
    both = Image.new("RGB", (light.width + GAP + dark.width, light.height), "white")
    both.paste(light, (0, 0))
    both.paste(dark, (light.width + GAP, 0))
    few = both.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


def _seen(browser: Browser, page: Path, size: tuple[int, int], scheme: str) -> Image.Image:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    tab = context.new_page()
    tab.goto(page.absolute().as_uri())
    tab.wait_for_selector("body[data-drawn]", state="attached")
    seen = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    context.close()
    return seen


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
