"""The registry's file: opened or made, brought up to this version, and changed in whole steps or not at all."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator import sharing
from orchestrator.errors import LongshoreError
from orchestrator.filesystem import MOUNTS, network_file_system
from orchestrator.records import MIGRATIONS, SCHEMA, VERSION
from orchestrator.states import TERMINAL

REGISTRY = "registry.sqlite3"
JOURNAL_TIMEOUT = 15.0  # seconds to wait for all others to let go of the file, on its first use or after a move
BUSY_TIMEOUT = 60.0  # seconds that a writer waits for its turn; each of them holds the file for milliseconds
ENDED = f"({', '.join(repr(str(state)) for state in sorted(TERMINAL))})"  # in SQL: the states of runs that have ended


class Registry:
    """One SQLite file, safe under many processes at once.

    Attributes:
        home: The folder that it lies in.
        user: Who opened it.
        warnings: What its user should know of where it lies.
    """

    def __init__(
        self,
        home: Path,
        *,
        clock: Callable[[], float] = time.time,
        mounts: str | None = None,
        user: str | None = None,
    ) -> None:
        """Open the registry, or make it.

        Args:
            home: Folder of all runs.
            clock: Gives unix seconds.
            mounts: The machine's table of mounts; read from /proc by default.
            user: Who opens it; whoever this process belongs to by default.

        Raises:
            LongshoreError: It cannot be read or written, or a newer version wrote it.
        """
        self.home = home
        self.user = sharing.user() if user is None else user
        self.path = home / REGISTRY
        self._clock = clock
        table = MOUNTS.read_text(encoding="utf-8", errors="replace") if mounts is None else mounts
        kind = network_file_system(home.resolve(), table)
        self.warnings: tuple[str, ...] = ()
        if kind is not None:
            self.warnings = (
                f"{home} is on a network file system ({kind}), where SQLite's write-ahead log is unsafe: the registry "
                "uses a rollback journal instead; set LONGSHORE_HOME to a disk of this machine if it gets slow",
            )
        with self._explained():
            home.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                self.path.touch()  # SQLite itself would let nobody else write, whatever the umask says
            self._db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._set_journal("wal" if kind is None else "delete")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate()

    def close(self) -> None:
        self._db.close()

    def _set_journal(self, mode: str) -> None:
        """Changing the journal mode does not wait for other processes by itself."""
        deadline = time.monotonic() + JOURNAL_TIMEOUT
        while True:
            try:
                if self._db.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0] == mode:
                    return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            if time.monotonic() > deadline:
                raise LongshoreError(f"{self.path}: other processes keep the registry busy")
            time.sleep(0.02)

    def _migrate(self) -> None:
        version = self._version()
        if version > VERSION:
            raise LongshoreError(f"{self.path} has version {version}, this one knows {VERSION}: update longshore")
        if version == VERSION:
            return
        with self._transaction():
            while (version := self._version()) < VERSION:  # nobody else was faster
                for statement in (MIGRATIONS[version] if version else SCHEMA).split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {version + 1 if version else VERSION}")

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that happens inside, or nothing; others wait meanwhile."""
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LongshoreError(f"{self.path}: {error}") from error
