"""Small messages between two roles, and file descriptors beside them. Imports no torch."""

from __future__ import annotations

from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from trainer.errors import PeerLost


class Channel:
    """One end of the connection to another role; whatever breaks it is a `PeerLost`.

    Args:
        connection: Authenticated, over a Unix socket.
        peer: Name of the other role.
    """

    def __init__(self, connection: Connection, peer: str) -> None:
        self._connection, self._peer = connection, peer

    def send(self, message: object) -> None:
        """Send what can be pickled; waits while the other role reads nothing and the socket's buffer is full.

        Raises:
            PeerLost: The other role is gone.
        """
        try:
            self._connection.send(message)
        except OSError as error:
            raise self._lost() from error

    def receive(self) -> Any:
        """The next message, or None where none has come.

        Raises:
            PeerLost: The other role is gone, and all that it had sent was received.
        """
        try:
            return self._connection.recv() if self._connection.poll() else None
        except (EOFError, OSError) as error:
            raise self._lost() from error

    def wait(self, seconds: float) -> bool:
        """Wait for a message, or for the other role to be gone; whether one of them came."""
        try:
            return self._connection.poll(seconds)
        except OSError as error:
            raise self._lost() from error

    def send_descriptor(self, descriptor: int) -> None:
        """Hand an open file to the other role, whose next call is to be `receive_descriptor`."""
        try:
            send_handle(self._connection, descriptor, 0)  # the process id is for Windows
        except OSError as error:
            raise self._lost() from error

    def receive_descriptor(self) -> int:
        """The file that `send_descriptor` sent; to be closed by the caller."""
        try:
            return recv_handle(self._connection)
        except (EOFError, OSError) as error:
            raise self._lost() from error

    def close(self) -> None:
        """Hang up, which the other role notices at once."""
        self._connection.close()

    def _lost(self) -> PeerLost:
        return PeerLost(f"the {self._peer} is gone: the connection to it broke")
