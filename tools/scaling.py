"""Write docs/scaling.md: what has been measured of growth, and what follows from it by arithmetic.

Usage: .venv/bin/python tools/scaling.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

from tools.performance import RESULTS, Row, origin, table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
MACHINE = "h200"
STEPS = 100_000  # optimiser steps of a long run, as the recipe for two GPUs has
NODES = (1, 100, 1000)
NODE_GPUS = 8
LINK = 50.0  # GB/s of a node's network, 400 Gb/s: what such clusters are sold with, not measured here
RATIOS = (1.0, 0.1)  # frames trained on for each one collected
PUBLISH = 10  # optimiser steps between two versions of the weights
INTRODUCTION = """\
# Scaling

`make results` writes this page from the files in benchmarks/results/. What is called arithmetic has not been run: it
says what the measured figures would lead to, and where they would end.
"""
Result = Mapping[str, Any]


def main(folder: Path = RESULTS) -> str:
    """The whole page."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    parts = [INTRODUCTION, "## Optimiser steps and the batch\n", _batches(results)]
    parts += ["## Frames and environments\n", _environments(results)]
    parts += ["## Simulators on a Ray cluster\n", _actors(results)]
    parts += ["## What a run costs\n", _cost(results), "## A hundred nodes, and a thousand\n", _nodes(results)]
    return "\n".join(parts)


def _batches(results: Mapping[str, Result]) -> str:
    name = f"learner-{MACHINE}"
    rows: list[Row] = []
    for figure in results[name]["figures"]:
        if figure["mode"] == "captured":
            case, rate = figure["case"], figure["steps_per_s"]["median"]
            cells = f"{case['batch']:,}", f"{rate:.1f}", f"{rate * case['batch'] / 1e6:.2f} M"
            rows.append((f"`{case['agent']}`, {figure['parameters'] / 1e6:.2f} M parameters", *cells))
    header = ("agent", "frames a batch", "steps/s", "frames trained on a second")
    text = "A larger batch costs less a frame: small ones leave the GPU idle between kernels.\n"
    return f"{origin(name, results[name])}\n\n{table(header, rows)}\n\n{text}"


def _environments(results: Mapping[str, Result]) -> str:
    parts = []
    for name, result in results.items():
        if name.startswith("collection-"):
            rows: list[Row] = [
                (f"{int(result['settings']['environments']):,}", figure["mode"], f"{figure['frames_per_s']:,.0f}")
                for figure in result["figures"]
            ]
            parts.append(f"{origin(name, result)}\n\n{table(('environments', '', 'frames/s'), rows)}\n")
    return "\n".join(parts)


def _actors(results: Mapping[str, Result]) -> str:
    found = [name for name in results if name.startswith("actors-")]
    if not found:
        return (
            "`benchmarks/actors.py` measures it: frames a second of dm_control's actors up to the machine's cores,\n"
            "what Ray costs a frame, and TorchRL's RayCollector beside them. It has had no quiet machine yet.\n"
        )
    parts = []
    for name in found:
        figures = results[name]["figures"]
        plain = figures[0]["microseconds"]
        digits = 1 if plain < 10 else 0
        rows: list[Row] = [
            (
                figure["mode"],
                figure["actors"] or "",
                f"{figure['frames_per_s']:,.0f}",
                f"{figure['share']:.2f}",
                f"{figure['microseconds']:.{digits}f}",
            )
            for figure in figures
        ]
        header = ("", "actors", "frames/s", "of linear", "µs of an actor's time a frame")
        one = next(figure for figure in figures if figure["mode"].startswith("actors"))["microseconds"]
        cost = f"What Ray adds to a frame of one actor: {one - plain:.{digits}f} µs of {one:.{digits}f}.\n"
        parts.append(f"{origin(name, results[name])}\n\n{table(header, rows)}\n\n{cost}")
    return "\n".join(parts)


