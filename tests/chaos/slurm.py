"""What can go wrong with a run on Slurm that was submitted through SSH: a real Slurm, a real sshd, as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.faults import EARLY, Fault
from tests.chaos.subject import PATIENCE, Subject, eventually
from tests.services.slurm_cluster import SlurmCluster, missing
from tests.services.sshd import Sshd

PROFILE = """\
default: {{host: "{target}", key: {key}, shared: {shared}, python: {python}}}
"""


@dataclass
class Site:
    """A cluster and its login node."""

    cluster: SlurmCluster
    sshd: Sshd


@dataclass
class SlurmSubject(Subject):
    """A run on a cluster whose folders are not seen from here; looking at it brings what it has written."""

    site: Site | None = None
    backend: str = "slurm"

    @property
    def place(self) -> Site:
        assert self.site is not None
        return self.site

    def submit(self, *train: str, **changes: Any) -> None:
        sshd = self.place.sshd
        shared = self.place.cluster.folder / f"shared-{self.folder.name}"
        shared.mkdir()
        text = PROFILE.format(target=sshd.target, key=sshd.key, shared=shared, python=sys.executable)
        (self.folder / "profiles.yaml").write_text(text)
        super().submit(*train, **changes)

    def step(self) -> int:
        self.status()
        return super().step()

    def finish(self) -> dict[str, Any]:
        found = super().finish()
        self.command("pull", self.run_id)
        return found

    def node(self) -> str:
        """The node that it is on."""
        job = str(self.status()["handle"])
        return self.place.cluster.run("squeue", "-h", "-o", "%N", "-j", job).strip()

    def _surroundings(self) -> dict[str, Any]:
        inherited = super()._surroundings()
        return {**inherited, "env": inherited["env"] | {"HOME": str(self.place.sshd.folder / "home")}}


def lacking() -> str:
    """What a site needs that is not here; empty where nothing is."""
    return "root" if os.geteuid() != 0 else ", ".join(missing())


@contextlib.contextmanager
def site() -> Iterator[Site]:
    """A site of its own, for as long as it is needed."""
    cluster = SlurmCluster(Path(tempfile.mkdtemp(prefix="chaos-", dir="/var/tmp")))
    sshd = Sshd(cluster.folder / "login", {**cluster.variables, "PATH": os.environ["PATH"]})
    sshd.folder.mkdir()
    try:
        cluster.start()
        sshd.start()
        yield Site(cluster, sshd)
    finally:
        sshd.stop()
        cluster.stop()
        shutil.rmtree(cluster.folder, ignore_errors=True)


def _begun(run: Subject) -> SlurmSubject:
    assert isinstance(run, SlurmSubject)
    run.submit()
    run.until_step(EARLY)
    return run


def kill_of_slurmd(subject: Subject) -> int:
    """The node's daemon is gone for some seconds; what it has started goes on."""
    run = _begun(subject)
    node = run.node()
    run.place.cluster.kill_daemon(node)
    time.sleep(5)
    run.place.cluster.start_node(node)
    return 0


def dead_node(subject: Subject) -> int:
    """The node loses its power; the run goes on elsewhere."""
    run = _begun(subject)
    node, step = run.node(), run.step()
    run.place.cluster.kill_node(node)
    eventually(lambda: len(run.status()["attempts"]) > 1, "another attempt")
    run.place.cluster.start_node(node)
    return step


def requeue(subject: Subject) -> int:
    """Slurm puts the job back into its queue."""
    run = _begun(subject)
    step = run.step()
    run.place.cluster.run("scontrol", "requeue", str(run.status()["handle"]))
    return step


def kill_of_sshd(subject: Subject) -> int:
    """The login node does not answer while somebody waits; then it does."""
    run = _begun(subject)
    waiting = run.start_command("wait", run.run_id)
    time.sleep(3)
    run.place.sshd.kill()
    time.sleep(3)
    if run.command("status", run.run_id, check=False).returncode != 3:
        raise AssertionError("`status` does not say that the host cannot be reached")
    run.place.sshd.start()
    if waiting.wait(PATIENCE) != 0:
        raise AssertionError("`wait` has not waited until the host could be reached again")
    return 0


def faults() -> list[Fault]:
    """All of them."""
    again = frozenset({"preempted", "node-failure", None})
    return [
        Fault("Slurm: kill -9 of slurmd", kill_of_slurmd, frozenset(), place="slurm"),
        Fault("Slurm: the node dies", dead_node, again, place="slurm"),
        Fault("Slurm: scontrol requeue", requeue, again, place="slurm"),
        Fault("Slurm: kill -9 of the login node's sshd", kill_of_sshd, frozenset(), place="slurm"),
    ]
