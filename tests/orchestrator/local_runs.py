"""Plans whose setup-and-run.sh is a few lines of bash, and processes that submit them: real runs in milliseconds."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from orchestrator.backends.base import LaunchRequest
from orchestrator.backends.local import LocalBackend
from orchestrator.plan import Plan, PlannedRun
from orchestrator.processes import read_table, send
from orchestrator.snapshot import Snapshot, take_snapshot
from tests.waiting import eventually

REPOSITORY = Path(__file__).parents[2]
PREAMBLE = """
import json, os, signal, sys, time
from pathlib import Path
from local_runs import *
from orchestrator.runs import RunStore
"""
BACKEND = LocalBackend(leftover_grace=1.0)

SUCCEED = 'echo {} >"$LONGSHORE_RUN_DIR/SUCCESS"\n'
HEARTBEAT = """printf '{"phase": "training", "attempt": %s}' "$LONGSHORE_ATTEMPT" >"$LONGSHORE_RUN_DIR/status.json"\n"""
COUNT = 'echo start >>"$LONGSHORE_RUN_DIR/starts"\n'  # a second start of the same run would add a second line
WAIT_FOR_GO = 'until [ -e "$LONGSHORE_RUN_DIR/go" ]; do sleep 0.05; done\n'


def backend_for(name: str, profile: str = "default") -> LocalBackend:
    assert name == "local"
    return BACKEND


def request(run_dir: Path, attempt: int = 1, secrets: tuple[str, ...] = (), gpus: int = 0) -> LaunchRequest:
    return LaunchRequest(run_dir.name, run_dir, run_dir / "setup-and-run.sh", attempt, secrets, gpus=gpus)


def planned(
    home: Path,
    run_id: str,
    script: str,
    *,
    key: str | None = None,
    index: int = 0,
    secrets: tuple[str, ...] = (),
    gpus: int = 0,
) -> PlannedRun:
    """A run of `script`; its submission key is made from `key`, or else from its id."""
    run_dir = home / run_id
    return PlannedRun(
        run_id=run_id,
        name="demo",
        index=index,
        key=hashlib.sha256((key or run_id).encode()).hexdigest(),
        job=SimpleNamespace(),  # type: ignore[arg-type]  # nobody here looks into it
        run_dir=run_dir,
        files={"setup-and-run.sh": script, "job.yaml": "name: demo\n"},
        launch=BACKEND.plan(request(run_dir, secrets=secrets, gpus=gpus)),
        differs={"seed": index},
    )


@cache
def snapshot_beside(home: Path) -> Snapshot:
    source = home.parent / f"{home.name}-source"
    source.mkdir(exist_ok=True)
    (source / "__init__.py").write_text("")
    return take_snapshot(source)


def plan_of(home: Path, *runs: PlannedRun, sweep: str | None = None, max_parallel: int | None = None) -> Plan:
    """A plan of these runs that ships one small file."""
    return Plan(
        plan_id=sweep or runs[0].run_id,
        name="demo",
        backend="local",
        profile="default",
        home=home,
        snapshot=snapshot_beside(home),
        runs=runs,
        warnings=(),
        is_sweep=sweep is not None,
        max_parallel=max_parallel,
    )


def single(home: Path, run_id: str, script: str, *, key: str | None = None, secrets: tuple[str, ...] = ()) -> Plan:
    return plan_of(home, planned(home, run_id, script, key=key, secrets=secrets))


def sweep(home: Path, sweep_id: str, scripts: Sequence[str], *, max_parallel: int | None = None) -> Plan:
    runs = [planned(home, f"{sweep_id}-{index:03d}", text, index=index) for index, text in enumerate(scripts)]
    return plan_of(home, *runs, sweep=sweep_id, max_parallel=max_parallel)


def pid_of(run_dir: Path, attempt: int = 1) -> int:
    """The process that runs the script."""
    claim = run_dir / "attempts" / str(attempt) / "pid"
    eventually(claim.exists)
    return int(claim.read_text().split(":")[0])


def starts(run_dir: Path) -> int:
    return len((run_dir / "starts").read_text().splitlines())


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another Python process, in a session of its own, that has imported this module's names."""
    paths = [str(REPOSITORY), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def home_of_runs(folder: Path) -> Iterator[Path]:
    """A folder for runs; on the way out whatever a failing test has left running is killed."""
    home = folder / "runs"
    home.mkdir()
    try:
        yield home
    finally:
        for entry in read_table(["LONGSHORE_RUN_DIR"]):
            if entry.environment.get("LONGSHORE_RUN_DIR", "").startswith(f"{home}/"):
                send(entry, signal.SIGKILL)
