"""Runs that things go wrong with: `python -m tests.chaos [--write] [--short] [PATTERN]`.

Each fault meets a run of its own, with real processes, started and looked at by the command line. For each it is told
which failure class was recorded, how many optimiser steps were done twice, whether anything was left running, and
whether the registry and the learning curve are whole. `--write` writes that to docs/reliability.md; with a PATTERN it
writes the lines of those faults anew and leaves the others.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.chaos import containers, slurm
from tests.chaos.containers import DockerSubject
from tests.chaos.faults import Fault, faults, small_disk
from tests.chaos.slurm import SlurmSubject
from tests.chaos.subject import INTERVAL, Subject

DISK = 48  # megabytes of each run's disk
STEPS, SHORT_STEPS = 500, 200  # optimiser steps of a run
HEADER = "| fault |"
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
INTRODUCTION = """\
# Reliability

`make chaos` writes this page. Each line is one run of the debug simulator on two cores, with real processes, submitted
and looked at by the command line: on this machine, in a container of a real Docker Engine, and on a real Slurm that is
reached through SSH. `retry` allows four further attempts, one checkpoint is taken a second. In every line nothing was
left running and the registry was intact; in every line but that of training which diverges, the run went on by itself
to its end, and its curve has every point once. "Done twice" counts the optimiser steps between the fault and the
checkpoint that the next attempt went on from.
"""


@dataclass(frozen=True)
class Finding:
    """What became of a run.

    Attributes:
        fault: What went wrong.
        classes: Of the attempts before the last one.
        attempts: Starts of the run.
        state: How it ended.
        lost: Optimiser steps that were done twice.
        allowed: How many that may be: those of a checkpoint interval, or two.
        problems: What should not be; empty where all is well.
    """

    fault: str
    classes: tuple[str | None, ...]
    attempts: int
    state: str
    lost: int
    allowed: int
    problems: tuple[str, ...]


def examine(fault: Fault, steps: int, subject: Callable[[Path, Path, int], Subject]) -> Finding:
    """Make a run of so many optimiser steps, make it go wrong, and look at what is left."""
    with tempfile.TemporaryDirectory(prefix="chaos") as name:
        folder = Path(name)
        home = folder / "runs"
        home.mkdir()
        mounted = os.geteuid() == 0 and fault.place != "slurm"
        if mounted:
            small_disk(home, DISK)
        run = subject(folder, home, steps)
        try:
            return _examine(fault, run)
        except Exception:
            return Finding(fault.name, (), 0, "unknown", 0, 0, (traceback.format_exc(limit=3),))
        finally:
            run.end()
            if mounted:
                subprocess.run(["umount", "--lazy", str(home)], check=True)


def _examine(fault: Fault, run: Subject) -> Finding:
    step = fault.make(run)
    status = run.finish()
    resumed = run.resumed_at()
    lost = max(0, step - resumed[0]) if step and resumed else 0
    # An interval, writing what it asked for, and the second that status.json may lag behind.
    allowed = math.ceil((INTERVAL + 2.0) * run.fastest()) * (2 if fault.loses_checkpoint else 1)
    classes = tuple(attempt["failure_class"] for attempt in status["attempts"])
    before = classes if fault.state == "failed" else classes[:-1]
    problems = []
    if status["state"] != fault.state:
        problems.append(f"ended as {status['state']}: {status['message']}")
    if wrong := [one for one in before if one not in fault.classes]:
        problems.append(f"class {wrong[0]}")
    if lost > allowed:
        problems.append(f"{lost} steps done twice, {allowed} allowed")
    time.sleep(1.0)  # what has been killed needs a moment
    if left := run.left():
        problems.append(f"left running: {', '.join(left)}")
    if not run.registry_is_sound():
        problems.append("registry damaged")
    if fault.state == "succeeded" and not run.curve_is_whole():
        problems.append("the curve has gaps or repetitions")
    return Finding(fault.name, before, len(classes), status["state"], lost, allowed, tuple(problems))


def table(findings: Sequence[Finding], before: str = "") -> str:
    """Findings as Markdown, in the place of those lines of the table `before` that are about the same faults."""
    lines = dict(_line(line) for line in before.splitlines() if line.startswith("| ") and not line.startswith(HEADER))
    for found in findings:
        classes = ", ".join(dict.fromkeys(str(one) for one in found.classes if one)) or "–"
        lines |= [_line(f"| {found.fault} | {found.attempts} | {classes} | {found.state} | {found.lost} |")]
    return "\n".join(
        [f"{HEADER} attempts | recorded as | ended as | done twice |", "|---|---:|---|---|---:|", *lines.values()]
    )


def _line(line: str) -> tuple[str, str]:
    """A line of the table by its fault."""
    return line.split("|")[1].strip(), line


def _examined(chosen: Sequence[Fault], steps: int) -> Iterator[Finding]:
    """On this machine several at a time; elsewhere one after the other, for they happen to all that is there."""
    of = {place: [fault for fault in chosen if fault.place == place] for place in ("here", "docker", "slurm")}
    with ThreadPoolExecutor(max_workers=max(2, (os.cpu_count() or 2) // 2)) as pool:
        yield from pool.map(lambda fault: examine(fault, steps, Subject), of["here"])
    if of["docker"]:
        with containers.running() as engine:
            for fault in of["docker"]:
                yield examine(fault, steps, partial(DockerSubject, engine=engine))
    if of["slurm"]:
        with slurm.site() as site:
            for fault in of["slurm"]:
                yield examine(fault, steps, partial(SlurmSubject, site=site))


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine the faults whose name holds a pattern, all by default; 1 where anything is as it should not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default="")
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md")
    parser.add_argument("--short", action="store_true", help="a few faults, in short runs")
    options = parser.parse_args(arguments)
    known = [*faults(), *containers.faults(), *slurm.faults()]
    chosen = [fault for fault in known if options.pattern in fault.name and (fault.short or not options.short)]
    for place, lacking in (("docker", containers.lacking), ("slurm", slurm.lacking)):
        if any(fault.place == place for fault in chosen) and (absent := lacking()):
            if options.write:
                parser.error(f"runs on {place} need what is not here: {absent}; name a PATTERN that leaves them out")
            print(f"skip runs on {place}, which need what is not here: {absent}", flush=True)
            chosen = [fault for fault in chosen if fault.place != place]
    steps = SHORT_STEPS if options.short else STEPS
    findings = []
    for found in _examined(chosen, steps):
        findings.append(found)
        print(f"{'FAIL' if found.problems else 'ok  '} {found.fault}: {found.attempts} attempts", flush=True)
        for problem in found.problems:
            print(f"     {problem}", flush=True)
    if options.write and not any(found.problems for found in findings):
        before = PAGE.read_text(encoding="utf-8") if options.pattern else ""
        PAGE.write_text(f"{INTRODUCTION}\n{table(findings, before)}\n", encoding="utf-8")
    return int(any(found.problems for found in findings))


if __name__ == "__main__":
    sys.exit(main())
