"""The charts: Bokeh's figures with empty sources, and the numbers with which the page fills them."""

from __future__ import annotations

from typing import Any

from bokeh.embed import json_item
from bokeh.models import BasicTicker, ColumnDataSource, HoverTool, NumeralTickFormatter, Range1d
from bokeh.plotting import figure
from bokeh.resources import Resources

from orchestrator.report.curves import AXES, METRICS
from orchestrator.report.data import Report

FPS, STEPS_PER_S = "throughput/fps", "throughput/steps_per_s"
# As well told apart on white as on black, and by most who confuse red and green.
COLOURS = ("#2f7ed8", "#e0812b", "#2a9d6f", "#c8507a", "#8466c9", "#8a6d3b", "#1fa5b5", "#9a9f35")


def bokeh() -> str:
    """Bokeh's own JavaScript, as its Python package carries it."""
    scripts = Resources(mode="inline", components=["bokeh"]).js_raw
    return "\n".join(scripts).replace("</script", r"<\/script")


def charts() -> dict[str, Any]:
    """A chart for any metric and the two of the throughput, by the id of the element that each is drawn in."""
    return {
        "learning": _chart("learning", 400),
        "frames-per-second": _chart("frames-per-second", 220),
        "steps-per-second": _chart("steps-per-second", 220),
    }


def numbers(report: Report) -> dict[str, Any]:
    """What the charts show: runs, groups and metrics, with as many digits as are seen."""
    known = {name for run in report.runs for name in run.curve.values}
    return {
        "metrics": {name: label for name, label in METRICS.items() if name in known},
        "runs": [
            {
                "id": run.run_id,
                "axes": {axis: _short(run.curve.along(axis)) for axis in AXES},
                "values": {name: _short(values) for name, values in run.curve.values.items()},
            }
            for run in report.runs
        ],
        "groups": [
            {
                "label": group.label,
                "colour": colour(position),
                "members": group.members,
                "bands": {
                    f"{metric} {axis}": [_short(column) for column in (band.x, band.low, band.middle, band.high)]
                    for (metric, axis), band in group.bands.items()
                },
            }
            for position, group in enumerate(report.groups)
        ],
    }


def colour(group: int) -> str:
    """Of a group's curves."""
    return COLOURS[group % len(COLOURS)]


def _short(values: tuple[float | None, ...]) -> list[float | None]:
    return [None if value is None else float(f"{value:.5g}") for value in values]


def _chart(name: str, height: int) -> Any:
    chart = figure(
        name=name,
        height=height,
        sizing_mode="stretch_width",
        tools="pan,box_zoom,wheel_zoom,reset",
        active_drag="box_zoom",
        toolbar_location="above",
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
    )
    chart.toolbar.logo = None
    chart.toolbar.autohide = True
    chart.xaxis.formatter = NumeralTickFormatter(format="0.[00]a")
    chart.yaxis.formatter = NumeralTickFormatter(format="0.[00]a")
    for axis in (chart.xaxis, chart.yaxis):
        axis.ticker = BasicTicker(desired_num_ticks=5)
        axis.axis_line_color = None
        axis.minor_tick_line_color = None
        axis.major_tick_line_color = None
    bands, runs, medians = (ColumnDataSource({}, name=f"{name} {kind}") for kind in ("bands", "runs", "medians"))
    for source in (bands, runs, medians):
        source.data = {"xs": [], "ys": [], "colour": [], "alpha": [], "label": []}
    chart.patches("xs", "ys", source=bands, fill_color="colour", fill_alpha=0.16, line_color=None)
    line = chart.multi_line("xs", "ys", source=runs, line_color="colour", line_alpha="alpha", line_width=1.4)
    middle = chart.multi_line("xs", "ys", source=medians, line_color="colour", line_width=2.4)
    chart.add_tools(HoverTool(renderers=[line, middle], tooltips="@label: $y{0,0.[00]}", line_policy="nearest"))
    return json_item(chart)
