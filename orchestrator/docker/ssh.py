"""An engine on another machine, reached as Docker's own command line reaches it: `ssh HOST docker system dial-stdio`.

ssh's own configuration, keys and known_hosts count, jump hosts too, and it never asks a question. docker-py could start
ssh itself, but talks to it through pipes: those know of no timeout, cannot be closed for writing alone, which is how a
container hears that it has all of its secrets, and leave a process behind for each request. Here a connection is a
socket of this machine, whose other end is ssh's input and output.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from orchestrator.errors import BackendError
from orchestrator.remote.ssh import forget, learn

SCHEME = "ssh://"
OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "BatchMode": "yes",  # what is asked on a terminal would hang a script, and come in the middle of a progress bar
        "ConnectTimeout": "20",  # seconds
        "ServerAliveInterval": "15",  # seconds
        "ServerAliveCountMax": "4",
    }
)
DIAL = "docker system dial-stdio"
END_SECONDS = 5.0  # for an ssh that was told to end


@dataclass(frozen=True)
class SshAddress:
    """`ssh://[USER@]HOST[:PORT]`; HOST may be a name of ~/.ssh/config."""

    host: str
    user: str | None = None
    port: int | None = None

    @staticmethod
    def of(where: str) -> SshAddress:
        """Read one.

        Raises:
            BackendError: It is none.
        """
        with contextlib.suppress(ValueError):  # of the port
            parts = urlsplit(where)
            if parts.hostname and not parts.hostname.startswith("-") and not parts.password:
                host = parts.netloc.rpartition("@")[2].partition(":")[0] if "[" not in where else parts.hostname
                if parts.path in ("", "/") and not parts.query:
                    return SshAddress(host, parts.username, parts.port)
        raise BackendError(f"{where} is no address of an engine; write ssh://USER@HOST or ssh://USER@HOST:PORT")

    @property
    def words(self) -> tuple[str, ...]:
        """What is typed behind `ssh`."""
        user = ("-l", self.user) if self.user else ()
        port = ("-p", str(self.port)) if self.port else ()
        return (*user, *port, "--", self.host)

    @property
    def command(self) -> str:
        """How a user would type it."""
        port = f"-p {self.port} " if self.port else ""
        return f"ssh {port}{shlex.quote(f'{self.user}@{self.host}' if self.user else self.host)}"


class SshEngine:
    """Connects whoever connects to a socket of this machine to an engine elsewhere, while it is entered.

    Args:
        where: `ssh://[USER@]HOST[:PORT]`.

    Raises:
        BackendError: `where` is something else, or there is no ssh.
    """

    def __init__(self, where: str) -> None:
        self._address = SshAddress.of(where)
        if shutil.which("ssh") is None:
            raise BackendError(f"{where}: there is no command `ssh` here")
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> SshEngine:
        asked = subprocess.run(["ssh", "-G", *self._address.words], capture_output=True, text=True, check=False)
        self._configured = dict(line.split(" ", 1) for line in asked.stdout.splitlines() if " " in line)
        self._folder = tempfile.TemporaryDirectory(prefix="longshore-")  # nobody else may look into it
        self._said = tempfile.TemporaryFile("a+b")  # by ssh on standard error, at the end wherever it is being read
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(f"{self._folder.name}/engine.sock")
        self._server.listen()
        self._thread = threading.Thread(target=self._serve, name="ssh-engine", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # closing alone would leave the thread waiting
        self._server.close()
        self._thread.join()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._said.close()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """Of the socket."""
        return f"unix://{self._folder.name}/engine.sock"

    def reason(self) -> str:
        """What went wrong, as far as ssh has said, and what to do about it; in one line."""
        self._said.seek(0)
        host, port = self._configured.get("hostname", self._address.host), self._configured.get("port", "22")
        known_as = host if port == "22" else f"[{host}]:{port}"
        return explained(self._said.read().decode(errors="replace"), self._address, known_as)

    def _serve(self) -> None:
        options = dict(OPTIONS)
        # All connections share the first one's session, unless the user's configuration has them share another.
        if self._configured.get("controlpath", "none") == "none":
            options |= {"ControlMaster": "auto", "ControlPath": f"{self._folder.name}/shared", "ControlPersist": "no"}
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        command = ["ssh", "-T", *words, *self._address.words, DIAL]
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                with near:
                    self._processes.append(self._started(command, near))

    def _started(self, command: list[str], near: socket.socket) -> Any:
        streams: dict[str, Any] = {"stdin": near, "stdout": near, "stderr": self._said}
        # In a session of its own: neither Ctrl-C nor a question reaches the terminal.
        return subprocess.Popen(command, **streams, start_new_session=True)


def explained(said: str, address: SshAddress, known_as: str) -> str:
    """One line about what ssh, or Docker's command line over there, has said on standard error.

    Args:
        said: All of it.
        address: Of the engine.
        known_as: Its machine's name in known_hosts.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if "Host key verification failed" in said and "UNKNOWN port" in said:
        return f"the host key of a host on the way there is not known, or has changed; try: {address.command}"
    if "IDENTIFICATION HAS CHANGED" in said:
        return f"the host key of {known_as} has changed; if you know why, forget the old: {forget(known_as)}"
    if "Host key verification failed" in said:
        return f"the host key of {known_as} is not known; compare it, then add it: {learn(known_as)}"
    if re.search(r"Permission denied \(|Too many authentication failures", said):
        return f"it lets you in with none of your keys; try: {address.command}"
    if re.search(r"docker: (command )?not found|docker: No such file", said):
        return "there is no command `docker` on it"
    if re.search(r"dial unix \S+: connect: permission denied", said):
        return "you may not use Docker there; add yourself to its group `docker`"
    if refused := re.search(r"dial unix \S+: connect: .+", said):
        return f"Docker does not run there ({refused[0]}); on it, `systemctl start docker`"
    reason = f"{lines[-1]}; " if lines else ""
    return f"{reason}`{address.command} docker version` must work without a question"
