"""A W&B server, as much of it as the package needs to send a run: it notes what comes, and can go silent."""

from __future__ import annotations

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.trainer.wandb_artifacts_server import ArtifactStore


class WandbServer(ThreadingHTTPServer):
    """Listens on a port of 127.0.0.1 while it is entered.

    Attributes:
        history: Rows of figures in the order in which they came.
        runs: What was said of the run, each time: variables of `UpsertBucket`.
        artifacts: What it keeps of those.
        silent: Take connections and requests, and answer none.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.history: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.silent = False
        self.gone = threading.Event()
        self.artifacts = ArtifactStore(self.address)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def variables(self) -> dict[str, str]:
        """Environment of a process that is to find it."""
        return {"WANDB_BASE_URL": self.address, "WANDB_API_KEY": "0" * 40}

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self.serve_forever, name="wandb-server", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gone.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no error."""

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path.endswith("/file_stream"):
            files = json.loads(body).get("files") or {}
            rows = files.get("wandb-history.jsonl", {}).get("content", ())
            self.history += [json.loads(row) for row in rows]
            return {}
        if path.startswith("/artifacts/"):
            self.artifacts.put(path, body)
        if path != "/graphql":
            return {}
        request = json.loads(body)
        operation, variables = request.get("operationName"), request.get("variables") or {}
        about_artifacts = self.artifacts.answer(operation, request["query"], variables)
        if about_artifacts is not None:
            return {"data": about_artifacts}
        if operation == "UpsertBucket":
            self.runs.append(variables)
            return {"data": {"upsertBucket": {"bucket": self._bucket(variables), "inserted": not self.history}}}
        if operation == "RunResumeStatus":
            return {"data": {"model": {"id": "project", "name": "longshore", "bucket": None}}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.address}/{name}"} for name in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}}
        if operation == "Viewer":
            viewer = {"id": "v", "entity": "someone", "username": "someone", "flags": "{}", "teams": {"edges": []}}
            return {"data": {"viewer": viewer}}
        return {"data": {"project": {"artifact": None}}}  # the type of an artefact that is not there yet

    def _bucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "someone"}}
        name = variables.get("name")
        return {"id": "b", "name": name, "displayName": name, "project": project, "historyLineCount": len(self.history)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.server.silent:
            self.server.gone.wait()
            return
        answer = json.dumps(self.server.answer(self.path, body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST

    def log_message(self, *_: object) -> None: ...
