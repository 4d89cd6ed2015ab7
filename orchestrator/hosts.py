"""Where commands run and files are kept: this machine; `orchestrator.remote.ssh` has the ones that are elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from orchestrator.errors import BackendError
from trainer.run_dir import write_atomically

BLOCK = 1 << 20  # bytes read at once of a large file


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

    def append(self, source: Path, target: Path, progress: Callable[[int], None]) -> None:
        """Go on with a copy: add to a file of this machine what the host's has beyond that one's size.

        Args:
            source: On the host.
            target: On this machine; made where it is not there.
            progress: Is told of the size of `target` as it grows.

        Raises:
            BackendError: There is no such file, or the connection was lost; what has come stays.
        """
        ...

    def stream(self, argv: Sequence[str]) -> int:
        """Run a command without input, its output going to this process's own as it comes.

        Returns:
            Its exit code.

        Raises:
            BackendError: There is no such program.
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

    def append(self, source: Path, target: Path, progress: Callable[[int], None]) -> None:
        try:
            with source.open("rb") as file, target.open("ab") as copy:
                file.seek(copy.tell())
                append_blocks(file.read, copy, progress)
        except OSError as error:
            raise BackendError(f"{source} cannot be copied to {target}: {error.strerror or error}") from error

    def stream(self, argv: Sequence[str]) -> int:
        sys.stdout.flush()
        try:
            return subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode
        except OSError as error:
            raise BackendError(f"{argv[0]}: {error.strerror or error}") from error

    def write(self, path: Path, text: str, *, mode: int = 0o666) -> None:
        try:
            write_atomically(path, text, mode=mode)
        except OSError as error:
            raise BackendError(f"{path}: {error.strerror or error}") from error

    def close(self) -> None:
        pass


def append_blocks(read: Callable[[int], bytes], copy: BinaryIO, progress: Callable[[int], None]) -> None:
    """Write what `read` gives to the end of a file."""
    while block := read(BLOCK):
        copy.write(block)
        progress(copy.tell())
