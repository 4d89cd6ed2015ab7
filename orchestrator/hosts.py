"""Where commands run: on this machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestrator.errors import BackendError


@dataclass(frozen=True)
class Completed:
    """What a command left behind."""

    argv: tuple[str, ...]
    exit_code: int  # negative: the number of the signal that ended it
    stdout: str
    stderr: str


class Host(Protocol):
    """A place where commands are typed and files are kept."""

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
        """Copy a file or a folder of this machine to the host; missing parents of `target` are made."""
        ...

    def get(self, source: Path, target: Path) -> None:
        """Copy a file or a folder of the host to this machine; missing parents of `target` are made."""
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
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)

    def get(self, source: Path, target: Path) -> None:
        self.put(source, target)
