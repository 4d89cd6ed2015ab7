"""Where commands run and files are kept: this machine; `orchestrator.ssh` has the ones that are elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.errors import BackendError
from trainer.run_dir import write_atomically


@dataclass(frozen=True)
class Completed:
    """What a command left behind."""

    argv: tuple[str, ...]
    exit_code: int  # negative: the number of the signal that ended it
    stdout: str
    stderr: str


class Host(Protocol):
    """A place where commands are typed and files are kept.

    Every method raises BackendError where the host cannot be reached or the connection is lost on the way. What was
    asked for may have been done all the same: whoever asks again must be able to tell.
    """

    def run(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Completed:
        """Run a command without a shell and without input, and wait until its output is closed.

        Args:
            argv: The program and its arguments.
            environment: All of its variables; None for those of this process.
            timeout: Seconds after which it is ended.

        Raises:
            BackendError: There is no such program, or it took too long. An exit code is no error.
        """
        ...

    def put(self, source: Path, target: Path) -> None:
        """Copy a file or a folder of this machine to the host; missing parents of `target` are made.

        A file is there as a whole or not at all. A folder is laid over one that is there already.

        Raises:
            BackendError: There is no room, or no right to write.
        """
        ...

    def get(self, source: Path, target: Path) -> None:
        """Copy a file or a folder of the host to this machine, as `put` does in the other direction.

        Raises:
            BackendError: There is no such file, or no right to read it.
        """
        ...

    def write(self, path: Path, text: str, *, mode: int = 0o666) -> None:
        """Replace a file of the host, as a whole or not at all; missing parents are made.

        Args:
            path: Absolute.
            text: The whole new content.
            mode: Permissions from the first moment, less what the umask takes away: 0o600 for secrets.

        Raises:
            BackendError: There is no room, or no right to write.
        """
        ...

    def close(self) -> None:
        """Let go of what is kept open; the next call opens it again."""
        ...


@dataclass(frozen=True)
class LocalHost:
    """This machine."""

    def run(
        self, argv: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Completed:
        try:
            done = subprocess.run(
                argv,
                env=None if environment is None else dict(environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BackendError(f"{argv[0]}: no answer within {timeout:g} s") from error
        except OSError as error:
            raise BackendError(f"{argv[0]}: {error.strerror or error}") from error
        return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)

    def put(self, source: Path, target: Path) -> None:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
            else:
                temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
                shutil.copy2(source, temporary)
                temporary.replace(target)
        except OSError as error:  # copytree's own holds one for each file
            raise BackendError(f"{source} cannot be copied to {target}: {error.strerror or error}") from error

    def get(self, source: Path, target: Path) -> None:
        self.put(source, target)

    def write(self, path: Path, text: str, *, mode: int = 0o666) -> None:
        try:
            write_atomically(path, text, mode=mode)
        except OSError as error:
            raise BackendError(f"{path}: {error.strerror or error}") from error

    def close(self) -> None:
        pass
