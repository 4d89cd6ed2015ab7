"""Write docs/performance.md from benchmarks/results/: every table is what a benchmark has measured.

Usage: python tools/performance.py [FOLDER] > docs/performance.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
INTRODUCTION = """\
# Performance

`make performance` writes this page from the files in benchmarks/results/, which the scripts in benchmarks/ write.
Compare figures of one file only: machines differ, and shared ones vary by a tenth.
"""
CLOSING = """\
## Where the time goes

- A captured step of `dreamer` at 50,000 frames takes more than five times its floor. Near half of it is matrix
  products: layers 400 wide fill the tensor cores' tiles badly, and run at about half the rate of a large square
  product. A third is pointwise work between them, bound by memory. The rest is the recurrence, small kernels in a row
  that are each shorter than the wait for the one before.
- At 10,000 frames and below it is that row of small kernels which counts: the batch hardly does.
- From a cold cache, compiling takes most of a minute, on one core for the greater part. In the first run of a task it
  cannot begin before the simulator has said what it shows; in later ones it begins with what the task showed last time.
  The first runs measured above differ in how fast their machines had read Python's packages from the disk.
- With one GPU, simulator and learner in two processes get it in turns; that costs more than working side by side
  brings, so `sync` is the default there.
- With a GPU each, neither costs the other anything that can be told from the noise of a machine that others share.
  What then limits the optimiser is its own step, whose pointwise work and narrow matrix products wait for memory: an
  H100's has less bandwidth than an H200's.
"""
FLOOR = """\
The floor is the time of a step's matrix products at the rate of one large product of square matrices. The parts of a
captured step, which is one launch, are its kernels by kind, as torch's profiler times them."""
Row = Sequence[object]


def main(folder: Path = RESULTS) -> str:
    """The whole page."""
    results = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    parts = [INTRODUCTION]
    for prefix, title, describe in SECTIONS:
        found = {name: result for name, result in results.items() if name == prefix or name.startswith(prefix + "-")}
        if found:
            parts.append(f"## {title}\n")
        parts += [f"{origin(name, result)}\n\n{describe(result)}\n" for name, result in found.items()]
    return "\n".join([*parts, CLOSING])


def table(header: Row, rows: Iterable[Row]) -> str:
    """Rows as Markdown; numbers to the right."""
    rows = list(rows)
    aligned = ["---:" if str(cell)[:1].isdigit() else "---" for cell in rows[0]]
    lines = [header, aligned, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def origin(name: str, result: Mapping[str, Any]) -> str:
    """What a result was measured on, and its file; and what its settings note besides."""
    machine, versions = result["machine"], result["versions"]
    note = result.get("settings", {}).get("note")
    where = " and ".join(machine.get("gpus") or [f"{machine['cores']} cores of {machine['cpu']}"])
    packages = ", ".join(f"{package} {number}" for package, number in versions.items())
    file = f"`benchmarks/results/{name}.json`{f'; {note}' if note else ''}"
    return f"{where}, {result['date']}, {packages} ({file}):"


def _cli(result: Mapping[str, Any]) -> str:
    rows = [
        (f"`{figure['name']}`", f"{figure['median']:.2f}", f"{figure['limit']:.1f}") for figure in result["figures"]
    ]
    return table(("whole process", "median, s", "limit, s"), rows)


def _many_runs(result: Mapping[str, Any]) -> str:
    parts = []
    for figure in result["figures"]:
        rows = [
            (
                f"`{command['name']}`",
                command["count"],
                f"{command['cpu']:.2f}",
                f"{command['median']:.2f}",
                f"{command['slowest_of_twenty']:.2f}",
                f"{command['slowest']:.2f}",
                command["late"],
                f"{command['memory_mb']:.0f}",
            )
            for command in figure["commands"]
        ]
        header = ("command", "times", "of a core, s", "median, s", "95 % below, s", "slowest, s", "over 0.5 s")
        parts.append(
            f"{figure['runs']:,} local runs of the debug experiment, {figure['parallel']} at a time, in "
            f"{figure['seconds'] / 60:.0f} minutes on a machine whose load was {figure['load']:.1f}: {figure['lost']} "
            f"lost. The registry took {figure['registry_mb']:.1f} MB, `wait` {figure['watcher_memory_mb']:.0f} MB of "
            "memory. Typed again and again meanwhile, about all of them:\n\n" + table((*header, "memory, MB"), rows)
        )
    return "\n\n".join(parts)


def _learner(result: Mapping[str, Any]) -> str:
    def row(figure: Mapping[str, Any]) -> Row:
        case, rate = figure["case"], figure["steps_per_s"]["median"]
        memory = figure["peak_memory_gib"]
        return (
            f"`{case['agent']}`",
            f"{case['batch']:,} = {case['batch'] // case['length']} × {case['length']}",
            f"{figure['parameters'] / 1e6:.2f} M",
            figure["mode"],
            f"{rate:.2f}",
            f"{1000 / rate:.1f}",
            f"{figure['floor_ms']:.1f}",
            f"{figure['prepare_s']:.0f}",
            "" if memory is None else f"{memory:.1f}",
        )

    header = ("agent", "batch", "parameters", "step", "steps/s", "ms", "floor, ms", "prepared in, s", "peak, GiB")
    return "\n\n".join([table(header, map(row, result["figures"])), FLOOR, _parts(result["figures"])])


def _parts(figures: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"- {figure['case']['agent']}, {figure['case']['batch']:,}, {figure['mode']}, ms: "
        + ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in figure["parts_ms"].items())
        for figure in figures
        if figure["parts_ms"]
    ]
    return "\n".join(lines)


