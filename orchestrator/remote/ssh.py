"""A host that is reached over SSH: one connection, opened when it is needed and again after it was lost.

Who the host is, is never taken on trust: a key that known_hosts does not hold, or that is another one, is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import secrets
import shlex
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from orchestrator.errors import BackendError
from orchestrator.hosts import Completed, append_blocks

if TYPE_CHECKING:
    from fabric import Connection
    from paramiko import SFTPClient

CONNECT_TIMEOUT = 20  # seconds to reach a host, and as many for each later step of opening a connection
KEEPALIVE = 15  # seconds between two signs of life; a firewall forgets what is silent for some minutes
COMMAND_TIMEOUT = 120.0  # seconds for a command whose caller sets no limit
LOST = -1  # what paramiko gives for the exit code of a command whose connection went away
ROUTINE_ERRORS = (errno.ENOENT, errno.EACCES, errno.EEXIST)  # an answer of the far side, no loss of the connection


@dataclass
class SshHost:
    """One machine, reached over SSH as OpenSSH would: ~/.ssh/config, known_hosts, keys and the agent count.

    Attributes:
        target: `[USER@]HOST[:PORT]`; HOST may be a name of ~/.ssh/config.
        jump: A host of the same form to go through, or several with commas between, the nearest first; where there is
            none, ~/.ssh/config's ProxyJump or ProxyCommand.
        key: File of a private key, besides those that ~/.ssh/config names.
        folder: Where `config` and `known_hosts` lie.
    """

    target: str
    jump: str | None = None
    key: str | None = None
    folder: Path = field(default_factory=lambda: Path.home() / ".ssh")
    _open: Connection | None = field(default=None, init=False, repr=False)
    _known_as: dict[str, str] = field(default_factory=dict, init=False, repr=False)  # names in known_hosts, by host

    def run(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Completed:
        """As of every host; without `environment` its variables are those of a login without a terminal.

        Variables go through the command line, which every user of the host can see: no secrets.
        """
        from invoke.exceptions import CommandTimedOut

        words = [*argv] if environment is None else ["env", "-i", *(f"{k}={v}" for k, v in environment.items()), *argv]
        limit = COMMAND_TIMEOUT if timeout is None else timeout
        with self._explained():
            connection, done, began = self._connection(), None, time.monotonic()
            with contextlib.suppress(CommandTimedOut):
                done = connection.run(
                    f"{shlex.join(words)} </dev/null",
                    hide=True,
                    warn=True,
                    in_stream=False,
                    timeout=limit,
                    encoding="utf-8",
                )
        # Invoke says that its timer has hung up only when the timer's thread has ended by then.
        if done is None or (done.exited == LOST and time.monotonic() - began >= limit):
            self.close()  # the only way to end it over there is to hang up
            raise BackendError(f"{self.target}: {argv[0]}: no answer within {limit:g} s")
        if done.exited == LOST:
            self.close()
            raise BackendError(f"{self.target}: the connection was lost while {argv[0]} ran there")
        if done.exited == 127 and "not found" in done.stderr:
            raise BackendError(f"{self.target}: {argv[0]}: No such file or directory")
        return Completed(tuple(argv), done.exited, done.stdout, done.stderr)

    def put(self, source: Path, target: Path) -> None:
        if not source.is_dir():
            with self._explained(), self._sftp() as sftp:
                _make_folder(sftp, target.parent.as_posix())
                temporary = _temporary(target)
                sftp.put(str(source), temporary)
                sftp.chmod(temporary, source.stat().st_mode & 0o777)
                sftp.posix_rename(temporary, target.as_posix())
            return
        # As one stream: a round trip for each file of a folder would take minutes from afar.
        with tempfile.TemporaryFile() as packed:
            with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
                archive.add(source, arcname=".")
            packed.seek(0)
            temporary = _temporary(target)
            with self._explained(), self._sftp() as sftp:
                _make_folder(sftp, target.parent.as_posix())
                with sftp.open(temporary, "wx") as file:
                    sftp.chmod(temporary, 0o600)
                    file.set_pipelined(True)
                    while block := packed.read(1 << 20):
                        file.write(block)
        unpack = 'mkdir -p -- "$2" && tar -xzf "$1" -C "$2" --no-same-owner && rm -f -- "$1"'
        self._need(("sh", "-c", unpack, "unpack", temporary, target.as_posix()), f"{target} cannot be written")

    def get(self, source: Path, target: Path) -> None:
        from stat import S_ISDIR

        target.parent.mkdir(parents=True, exist_ok=True)
        with self._explained(), self._sftp() as sftp:
            mode = sftp.stat(source.as_posix()).st_mode or 0
            if not S_ISDIR(mode):
                temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
                try:
                    sftp.get(source.as_posix(), str(temporary))
                    temporary.chmod(mode & 0o777)
                    temporary.replace(target)
                finally:
                    temporary.unlink(missing_ok=True)
                return
        packed = _temporary(source)
        try:
            self._need(("tar", "-czf", packed, "-C", source.as_posix(), "."), f"{source} cannot be read")
            with tempfile.TemporaryFile() as file, self._explained(), self._sftp() as sftp:
                sftp.getfo(packed, file)
                file.seek(0)
                with tarfile.open(fileobj=file, mode="r:gz") as archive:
                    archive.extractall(target, filter="tar")
        finally:
            with contextlib.suppress(BackendError):
                self.run(("rm", "-f", "--", packed))

    def append(self, source: Path, target: Path, progress: Callable[[int], None]) -> None:
        with (
            self._explained(),
            self._sftp() as sftp,
            sftp.open(source.as_posix(), "rb") as file,
            target.open("ab") as copy,
        ):
            size = file.stat().st_size or 0
            file.seek(copy.tell())
            if copy.tell() < size:
                file.prefetch(size)  # asks for all of the rest at once: a round trip for each block would take minutes
            append_blocks(file.read, copy, progress)

    def stream(self, argv: Sequence[str]) -> int:
        with self._explained():
            done = self._connection().run(f"{shlex.join(argv)} </dev/null", warn=True, in_stream=False)
        if done.exited == LOST:
            self.close()
            raise BackendError(f"{self.target}: the connection was lost while {argv[0]} ran there")
        return int(done.exited)

    def write(self, path: Path, text: str, *, mode: int = 0o666) -> None:
        with self._explained(), self._sftp() as sftp:
            _make_folder(sftp, path.parent.as_posix())
            temporary = _temporary(path)
            with sftp.open(temporary, "wx") as file:
                if mode != 0o666:
                    sftp.chmod(temporary, mode)  # while it is empty
                file.write(text.encode())
            sftp.posix_rename(temporary, path.as_posix())

    def close(self) -> None:
        connection, self._open = self._open, None
        while connection is not None and not isinstance(connection, str):
            with contextlib.suppress(Exception):  # it may be half dead
                connection.close()
                connection.client.close()
            connection = connection.gateway or None

    def _need(self, argv: Sequence[str], what: str) -> None:
        done = self.run(argv)
        if done.exit_code != 0:
            reason = done.stderr.strip().splitlines() or [f"exit code {done.exit_code}"]
            raise BackendError(f"{self.target}: {what}: {reason[-1]}")

    def _connection(self) -> Connection:
        """The open connection."""
        if self._open is not None and self._open.is_connected:
            return self._open
        self.close()
        connection = self._prepared()
        connection.open()
        connection.transport.set_keepalive(KEEPALIVE)
        self._open = connection
        return connection

    def _prepared(self) -> Connection:
        from fabric import Config, Connection
        from paramiko import SSHConfig

        ssh_config = SSHConfig()
        if (path := self.folder / "config").exists():
            with path.open(encoding="utf-8") as lines:
                ssh_config.parse(lines)
        # Nothing of fabric's own configuration files: what OpenSSH does not read, nobody would look for.
        config = Config(ssh_config=ssh_config, lazy=True)
        timeouts = {"banner_timeout": CONNECT_TIMEOUT, "auth_timeout": CONNECT_TIMEOUT}
        keys = {"key_filename": [os.path.expanduser(self.key)]} if self.key else {}
        connection = None
        jumps = self.jump or ssh_config.lookup(_name_of(self.target)).get("proxyjump", "none")
        for name in [*([] if jumps == "none" else jumps.split(",")), self.target]:
            connection = Connection(
                name,
                config=config,
                gateway=connection if connection is not None or jumps != "none" else None,
                connect_timeout=CONNECT_TIMEOUT,
                connect_kwargs={**timeouts, **keys},
            )
            self._check_keys(connection)
            host, port = connection.host, connection.port
            self._known_as[host] = host if port == 22 else f"[{host}]:{port}"
        return connection

    def _check_keys(self, connection: Connection) -> None:
        """Have the host's key compared with those of known_hosts; fabric accepts unknown ones unless told otherwise."""
        from paramiko import RejectPolicy

        connection.client.set_missing_host_key_policy(RejectPolicy())
        named = connection.ssh_config.get("userknownhostsfile", str(self.folder / "known_hosts")).split()
        for name in (*named, "/etc/ssh/ssh_known_hosts"):
            if os.path.exists(path := os.path.expanduser(name)):
                connection.client.load_system_host_keys(path)

    @contextlib.contextmanager
    def _sftp(self) -> Iterator[SFTPClient]:
        """The connection's channel for files."""
        sftp = self._connection().sftp()
        sftp.get_channel().settimeout(COMMAND_TIMEOUT)
        yield sftp

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what can go wrong into one line that says what to do."""
        from paramiko import AuthenticationException, BadHostKeyException, SSHException
        from paramiko.ssh_exception import NoValidConnectionsError

        try:
            yield
        except BackendError:
            raise
        except BadHostKeyException as error:
            name = self._known_as.get(error.hostname, error.hostname)
            self._fail(f"the host key of {name} has changed; if you know why, forget the old: {forget(name)}", error)
        except AuthenticationException as error:
            self._fail(f"it lets you in with none of your keys ({error}); try: ssh {self.target}", error)
        except NoValidConnectionsError as error:
            self._fail(f"nothing answers ({error.strerror})", error)
        except SSHException as error:
            if "not found in known_hosts" in str(error):
                name = str(error).split("'")[1]
                self._fail(f"the host key of {name} is not known; compare it, then add it: {learn(name)}", error)
            self._fail(f"the connection was lost ({error or type(error).__name__})", error)
        except OSError as error:
            if error.errno in ROUTINE_ERRORS or (error.errno is None and str(error) == "Failure"):
                raise BackendError(f"{self.target}: {error.strerror or error}") from error
            self._fail(f"it cannot be reached ({error.strerror or error or type(error).__name__})", error)
        except EOFError as error:
            self._fail("the connection was lost", error)

    def _fail(self, message: str, cause: Exception) -> NoReturn:
        self.close()
        raise BackendError(f"{self.target}: {message}") from cause


def forget(name: str) -> str:
    """The command that takes a host out of known_hosts."""
    return f"ssh-keygen -R {shlex.quote(name)}"


def learn(name: str) -> str:
    """The command that adds a host, as known_hosts writes it (`HOST` or `[HOST]:PORT`), to known_hosts."""
    host, _, port = name.removeprefix("[").partition("]:")
    return f"ssh-keyscan {f'-p {port} ' if port else ''}{shlex.quote(host)} >> ~/.ssh/known_hosts"


def _name_of(target: str) -> str:
    """HOST of `[USER@]HOST[:PORT]`."""
    return target.rpartition("@")[2].partition(":")[0]


def _temporary(path: Path) -> str:
    return str(path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp"))


def _make_folder(sftp: SFTPClient, path: str) -> None:
    """Make a folder and its parents."""
    try:
        sftp.stat(path)
    except FileNotFoundError:
        _make_folder(sftp, posixpath.dirname(path))
        with contextlib.suppress(OSError):  # somebody else was faster; if not, what is put there fails
            sftp.mkdir(path)
