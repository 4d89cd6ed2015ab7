"""Where two roles of a run meet: a Unix socket in a private folder, and a key that proves that it is them.

Imports no torch: the coordinator makes the rendezvous, and a role may meet the other one before it imports torch.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path

LONGEST_ADDRESS = 107  # bytes; sun_path of man 7 unix without its final zero
TRY_SECONDS = 0.05


@dataclass(frozen=True)
class Rendezvous:
    """One role listens, the other connects, and the folder is gone as soon as they have met.

    Attributes:
        folder: Of the socket, readable by its owner alone.
        key: In hexadecimal; whoever knows it is the other role.
    """

    folder: str
    key: str = field(repr=False)

    @staticmethod
    def make() -> Rendezvous:
        """A folder where temporary files go, or in /tmp where the path would be too long for a socket.

        Raises:
            OSError: Neither can be written.
        """
        for parent in (tempfile.gettempdir(), "/tmp"):
            folder = tempfile.mkdtemp(prefix="longshore-", dir=parent)
            rendezvous = Rendezvous(folder, secrets.token_hex(32))
            if len(os.fsencode(rendezvous.address)) <= LONGEST_ADDRESS:
                return rendezvous
            rendezvous.remove()
        raise OSError(f"{parent}: too long a path for a Unix socket")

    @property
    def address(self) -> str:
        return str(Path(self.folder) / "socket")

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def listen(self, wait: Callable[[], None]) -> Connection:
        """Wait for the other role to connect.

        Args:
            wait: Called some twenty times a second; raises to give up.
        """
        key = bytes.fromhex(self.key)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.address)
            listener.listen()
            listener.settimeout(TRY_SECONDS)
            while True:
                wait()
                with suppress(TimeoutError):
                    connection = _connection(listener.accept()[0])
                    with suppress(AuthenticationError, EOFError, OSError):
                        deliver_challenge(connection, key)
                        answer_challenge(connection, key)
                        self.remove()
                        return connection
                    connection.close()

    def connect(self, wait: Callable[[], None]) -> Connection:
        """Connect to the other role, which may not listen yet.

        Args:
            wait: Called some twenty times a second; raises to give up.
        """
        key = bytes.fromhex(self.key)
        while True:
            wait()
            caller = socket.socket(socket.AF_UNIX)
            caller.settimeout(TRY_SECONDS)
            try:
                caller.connect(self.address)
            except OSError:
                caller.close()
                time.sleep(TRY_SECONDS)
                continue
            connection = _connection(caller)
            with suppress(AuthenticationError, EOFError, OSError):
                answer_challenge(connection, key)
                deliver_challenge(connection, key)
                return connection
            connection.close()
            time.sleep(TRY_SECONDS)


def _connection(end: socket.socket) -> Connection:
    end.settimeout(None)
    return Connection(end.detach())