def _reference(result: Mapping[str, Any]) -> str:
    rows = []
    for figure in result["figures"]:
        rows.append(("optimiser steps/s", f"{figure['steps_per_s']['median']:.2f}"))
        rows += [(f"{name}, ms", f"{milliseconds:.1f}") for name, milliseconds in figure["parts_ms"].items()]
        for key, name in (("collected_per_s", "frames/s collected"), ("peak_memory_gib", "peak, GiB")):
            if figure.get(key) is not None:
                rows.append((name, f"{figure[key]:,.1f}"))
    return table(("TorchRL's parts", ""), rows)


def _collection(result: Mapping[str, Any]) -> str:
    header = (f"{result['settings']['environments']:,} environments", "frames/s", "of the bare simulator's")
    rows = [
        (figure["mode"], f"{figure['frames_per_s']:,.0f}", f"{figure['share']:.3f}") for figure in result["figures"]
    ]
    return table(header, rows)


def _replay(result: Mapping[str, Any]) -> str:
    rows = [
        (figure["name"], f"{figure['ms']:.3f}", f"{figure['megabytes']:.1f}", f"{figure['gigabytes_per_s']:,.0f}")
        for figure in result["figures"]
    ]
    return table(("operation", "ms", "MB", "GB/s, read and written"), rows)


def _pipeline(result: Mapping[str, Any]) -> str:
    times = ("captured after, s", "of that compiling, s", "learning after, s")
    header = ("layout", "optimiser steps/s", "frames/s", *times)
    rows = []
    for figure in result["figures"]:
        captured, compiling = figure["captured_s"], figure.get("compiling_s")
        known = ", task known" if figure.get("remembered") else ""
        rows.append(
            (
                f"`{figure['layout']}`{known}",
                f"{figure['steps_per_s']['median']:.2f}",
                f"{figure['frames_per_s']:,.0f}",
                "" if captured is None else f"{captured:.0f}",
                "" if compiling is None else f"{compiling:.0f}",
                f"{figure['first_step_s']:.0f}",
            )
        )
    return table(header, rows)


def _reference_v3(result: Mapping[str, Any]) -> str:
    header = ("learner", "batches", "step", "parameters", "steps/s", "prepared in, s")
    rows = [
        (
            figure["learner"],
            figure["data"],
            figure["mode"],
            f"{figure['parameters'] / 1e6:.2f} M",
            f"{figure['steps_per_s']['median']:.1f}",
            f"{figure['prepare_s']:.0f}",
        )
        for figure in result["figures"]
    ]
    return table(header, rows)


