"""A laptop without Slurm and without steve, and a login node with both: tests/fakes/steve_on_slurm.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.orchestrator.command_line import REPOSITORY
from tests.services.slurm_cluster import SlurmCluster
from tests.services.slurm_project import SlurmProject
from tests.services.sshd import Sshd
from trainer.run_dir import RunDir

SECRET = "hunter2-hunter2"
STATE = ["squeue", "--noheader", "--states=all", "--format=%T", "--jobs={job_id}"]
JOB = """\
name: {name}
backend: steve
profile: {profile}
image: example/tool:1
resources: {{gpus: {gpus}, time: "{time}", partition: normal}}
secrets: [{secrets}]
train: {{env.backend: debug, experiment: debug, optimization.total_optim_steps: {steps}, checkpoint.interval: 1}}
retry: {{max: {retries}, on: [node-failure, timeout, preempted], backoff: 1s}}
"""


class SteveProject(SlurmProject):
    """A folder on the laptop where commands are typed."""

    def write(self, name, *, profile="far", gpus=2, time="30:00", secrets="", steps=20, retries=0, more=""):
        values = {"gpus": gpus, "time": time, "secrets": secrets, "steps": steps, "retries": retries}
        (self.folder / f"{name}.yaml").write_text(JOB.format(name=name, profile=profile, **values) + more)
        return f"{name}.yaml"

    def submit_sweep(self, *words: str, timeout: float = 60) -> list[RunDir]:
        """Submit a job with a sweep; returns the run directories here."""
        return [RunDir(self.home / run_id) for run_id in self.run("submit", *words, timeout=timeout).stdout.split()]


def behave(steve: Path, **settings: object) -> None:
    """How what lies behind steve behaves; `steve` is its folder."""
    base = {"container": str(steve / "container"), "path": str(steve / "bin")}
    (steve / "settings.json").write_text(json.dumps(base | settings))


@contextmanager
def steve_site(folder: Path, cluster: SlurmCluster, steve: Path, assume: Mapping[str, Any]) -> Iterator[SteveProject]:
    """A project with three profiles: `far`, `shared`, which has a shared folder, and `alone`, where no steps overlap.

    Args:
        folder: Empty.
        cluster: Whose commands steve types.
        steve: The folder of what lies behind steve.
        assume: What is taken for granted of it, besides where things lie there.
    """
    sshd = Sshd(folder / "sshd", login_variables(cluster, steve))
    for path in (sshd.folder, folder / "laptop"):
        path.mkdir()
    sshd.start()
    home = {"HOME": str(sshd.folder / "home"), "MY_SECRET": SECRET, "PATH": "/nowhere"}
    project = SteveProject(folder / "laptop", home)
    # What an allocation died of is the cluster's to say, which takes as long as its processes take to end (KillWait).
    assume = {"staging": str(steve / "staging"), "pull": "10s", "lost": "1m", **assume}
    far = {"host": sshd.target, "key": str(sshd.key), "steve": {"assume": assume, "commands": {"state": STATE}}}
    profiles = {
        "far": far,
        "shared": {**far, "shared": str(steve / "shared")},
        "alone": {**far, "steve": {"assume": {**assume, "overlap": False}, "commands": {"state": STATE}}},
    }
    (project.folder / "profiles.yaml").write_text(json.dumps(profiles))
    try:
        yield project
    finally:
        sshd.stop()


def login_variables(cluster: SlurmCluster, steve: Path) -> dict[str, str]:
    """Variables of whoever types steve on the login node."""
    return {
        **cluster.variables,
        "PATH": f"{REPOSITORY / 'tests/fakes/slurm'}:{os.environ['PATH']}",
        "FAKE_STEVE": str(steve),
        "FAKE_STEVE_PYTHON": sys.executable,
    }


def refused_step(cluster: SlurmCluster, steve: Path, job: str) -> str:
    """What steve says when it will not do a step, typed on the host."""
    words = [str(REPOSITORY / "tests/fakes/slurm/steve"), "step", job, "true"]
    done = subprocess.run(words, env=os.environ | login_variables(cluster, steve), capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


def calls(steve: Path, *verb: str) -> list[list[str]]:
    """Commands that were typed to steve."""
    lines = (steve / "calls").read_text().splitlines()
    return [words[1:] for words in map(json.loads, lines) if words[1 : 1 + len(verb)] == list(verb)]


def allocations(cluster: SlurmCluster) -> list[str]:
    """Ids of the allocations that there are."""
    return cluster.run("squeue", "-h", "-o", "%A").split()
