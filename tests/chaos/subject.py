"""A real run of the command line, with real processes, and what is known of it from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.processes import Entry, read_table, send
from orchestrator.registry import REGISTRY
from tests import waiting
from trainer.run_dir import RunDir

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 400.0  # seconds for anything that must happen
INTERVAL = 1  # seconds between checkpoints
ROLES = {
    "trainer": "trainer.pipelines.sync",
    "simulator": "trainer.pipelines.simulation",
    "learner": "trainer.pipelines.learning",
}
JOB = """\
name: subject
backend: {backend}
{more_job}\
resources: {{gpus: 0, cpus: 1, memory: 1G{time}}}
environment: {environment}
retry:
  max: 4
  on: [setup, crash, nan, out-of-memory, timeout, preempted, node-failure, stalled, lost]
  backoff: 1s
watchdog: {{start: 60s, stall: 8s}}
train:
  experiment: debug
  threads: 1
  optimization.total_optim_steps: {steps}
  checkpoint.interval: {INTERVAL}
  eval.episodes: 0
  watchdog.grace: 20
  watchdog.margin: 5
{more}"""


@dataclass
class Subject:
    """One run in a folder of its own.

    Attributes:
        folder: Holds the job and the registry.
        home: Folder of the runs.
        steps: Optimiser steps until it is done.
        job: Further lines of the job file.
    """

    folder: Path
    home: Path
    steps: int
    run_id: str = ""
    backend: str = "local"
    job: str = ""
    _last: dict[str, Any] = field(default_factory=dict)

    def submit(self, *train: str, time_limit: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        """Submit the job with further settings of the trainer, `KEY: VALUE` each, and variables of its processes."""
        more = "".join(f"  {line}\n" for line in train)
        limit = "" if time_limit is None else f', time: "{time_limit}"'
        (self.folder / "job.yaml").write_text(
            JOB.format(
                backend=self.backend,
                more_job=self.job,
                steps=self.steps,
                more=more,
                time=limit,
                INTERVAL=INTERVAL,
                environment=json.dumps(dict(environment or {})),
            )
        )
        self.run_id = self.command("submit", "job.yaml").stdout.strip()

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`python orchestrate.py …` in the folder."""
        return subprocess.run(self.argv(*words), **self._surroundings(), capture_output=True, text=True, check=check)

    def start_command(self, *words: str) -> subprocess.Popen[bytes]:
        """The same in the background."""
        silent = subprocess.DEVNULL
        return subprocess.Popen(self.argv(*words), **self._surroundings(), stdout=silent, stderr=silent)

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, str(REPOSITORY / "orchestrate.py"), *words]

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.home / self.run_id)

    def status(self) -> dict[str, Any]:
        """What `status --json` says."""
        self._last = json.loads(self.command("status", self.run_id, "--json").stdout)
        return self._last

    def step(self) -> int:
        """Optimiser steps done, as status.json has them."""
        try:
            status = self.run_dir.read_status()
        except (ValueError, KeyError, TypeError):
            return 0
        return 0 if status is None else status.optim_step

    def until_step(self, step: int) -> None:
        eventually(lambda: self.step() >= step or self.run_dir.success.exists(), f"step {step}")

    def until_checkpoint(self) -> None:
        """Until there are two, so that the newest one may be spoilt."""
        eventually(lambda: len(list(self.run_dir.checkpoints.glob("step_*"))) >= 2, "two checkpoints")

    def until_attempt(self, number: int) -> None:
        """Until an attempt has been started; looking at the run is what starts it."""

        def begun() -> bool:
            return bool(self.status()["attempt"] >= number)

        eventually(begun, f"attempt {number}")

    @property
    def packages(self) -> Path:
        """Folder of Python modules that a fault puts into the run's way."""
        folder = self.folder / "packages"
        folder.mkdir(exist_ok=True)
        return folder

    def left(self) -> list[str]:
        """What an ended run has left running."""
        return [_command_line(entry.pid) for entry in self.processes()]

    def processes(self, part: str = "") -> list[Entry]:
        """Living processes of the run, whose command line holds `part`."""
        found = [entry for entry in read_table(("LONGSHORE_RUN_ID",)) if self._is_ours(entry)]
        return [entry for entry in found if part in _command_line(entry.pid)]

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the one process whose command line holds `part`, as soon as there is one."""
        eventually(lambda: self.processes(part), f"a process of {part}")
        send(self.processes(part)[0], number)

    def script(self) -> int:
        """Process id of setup-and-run.sh."""
        return int((self.run_dir.attempt(max(self.run_dir.attempts())) / "pid").read_text().split(":")[0])

    def finish(self) -> dict[str, Any]:
        """Look at the run until it has ended."""
        eventually(lambda: self.status()["state"] in {"succeeded", "failed", "cancelled"}, "the end of the run")
        return self._last

    def resumed_at(self) -> list[int]:
        """Steps that its attempts went on from, the first one left out."""
        logs = [self.run_dir.log(number) for number in self.run_dir.attempts()]
        texts = [log.read_text(errors="replace") for log in logs if log.exists()]
        found = [re.findall(r"resuming from step (\d+)", text) for text in texts[1:]]
        return [int(steps[0]) if steps else 0 for steps in found]

    def registry_is_sound(self) -> bool:
        with sqlite3.connect(self.home / REGISTRY) as database:
            return bool(database.execute("PRAGMA integrity_check").fetchone() == ("ok",))

    def fastest(self) -> float:
        """Optimiser steps a second of the fastest log line."""
        return max((line["throughput/steps_per_s"] for line in self.run_dir.read_metrics()), default=0.0)

    def curve_is_whole(self) -> bool:
        """Whether the metrics have every log line up to the end, once each and in order."""
        lines = [line["step"] for line in self.run_dir.read_metrics()]
        return lines == list(range(4, self.steps + 1, 4))

    def end(self) -> None:
        """Leave nothing running, whatever a fault has left."""
        for entry in self.processes():
            send(entry, signal.SIGKILL)

    def _is_ours(self, entry: Entry) -> bool:
        return entry.state != "Z" and bool(self.run_id) and entry.environment.get("LONGSHORE_RUN_ID") == self.run_id

    def _surroundings(self) -> dict[str, Any]:
        own = {"LONGSHORE_HOME": str(self.home), "XDG_CONFIG_HOME": str(self.folder), "OMP_NUM_THREADS": "1"}
        return {"cwd": self.folder, "env": os.environ | own, "stdin": subprocess.DEVNULL}


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until something holds, for `PATIENCE` seconds at most."""
    waiting.eventually(condition, PATIENCE, what)


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
