"""Render a report: one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestrator.assets import templates_folder
from orchestrator.report import figures
from orchestrator.report.collect import short
from orchestrator.report.data import Report, RunEntry
from orchestrator.report.timeline import timeline
from orchestrator.report.verdict import compact, spread, verdict
from orchestrator.states import TERMINAL
from orchestrator.tables import age, clock, number

Link = Callable[[RunEntry, str], str]
SPARK = (96, 22)  # size of a sparkline in pixels
REFRESH = 3.0  # seconds between two looks of a live page


def render(report: Report, link: Link, *, live: bool = False, whole: bool = True) -> str:
    """The page as text.

    Args:
        report: What to show.
        link: Address of a run's file, relative to the page.
        live: The page asks for itself again, every few seconds.
        whole: With the library that draws the charts; a page that refreshes itself has it already.
    """
    template = _environment().get_template("report.html.j2")
    return template.render(
        report=report,
        verdict=verdict(report),
        timeline=timeline(report),
        numbers=figures.numbers(report),
        charts=figures.charts() if whole else {},
        bokeh=Markup(figures.bokeh() if whole else ""),
        link=link,
        refresh=REFRESH if live else 0,
        groups={member: group for group, own in enumerate(report.groups) for member in own.members},
    )


def sparkline(values: tuple[float | None, ...]) -> str:
    """Points of an SVG polyline for the values of a curve; empty where there are not two."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    width, height = SPARK
    low, size = min(known), (max(known) - min(known)) or 1.0
    step = width / (len(known) - 1)
    return " ".join(
        f"{index * step:.1f},{1 + (height - 2) * (1 - (value - low) / size):.1f}" for index, value in enumerate(known)
    )


@cache
def _environment() -> Environment:
    folder = templates_folder()
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # Bokeh refers back to what came before
    environment.filters |= {"number": number, "age": age, "clock": clock, "compact": compact, "short": short}
    environment.globals |= {
        "sparkline": sparkline,
        "spread": spread,
        "colour": figures.colour,
        "spark_size": SPARK,
        "terminal": TERMINAL,
        "style": Markup((folder / "report" / "style.css").read_text(encoding="utf-8")),
        "script": Markup((folder / "report" / "page.js").read_text(encoding="utf-8")),
    }
    return environment
