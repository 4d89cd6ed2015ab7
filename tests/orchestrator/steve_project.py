"""A project whose runs go behind steve: the test double of tests/fakes/steve_cluster.py, and a stand-in trainer."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from command_line import REPOSITORY, Project

from trainer.run_dir import RunDir

FAKES = REPOSITORY / "tests" / "fakes"
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m trainer" ]; then
  shift 2
  PYTHONPATH={repository} exec {python} {trainer} "$@"
elif [ "$1" = - ]; then
  cat >>"$2" </dev/null
  case "$STANDIN $3" in
    *facts) ;;
    broken*) echo "there is no torch" >"$2" && exit 1 ;;
  esac
fi
"""
JOB = """\
name: tiny
backend: steve
image: example/tool:1
resources: {gpus: 0, time: "10:00", partition: fast}
environment: {STANDIN: %s}
secrets: [TINY_TOKEN]
train: {env.backend: mjlab, env.name: Mjlab-Cartpole-Balance}
retry: {max: 1, on: [node-failure], backoff: 1s}
"""
# For plans alone.
SWEEP = """\
name: seeds
backend: steve
image: example/tool:1
resources: {gpus: 1, time: "24:00:00", partition: fast}
environment: {WANDB_MODE: online}
train: {env.name: Mjlab-Cartpole-Balance}
sweep: {seed: [0, 1, 2, 3, 4], max_parallel: %d}
"""
TOKEN = "hunter2-hunter2"


class Steve(Project):
    """A folder where commands are typed, and the cluster."""

    @property
    def cluster(self) -> Path:
        return self.folder / "cluster"

    def set(self, **settings: object) -> None:
        """How the cluster behaves."""
        base = {"container": str(self.folder / "root"), "path": str(self.cluster / "bin")}
        (self.cluster / "settings.json").write_text(json.dumps(base | settings))

    def assume(
        self, commands: dict[str, list[str]] | None = None, shared: Path | None = None, **changes: object
    ) -> None:
        """Write the profile."""
        assume = {"folder": str(self.folder / "root"), "pull": "1s", "lost": "1s", "ready": "1s"} | changes
        site = {"shared": str(shared)} if shared else {}
        (self.folder / "profiles.yaml").write_text(
            json.dumps({"default": {"steve": {"assume": assume, "commands": commands or {}} | site}})
        )

    def submit(self, behaviour: str, *words: str, sweep: str = "") -> list[RunDir]:
        """Submit the job, with a sweep where there is one; returns the run directories."""
        (self.folder / "tiny.yaml").write_text(JOB % behaviour + (f"sweep: {sweep}\n" if sweep else ""))
        return [RunDir(self.home / run_id) for run_id in self.run("submit", "tiny.yaml", *words).stdout.split()]

    def status(self, run: RunDir | None = None) -> dict:
        """Of a run, or the last one."""
        return json.loads(self.run("status", run.root.name if run else "last", "--json").stdout)

    def calls(self, *verb: str) -> list[list[str]]:
        """Commands that were typed."""
        lines = (self.cluster / "calls").read_text().splitlines()
        return [words for words in map(json.loads, lines) if words[: len(verb)] == list(verb)]

    def begun(self, runs: Sequence[RunDir]) -> list[tuple[int, int]]:
        """Attempts that have begun to train, in order: which of some runs, and the attempt's number."""
        names = [run.root.name for run in runs]
        lines = (self.cluster / "begun").read_text().splitlines()
        return [(names.index(run), int(attempt)) for run, attempt in map(str.split, lines)]

    def jobs(self) -> list[Path]:
        """Allocations that there are."""
        folder = self.cluster / "jobs"
        return list(folder.iterdir()) if folder.is_dir() else []


@contextmanager
def steve_project(folder: Path) -> Iterator[Steve]:
    """A project and its cluster; on the way out all allocations are given back."""
    variables = {
        "FAKE_STEVE": str(folder / "cluster"),
        "FAKE_STEVE_PYTHON": sys.executable,
        "PATH": f"{FAKES}:{os.environ['PATH']}",
        "TINY_TOKEN": TOKEN,
    }
    project = Steve(folder, variables)
    binaries = project.cluster / "bin"
    binaries.mkdir(parents=True)
    words = {
        "repository": REPOSITORY,
        "python": sys.executable,
        "trainer": Path(__file__).with_name("steve_trainer.py"),
    }
    (binaries / "python3").write_text(PYTHON.format(**{name: shlex.quote(str(word)) for name, word in words.items()}))
    (binaries / "python3").chmod(0o755)
    project.set()
    project.assume()
    try:
        yield project
    finally:
        for job in project.jobs():
            subprocess.run([str(FAKES / "scancel"), job.name], env=project.variables(), check=False)
