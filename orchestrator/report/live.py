"""Serve a page to the browsers of this machine's user: on loopback, behind a random word in the address."""

from __future__ import annotations

import hmac
import secrets
import shutil
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOOPBACK = "127.0.0.1"
TOKEN_BYTES = 18
TEXT = {".json", ".jsonl", ".yaml", ".txt", ".sh"}  # shown by a browser; all else is offered for saving


class LiveServer(ThreadingHTTPServer):
    """`/TOKEN/` is the page, `/TOKEN/part` what of it changes, `/TOKEN/files/RUN/PATH` a file that it links to.

    Args:
        page: Makes the page anew; told whether the whole of it is wanted, or the changing part. Called in any thread.
        file: The file of a run that a link means, None where the page has no such link.
    """

    daemon_threads = True

    def __init__(self, page: Callable[[bool], str], file: Callable[[str, str], Path | None]) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.page, self.file = page, file
        self.token = secrets.token_urlsafe(TOKEN_BYTES)

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/"

    def is_own(self, host: str) -> bool:
        """Whether a request's Host is this server: a name that somebody has pointed here is not."""
        return host in {f"{LOOPBACK}:{self.server_port}", f"localhost:{self.server_port}"}


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    server_version, sys_version = "longshore", ""

    def do_GET(self) -> None:
        words = [unquote(word) for word in urlsplit(self.path).path.split("/")[1:]]
        token = words[0].encode()
        if not (self.server.is_own(self.headers.get("Host", "")) and hmac.compare_digest(token, self._token())):
            self.send_error(HTTPStatus.NOT_FOUND)
        elif words[1:] in ([""], ["part"]):
            self._send_page(whole=words[1] == "")
        elif words[1:2] == ["files"] and len(words) > 3:
            self._send_file(self.server.file(words[2], "/".join(words[3:])))
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _token(self) -> bytes:
        return self.server.token.encode()

    def _send_page(self, *, whole: bool) -> None:
        body = self.server.page(whole).encode()
        self._head("text/html; charset=utf-8", len(body))
        self.wfile.write(body)

    def _send_file(self, path: Path | None) -> None:
        try:
            file = None if path is None else path.open("rb")
        except OSError:
            file = None
        if file is None or path is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with file:
            kind = "text/plain; charset=utf-8" if path.suffix in TEXT else "application/octet-stream"
            size = path.stat().st_size
            self._head("video/mp4" if path.suffix == ".mp4" else kind, size)
            shutil.copyfileobj(file, self.wfile)

    def _head(self, kind: str, size: int) -> None:
        self.send_response(HTTPStatus.OK)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(size)),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the address, with its token, is in every request."""
