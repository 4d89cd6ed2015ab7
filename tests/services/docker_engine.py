"""A Docker Engine of the tests' own: private sockets and folders, no bridge, started and stopped by process id.

As on a machine where a package manager installed it, containerd is a process of its own, which the daemon's restart or
death does not touch.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest

CONTAINERD = """\
version = 2
root = "{folder}/containerd"
state = "{folder}/exec/containerd"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/containerd.sock"
"""
START_TAKES = 60.0  # seconds
STOP_TAKES = 60.0  # seconds; containers get fifteen of them


@dataclass
class Engine:
    """One dockerd with all that is its own below one folder."""

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="longshore-", dir="/var/tmp")))
    process: subprocess.Popen[bytes] | None = None
    containerd: subprocess.Popen[bytes] | None = None
    kept: bool = False  # its images are wanted again

    @property
    def address(self) -> str:
        return f"unix://{self.folder}/engine.sock"

    @property
    def client(self) -> docker.APIClient:
        return docker.APIClient(base_url=self.address, timeout=600)

    def start(self, *, live_restore: bool = False) -> None:
        """Start it and wait until it answers."""
        if self.containerd is None:
            (self.folder / "containerd.toml").write_text(CONTAINERD.format(folder=self.folder))
            self.containerd = self._spawn("containerd", "--config", f"{self.folder}/containerd.toml")
        words = ["dockerd", f"--containerd={self.folder}/containerd.sock", f"--host={self.address}"]
        words += [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid"]
        words += ["--bridge=none", "--iptables=false"]
        self.process = self._spawn(*words, *(["--live-restore"] if live_restore else []))
        deadline = time.monotonic() + START_TAKES
        while True:
            with contextlib.suppress(docker.errors.DockerException, OSError):
                self.client.ping()
                return
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, "dockerd does not answer"
            time.sleep(0.2)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=STOP_TAKES)
            self.process = None
        if number == signal.SIGKILL:
            (self.folder / "pid").unlink(missing_ok=True)

    def end(self) -> None:
        """Remove all containers, stop, and leave nothing behind."""
        with contextlib.suppress(docker.errors.DockerException, OSError):
            for container in self.client.containers(all=True):
                self.client.remove_container(container["Id"], force=True, v=True)
            for volume in self.client.volumes()["Volumes"] or []:
                self.client.remove_volume(volume["Name"])
        self.stop()
        if self.containerd is not None:
            self.containerd.terminate()
            self.containerd.wait(timeout=STOP_TAKES)
        if self.kept:
            return
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (target := line.split()[1]).startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", target], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def missing(*commands: str) -> str:
    """What an engine needs, and these commands besides, that is not here; empty where nothing is."""
    if os.geteuid() != 0:
        return "root"
    return ", ".join(command for command in ("dockerd", "containerd", *commands) if shutil.which(command) is None)


@contextlib.contextmanager
def running_engine(*commands: str, folder: Path | None = None) -> Iterator[Engine]:
    """A running engine; its tests are skipped where there can be none.

    Args:
        commands: That are needed besides.
        folder: Keeps its images for the next time.
    """
    if absent := missing(*commands):
        pytest.skip(f"needs {absent}")
    engine = Engine(folder, kept=True) if folder else Engine()
    try:
        engine.start()
        yield engine
    finally:
        engine.end()