def _cost(results: Mapping[str, Result]) -> str:
    names = [f"pipeline-{MACHINE}", *(name for name in results if name.startswith("pipeline-two-gpus-"))]
    rows: list[Row] = []
    for name in names:
        card = results[name]["machine"]["gpus"][0].removeprefix("NVIDIA ").split()[0]
        for layout, figure in {figure["layout"]: figure for figure in results[name]["figures"]}.items():
            rate, gpus = figure["steps_per_s"]["median"], 2 if "two" in layout else 1
            hours = STEPS / rate / 3600
            frames = f"{figure['frames_per_s'] * STEPS / rate / 1e6:,.0f} M"
            rows.append((f"`{layout}`", f"{gpus} {card}", f"{hours:.2f}", f"{hours * gpus:.2f}", frames))
    header = ("layout", "GPUs", "hours", "GPU hours", "frames collected meanwhile")
    files = " and ".join(f"`{name}.json`" for name in names)
    text = f"Arithmetic: {STEPS:,} optimiser steps at the rates of {files}, start-up left out.\n"
    return f"{text}\n{table(header, rows)}\n"


def _nodes(results: Mapping[str, Result]) -> str:
    learner = next(
        figure
        for figure in results[f"learner-{MACHINE}"]["figures"]
        if figure["mode"] == "captured" and figure["case"]["agent"] == "dreamer"
    )
    collection = results[f"collection-16384-{MACHINE}"]
    simulator = next(figure["frames_per_s"] for figure in collection["figures"] if figure["mode"] == "with policy")
    write = next(figure for figure in results[f"replay-{MACHINE}"]["figures"] if figure["name"].startswith("write 10"))
    environments = int(write["name"].split("×")[1].split()[0].replace(",", ""))
    row_bytes = write["megabytes"] * 1e6 / (10 * environments)
    trained = learner["steps_per_s"]["median"] * learner["case"]["batch"]
    weights = learner["parameters"] * 4 * learner["steps_per_s"]["median"] / PUBLISH / 1e9
    rows: list[Row] = []
    for nodes in NODES:
        simulators = nodes * NODE_GPUS - 1
        frames = simulators * simulator
        rows.append(
            (
                f"{nodes:,}",
                f"{simulators:,}",
                f"{frames / 1e6:,.1f} M",
                f"{frames * row_bytes / 1e9:,.1f}",
                f"{simulators * weights:,.2f}",
                *(f"{frames * ratio / trained:,.1f}" for ratio in RATIOS),
            )
        )
    header = (
        "nodes",
        "simulators",
        "frames/s",
        "GB/s of chunks",
        "GB/s of weights",
        *(f"learners at ratio {ratio:g}" for ratio in RATIOS),
    )
    gigabytes, enough = simulator * row_bytes / 1e9, trained / simulator
    fed = LINK / gigabytes
    batch, many = f"{learner['case']['batch']:,}", f"{int(collection['settings']['environments']):,}"
    return f"""\
Arithmetic, for nodes of {NODE_GPUS} GPUs of which one in all learns, with `dreamer` at a batch of {batch}:

- a simulator gives {simulator:,.0f} frames/s with the policy (`collection`, {many} environments),
  {row_bytes:,.0f} bytes each with their latents (`replay`): {1000 * gigabytes:,.0f} MB/s
- the learner trains on {trained / 1e6:.2f} M frames/s (`learner`), so that at a ratio of one it uses up what
  {enough:.1f} simulators give; the ratio is frames trained on for each one collected
- weights of {learner["parameters"] * 4 / 1e6:.0f} MB go out every {PUBLISH} steps, to each simulator

{table(header, rows)}

- **One node is enough for one learner.** More simulators than {enough:.0f} only lower the ratio; what they buy is data
  that is fresher and more varied, not more learning.
- **A hundred nodes need learners that share gradients,** which there are none of yet: a batch is one GPU's. At a link
  of {LINK:g} GB/s (as sold, not measured) one learner's node could take the chunks of {fed:.0f} simulators.
- **A thousand nodes are for sweeps.** Runs that know nothing of each other need nothing of the above: one learner with
  {enough:.0f} simulators each, and the queue of the cluster between them.
- Ray's own limits (actors by the thousand, an object store in each node) come after these, and have not been met.
"""


if __name__ == "__main__":
    PAGE.write_text(main(), encoding="utf-8")