def _slurm_array(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    header = (
        f"Slurm {settings['slurm']}, submitit {settings.get('submitit', 'not')} measured",
        "median, s",
        "fastest, s",
    )
    rows = [
        (
            figure["name"],
            f"{figure['median']:.2f}",
            f"{figure['fastest']:.2f}",
            "" if figure["limit"] is None else f"{figure['limit']:.1f}",
            ", ".join(f"{number} {name}" for name, number in figure["commands"].items()),
        )
        for figure in result["figures"]
    ]
    cores = result["machine"]["cores"]
    load = f"Load of the {cores} cores when it began: {settings['load']}."
    note = f"{load} submitit keeps no record of runs and ships no code."
    return table((*header, "limit, s", "Slurm's commands"), rows) + "\n\n" + note


def _export(result: Mapping[str, Any]) -> str:
    def returns(figure: Mapping[str, Any], whose: str) -> str:
        mean, error = figure[f"{whose}_return"], figure[f"{whose}_error"]
        return "" if mean is None else f"{mean:.2f} ± {error:.2f}"

    header = ("policy", "largest difference", "step, ms", "return without torch", "return of the trainer's")
    rows = [
        (
            f"`{figure['name']}`",
            f"{figure['max_difference']:.1e}",
            f"{figure['step_ms']:.2f}",
            returns(figure, "exported"),
            returns(figure, "trainers"),
        )
        for figure in result["figures"]
    ]
    return table(header, rows)


def _report(result: Mapping[str, Any]) -> str:
    keys = {"size, MB": "megabytes", "written in, s": "written_s", "painted in, s": "painted_s"}
    rows = [(str(figure["runs"]), *(f"{figure[key]:.1f}" for key in keys.values())) for figure in result["figures"]]
    return table(("runs", *keys), rows)


def _video(result: Mapping[str, Any]) -> str:
    keys = {"filming, % of it": "filming_percent", "encoding, % of a core": "encoder_percent"}
    rows = [
        (f"{figure['seconds']:.0f}", str(figure["clips"]), *(f"{figure[key]:.2f}" for key in keys.values()))
        for figure in result["figures"]
    ]
    return table(("collected for, s", "clips", *keys), rows)


def _clips(result: Mapping[str, Any]) -> str:
    header = ("task", "environments", "filmed", "steps", "collecting, s", "first clip, s", "later ones, s", "one every")
    rows = [
        (
            f"`{figure['task']}`",
            f"{figure['environments']:,}",
            f"what the {'agent sees' if figure['filmed'] == 'pixels' else 'task shows'}",
            figure["steps"],
            f"{figure['collecting_s']:.1f}",
            f"{figure['first_clip_s']:.1f}",
            f"{figure['clip_s']:.1f}",
            f"{figure['every_minutes']:.0f} min",
        )
        for figure in result["figures"]
    ]
    return table(header, rows)


SECTIONS: Sequence[tuple[str, str, Callable[[Mapping[str, Any]], str]]] = (
    ("learner", "The learner alone", _learner),
    ("reference-learner", "The same with TorchRL's parts", _reference),
    ("reference-v3", "DreamerV3 beside TorchRL's", _reference_v3),
    ("pipeline", "Whole runs", _pipeline),
    ("reference-pipeline", "A whole run of TorchRL's parts", _reference),
    ("collection", "Collecting", _collection),
    ("replay", "The replay", _replay),
    ("cli", "The command line", _cli),
    ("slurm-array", "Sweeps on Slurm", _slurm_array),
    ("export", "Exported policies", _export),
    ("report", "The page about runs", _report),
    ("video", "Filming", _video),
    ("clips", "Clips of real tasks", _clips),
    ("many-runs", "Many runs at once", _many_runs),
)

if __name__ == "__main__":
    sys.stdout.write(main(*(Path(argument) for argument in sys.argv[1:])))
