"""A registry of runs that have ended, run or failed, with the files that such runs leave: what reports are made of."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.base import Observation
from orchestrator.jobfile.yaml12 import dump
from orchestrator.runs import RunStore
from orchestrator.states import FailureClass, RunState
from tests.orchestrator.local_runs import sweep
from trainer.run_dir import Failure, Phase, RunDir, Status, write_atomically

START = 1_790_000_000.0  # unix seconds of the submission
INTERVAL = 100  # optimiser steps between two lines
RUNNING = RunState.RUNNING
FRAMES, SECONDS = 2048, 12.5  # per line
TRACEBACK = 'Traceback (most recent call last):\n  File "learner.py", line 1\nNotFinite: loss/total is <nan>\n'


@dataclass
class Clock:
    now: float = START

    def __call__(self) -> float:
        return self.now


def learnt(seed: int, rate: float, lines: int) -> list[dict[str, float | None]]:
    """Lines of metrics.jsonl whose return rises towards 50, the faster the higher the rate."""
    draw = random.Random(f"{seed} {rate}")
    records = []
    for line in range(1, lines + 1):
        episode = 50 - 40 * math.exp(-line * rate * 100 / lines) + draw.gauss(0, 1.5)
        records.append(
            {
                "step": line * INTERVAL,
                "frames": line * FRAMES,
                "time": START + line * SECONDS,
                "elapsed": line * SECONDS,
                "loss/total": 10 / line,
                "episode/return": None if line % 7 == 0 else episode,  # as where no episode has ended
                "episode/length": 200.0,
                "throughput/fps": 2 * FRAMES / SECONDS if line % 2 else 0.0,  # chunks come every other line
                "throughput/steps_per_s": INTERVAL / SECONDS,
            }
        )
    return records


def make_runs(
    home: Path, rates: tuple[float, ...] = (0.03, 0.08), seeds: int = 3, lines: int = 60, *, last: RunState = RUNNING
) -> RunStore:
    """A sweep over learning rates and seeds. All runs have succeeded, but for the last two: one failed, one runs.

    No backend knows the one that runs: a command that asks for it needs another state for the `last`.
    """
    home.mkdir(parents=True, exist_ok=True)
    clock = Clock()
    store = RunStore(home, clock=clock)
    settings = [(rate, seed) for rate in rates for seed in range(seeds)]
    store.add_plan(sweep(home, "reach-260921-100000-abcd", ["true\n"] * len(settings)))
    runs = store.list()
    store.enqueue([run.run_id for run in runs])
    store.claim_startable("tests", lambda claimer: False)
    ends = [RunState.SUCCEEDED] * (len(runs) - 2) + [RunState.FAILED, last]
    for position, (run, (rate, seed), end) in enumerate(zip(runs, settings, ends, strict=True)):
        clock.now = START + 20 * position
        store.started(run.run_id, 1, f"handle {position}")
        clock.now += 15
        store.observe({run.run_id: (f"handle {position}", Observation(RunState.RUNNING))})
        done = lines if end is RunState.SUCCEEDED else lines // 2
        clock.now += done * SECONDS
        leave_files(RunDir(run.run_dir), rate, seed, end, done, clock.now)
        if end is RunState.FAILED:
            failed = Observation(end, FailureClass.NAN, 1, "loss/total is nan")
            store.observe({run.run_id: (f"handle {position}", failed)})
        elif end is RunState.SUCCEEDED:
            store.observe({run.run_id: (f"handle {position}", Observation(end, exit_code=0))})
    return store


def leave_files(run: RunDir, rate: float, seed: int, end: RunState, lines: int, now: float) -> None:
    """What a run with this learning rate leaves when it stands so."""
    train = {"env.name": "Debug-Reach", "agent.optimizer.lr": rate, "seed": seed}
    write_atomically(run.job, dump({"name": "reach", "backend": "local", "train": train}))
    records = learnt(seed, rate, lines)
    write_atomically(run.metrics, "".join(json.dumps(record) + "\n" for record in records))
    write_atomically(run.log(1), "".join(f"step {record['step']}\n" for record in records))
    last = records[-1]
    status = Status(Phase.TRAINING, last["step"], 60 * INTERVAL, last["frames"], 164.0, 8.0, 42.0, 1, now)
    run.write_status(status)
    if end is RunState.FAILED:
        run.write_failure(Failure(FailureClass.NAN, "loss/total is nan", TRACEBACK, 1))
    elif end is RunState.SUCCEEDED:
        summary = {"random_return": 10.0, "trained_return": 50 - 40 * math.exp(-100 * rate), "max_return": 50.0}
        summary |= {"frames": last["frames"], "optim_steps": last["step"], "seconds": last["elapsed"]}
        write_atomically(run.summary, json.dumps(summary))
        run.write_success(1)


def write_record(run_dir: Path, line: int, **values: float) -> None:
    """Append a line to what a run has logged."""
    record = {"step": line * INTERVAL, "frames": line * FRAMES, "elapsed": line * SECONDS, **values}
    with RunDir(run_dir).metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
