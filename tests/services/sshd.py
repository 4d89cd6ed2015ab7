"""A real sshd of the tests' own on loopback, and a proxy before it that cuts connections where a test wants it."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.processes import read_table, send

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized_keys
AuthenticationMethods publickey
UsePAM no
StrictModes no
PermitRootLogin yes
MaxSessions 20
Subsystem sftp internal-sftp
{variables}
"""
START_TAKES = 10.0  # seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Sshd:
    """One sshd; `dot_ssh` is the folder of a user who may log in and who knows it.

    Attributes:
        folder: Empty; everything of it lies there.
        variables: Of every command that is run through it.
    """

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def dot_ssh(self) -> Path:
        return self.folder / "home" / ".ssh"

    @property
    def user(self) -> str:
        return getpass.getuser()

    @property
    def target(self) -> str:
        return f"{self.user}@127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return str(self.dot_ssh / "id_ed25519")

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.dot_ssh.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in (self.folder / "host_key", Path(self.key)):
            if not path.exists():
                make_key(path)
        shutil.copy(f"{self.key}.pub", self.folder / "authorized_keys")
        (self.dot_ssh / "known_hosts").write_text(self.known_as(self.port))
        words = " ".join(f'"{name}={value}"' for name, value in self.variables.items())
        text = CONFIG.format(folder=self.folder, port=self.port, variables=f"SetEnv {words}" if words else "")
        (self.folder / "sshd_config").write_text(text)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where it locks its unprivileged part into
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["/usr/sbin/sshd", "-D", "-e", "-f", str(self.folder / "sshd_config")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TAKES
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
            assert time.monotonic() < deadline, "sshd does not answer"
            time.sleep(0.02)

    def known_as(self, port: int) -> str:
        """Its line of known_hosts when it is reached through a port."""
        return f"[127.0.0.1]:{port} {(self.folder / 'host_key.pub').read_text()}"

    def kill(self) -> None:
        """End it at once, with all that it serves."""
        assert self.process is not None
        for entry in read_table(()):  # a process for each connection
            if self.process.pid in (entry.pid, entry.parent, entry.session):
                send(entry, signal.SIGKILL)
        self.process.wait(timeout=10)
        self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=10)
            self.process = None


class SshUser:
    """Somebody whose ssh has a configuration of its own: OpenSSH looks nowhere but in the home of the user's entry.

    Args:
        folder: Empty; a command `ssh` lies there, and what it reads.
        sshd: Known, and lets this user in.
    """

    def __init__(self, folder: Path, sshd: Sshd) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "ssh").write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/config "$@"\n')
        (folder / "ssh").chmod(0o755)
        self.knows(sshd.known_as(sshd.port), sshd.key)

    @property
    def path(self) -> str:
        """PATH with that command in front."""
        return f"{self.folder}:{os.environ['PATH']}"

    def knows(self, hosts: str, key: str, *lines: str) -> None:
        """Have these lines of known_hosts, and this key."""
        (self.folder / "known_hosts").write_text(hosts)
        always = (f"IdentityFile {key}", "IdentitiesOnly yes", f"UserKnownHostsFile {self.folder}/known_hosts")
        (self.folder / "config").write_text("\n".join([*lines, "Host *", *(f" {line}" for line in always), ""]))


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


@dataclass
class CuttingProxy:
    """Passes bytes on to a port, until it has passed `budget` of them in both directions: then it hangs up for good.

    Attributes:
        target: Port of this machine.
        budget: Bytes; None for no limit.
        delay: Seconds that each piece is held back for.
    """

    target: int
    budget: int | None = None
    delay: float = 0.0
    passed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sockets: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> CuttingProxy:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hang_up()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self._sockets += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := one.recv(4096):
                with self._lock:
                    self.passed += len(block)
                    over = self.budget is not None and self.passed > self.budget
                if over:
                    self._hang_up()
                    return
                time.sleep(self.delay)
                other.sendall(block)
            other.shutdown(socket.SHUT_WR)

    def _hang_up(self) -> None:
        for opened in (self._server, *self._sockets):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()
