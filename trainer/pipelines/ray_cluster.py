"""A Ray cluster of a run's own over the tasks of its job: the first task has the head and trains, the others are nodes.

Ray's own command starts both. All ports are free ones and all folders their own, so that nodes of one run or of several
may share a machine. Whoever knows the token may run anything in the cluster: it stands in a file of the attempt that
only its owner can read, by which the nodes find the head. Imports neither torch nor Ray.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from trainer.role import STOP_SIGNALS
from trainer.run_dir import RunDir, read_json, write_atomically

TASK_VARIABLE = "LONGSHORE_TASK"  # which of them this is, from 0
TASKS_VARIABLE = "LONGSHORE_TASKS"  # how many there are
INVITATION = "ray.json"  # in the attempt's folder

# Two nodes on one machine would fight about Ray's own choices.
START = ("start", "--block", "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")
START += ("--include-log-monitor=false", "--log-style=record", "--log-color=false")


@dataclass(frozen=True)
class Invitation:
    """What a node needs to join: HOST:PORT of the head, and the cluster's token."""

    address: str
    token: str

    @contextmanager
    def published(self, run_dir: RunDir, attempt: int) -> Iterator[None]:
        """It lies where the attempt's other tasks look for it, until the end of the block."""
        path = run_dir.attempt(attempt) / INVITATION
        write_atomically(path, json.dumps(asdict(self)), mode=0o600)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    @staticmethod
    def read(run_dir: RunDir, attempt: int) -> Invitation | None:
        """That of an attempt; None where its head is not there yet."""
        raw = read_json(run_dir.attempt(attempt) / INVITATION)
        return None if raw is None else Invitation(**raw)

    @property
    def variables(self) -> Mapping[str, str]:
        """Of whoever joins; Ray reads them when it is imported."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}

    def answers(self, timeout: float = 5.0) -> bool:
        """Whether somebody listens at the address."""
        host, _, port = self.address.rpartition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), timeout):
            return True
        return False


def tasks_of(environment: Mapping[str, str]) -> int | None:
    """How many tasks run in the job of a batch system; None where this is none's."""
    if not environment.keys() & {TASKS_VARIABLE, "SLURM_JOB_ID"}:
        return None
    return int(environment.get(TASKS_VARIABLE) or 1)


def cores(environment: Mapping[str, str]) -> int:
    """Cores of this task."""
    return int(environment.get("SLURM_CPUS_PER_TASK") or len(os.sched_getaffinity(0)))


class RayNode:
    """`ray start` with a folder of its own, and all that it starts. Killed where the block is left that it is used in.

    Slurm sends its signals to every process of a step, and a learner whose Ray has ended is ended by Ray itself before
    it can save. So they are blocked in all of these processes.

    Args:
        words: For the command.
        invitation: Of the cluster.
        apart: In a process group of its own, which nobody else ends.
    """

    def __init__(self, words: Sequence[str], invitation: Invitation, *, apart: bool) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-")  # sockets lie in it, whose paths may have 107 characters
        self._apart = apart
        own = (f"--temp-dir={self._folder}", f"--num-cpus={cores(os.environ)}")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # is inherited
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", *START, *own, *words],
                env=os.environ | invitation.variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # advice to people; what goes wrong is on stderr
                process_group=0 if apart else None,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    @classmethod
    def head(cls, invitation: Invitation, gpus: int) -> RayNode:
        """The cluster's head.

        Args:
            invitation: Its address and token.
            gpus: How many of this task's GPUs simulators may have.
        """
        port = invitation.address.rpartition(":")[2]
        words = ("--head", f"--port={port}", f"--ray-client-server-port={free_port()}", f"--num-gpus={gpus}")
        return cls((*words, "--include-dashboard=false", "--disable-usage-stats"), invitation, apart=False)

    @classmethod
    def further(cls, invitation: Invitation) -> RayNode:
        """Another node of the cluster."""
        return cls((f"--address={invitation.address}",), invitation, apart=True)

    def __enter__(self) -> RayNode:
        return self

    def __exit__(self, *_: object) -> None:
        # The kernel ends its children then, and they theirs.
        os.kill(self._process.pid, signal.SIGKILL)  # `Popen.kill` would collect one that has ended, and free its number
        if self._apart:  # Ray's agents outlive it for a while
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def has_ended(self) -> bool:
        """Whether the command has ended by itself. Its number, which is its group's too, stays taken."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def free_port() -> int:
    """A TCP port that nobody has right now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


def attempt_is_over(run_dir: RunDir, attempt: int) -> bool:
    """Whether the first task has ended: its script writes that down."""
    return run_dir.exit_code(attempt).exists() or run_dir.success.exists()
