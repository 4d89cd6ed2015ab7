"""Docker: a run is a container of an engine, on this machine or another one.

What finds an attempt again is the container's name, which the engine gives out once: whoever dies between creating it
and noting its handle, the attempt is neither lost nor started twice. Everything that the run leaves is in its run
directory, which is mounted under the path that it has outside, so that nothing else need know of the container.

Secrets go through the container's standard input. What is in a container's environment or command line stands in
`docker inspect` and on the engine's disk for as long as the container exists; a pipe is read once.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from orchestrator.backends.base import Launch, LaunchRequest, Observation
from orchestrator.backends.exit_codes import by_exit_code
from orchestrator.docker.container import LABEL, body_of_attempt, container_body, container_name
from orchestrator.docker.engine import TIMEOUT, address, connected, ensure_image, explain, image_digest
from orchestrator.errors import BackendError
from orchestrator.gpus import Gpu, of_this_machine, visible_names
from orchestrator.states import FailureClass, RunState
from trainer.run_dir import (
    DEADLINE_VARIABLE,
    Failure,
    RunDir,
    read_json,
    write_atomically,
)

if TYPE_CHECKING:
    import docker

LEFTOVER_GRACE = 10.0  # seconds for an engine to say that a killed container has ended
RECORD = "container.json"  # beside an attempt's log: what the engine said of its container, kept when that is removed


@dataclass(frozen=True)
class Ended:
    """How a container ended, and what its attempt left behind."""

    exit_code: int | None = None  # the engine's word
    out_of_memory: bool = False  # the kernel killed something in it
    error: str = ""  # why the engine could not start it
    gone: bool = False  # the engine knows it no more, and nobody noted its end
    success: bool = False
    failure: Failure | None = None
    script_code: int | None = None  # the script's own word
    trained: bool = False


def outcome(ended: Ended) -> Observation:
    """What became of an attempt whose container has ended. Its exit code alone is never taken for success."""
    code = ended.exit_code if ended.script_code is None else ended.script_code
    if ended.success:
        return Observation(RunState.SUCCEEDED, exit_code=code)
    if ended.error:
        return Observation(RunState.FAILED, FailureClass.SETUP, code, ended.error)
    blamed = None if ended.failure is None else ended.failure.failure_class
    if ended.out_of_memory and blamed in {None, FailureClass.CRASH, FailureClass.SETUP}:
        return Observation(
            RunState.FAILED,
            FailureClass.OUT_OF_MEMORY,
            code,
            "the kernel ended a process of the container for memory; raise resources.memory, or train with less",
        )
    if ended.failure is not None:
        return Observation(RunState.FAILED, ended.failure.failure_class, code, ended.failure.message)
    if ended.gone:
        return Observation(RunState.FAILED, FailureClass.LOST, code, "its container was removed, and left no word")
    if ended.script_code is None:
        message = f"the container was killed (exit code {ended.exit_code}): the engine or its machine was restarted"
        return Observation(RunState.FAILED, FailureClass.NODE_FAILURE, ended.exit_code, message)
    return by_exit_code(code, trained=ended.trained)


@dataclass(frozen=True)
class DockerBackend:
    """An engine's containers. Handles are `ADDRESS#CONTAINER_ID`.

    Attributes:
        environment: Where DOCKER_HOST and the home folder are looked up.
        connect: Gives a connection to the engine at an address.
    """

    name: ClassVar[str] = "docker"
    queues: ClassVar[bool] = False

    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    connect: Callable[[str], contextlib.AbstractContextManager[docker.APIClient]] = connected

    def plan(self, request: LaunchRequest) -> Launch:
        assert request.container is not None, "the job's model asks for an image"
        return Launch(
            request,
            commands=(("bash", str(request.script)),),
            container=container_body(request, request.container),
            engine=request.container.engine,
        )

    def again(self, launch: Launch, attempt: int, words: Sequence[str]) -> Launch:
        assert launch.container is not None, "made by plan"
        request = replace(launch.request, attempt=attempt)
        return replace(launch, request=request, container=body_of_attempt(launch.container, request, words))

    def gpus(self, launch: Launch) -> tuple[Gpu, ...]:
        here = address(launch.engine, self.environment).startswith("unix://")
        return of_this_machine(self.environment) if here else ()

    def on_gpus(self, launch: Launch, names: Sequence[str]) -> Launch:
        assert launch.container is not None, "made by plan"
        devices = {"Driver": "", "DeviceIDs": list(visible_names(names, self.environment)), "Capabilities": [["gpu"]]}
        host = {**launch.container["HostConfig"], "DeviceRequests": [devices]}
        return replace(launch, container={**launch.container, "HostConfig": host})

    def launch(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        import docker

        assert launch.container is not None, "made by plan"
        request, where = launch.request, address(launch.engine, self.environment)
        attempt = RunDir(request.run_dir).attempt(request.attempt)
        with self.connect(where) as client:
            known = _find(client, container_name(request))
            if known is None:
                image = ensure_image(client, launch.container["Image"])
                body = self._at_home(launch.container, request.time_limit)
                if where.startswith("unix://"):
                    _make_folders(body)
                try:
                    created = client.create_container_from_config(body, container_name(request))
                except docker.errors.APIError as error:
                    raise explain(f"{request.run_id} could not be created", error) from error
                known = {"Id": created["Id"], "State": "created"}
                record = {"id": known["Id"], "engine": where, "image": body["Image"], "digest": image_digest(image)}
                write_atomically(attempt / RECORD, json.dumps(record, indent=2) + "\n")
            if known["State"] == "created":
                values = {name: secrets[name] for name in request.secrets}
                try:
                    _start(client, known["Id"], values)
                except docker.errors.APIError as error:
                    client.remove_container(known["Id"], force=True, v=True)
                    raise explain(f"{request.run_id} could not be started", error) from error
            return f"{where}#{known['Id']}"

    def poll(self, handles: Mapping[str, Path]) -> dict[str, Observation]:
        seen: dict[str, Observation] = {}
        for where, ids in _by_engine(handles).items():
            with self.connect(where) as client:
                listed = client.containers(all=True, filters={"label": f"{LABEL}run"})
                states = {entry["Id"]: entry["State"] for entry in listed}
                for container, handle in ids.items():
                    run_dir = RunDir(handles[handle])
                    number = _attempt_of(container, run_dir)
                    if states.get(container) in {"created", "running", "paused", "restarting"}:
                        state = RunState.RUNNING if run_dir.has_trained(number) else RunState.SETTING_UP
                        seen[handle] = Observation(state, attempt=number)
                    elif states.get(container) == "removing":
                        continue
                    else:
                        seen[handle] = replace(outcome(_ended(client, container, run_dir, number)), attempt=number)
        return seen

    def cancel(self, handles: Mapping[str, Path], grace: timedelta) -> None:
        deadline = time.monotonic() + grace.total_seconds()
        for where, ids in _by_engine(handles).items():
            with self.connect(where) as client:
                going = [container for container in ids if _signal(client, container, "SIGTERM")]
                while going and time.monotonic() < deadline:
                    time.sleep(0.2)
                    going = [container for container in going if _is_running(client, container)]
                for container in going:
                    _signal(client, container, "SIGKILL")
                until = time.monotonic() + LEFTOVER_GRACE
                while any(_is_running(client, container) for container in going) and time.monotonic() < until:
                    time.sleep(0.1)

    def execute(self, handle: str, run_dir: Path, command: Sequence[str], variables: Mapping[str, str]) -> int:
        import docker

        where, _, container = handle.rpartition("#")
        with self.connect(where) as client:
            try:
                made = client.exec_create(container, list(command), workdir=str(run_dir), environment=dict(variables))
                for output, errors in client.exec_start(made["Id"], stream=True, demux=True):
                    for content, stream in ((output, sys.stdout), (errors, sys.stderr)):
                        if content:
                            stream.buffer.write(content)
                            stream.flush()
                return int(client.exec_inspect(made["Id"])["ExitCode"])
            except docker.errors.APIError as error:
                raise explain(f"{command[0]} could not be started in container {container[:12]}", error) from error

    def _at_home(self, body: Mapping[str, Any], time_limit: float | None) -> dict[str, Any]:
        """The planned body with what only the moment of its start knows: the home folder, and the deadline."""
        home = self.environment.get("HOME", str(Path.home()))
        mounts = [
            {**mount, "Source": home + mount["Source"][1:]} if mount["Source"].startswith("~/") else mount
            for mount in body["HostConfig"]["Mounts"]
        ]
        deadline = [] if time_limit is None else [f"{DEADLINE_VARIABLE}={time.time() + time_limit:.0f}"]
        return {**body, "Env": [*body["Env"], *deadline], "HostConfig": {**body["HostConfig"], "Mounts": mounts}}


def _make_folders(body: Mapping[str, Any]) -> None:
    """Make the folders of caches as their owner; an engine would make them as root, and an old one not at all."""
    for mount in body["HostConfig"]["Mounts"]:
        if "BindOptions" in mount:
            with contextlib.suppress(OSError):  # the engine says it better
                Path(mount["Source"]).mkdir(parents=True, exist_ok=True)


def _by_engine(handles: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Handles by container id, by engine."""
    grouped: dict[str, dict[str, str]] = defaultdict(dict)
    for handle in handles:
        where, _, container = handle.rpartition("#")
        grouped[where][container] = handle
    return grouped


def _find(client: docker.APIClient, name: str) -> dict[str, Any] | None:
    """The container of a name."""
    found = client.containers(all=True, filters={"name": f"^/{name}$"})
    return found[0] if found else None


def _start(client: docker.APIClient, container: str, secrets: Mapping[str, str]) -> None:
    """Start a container and hand it its secrets, if any."""
    if not secrets:
        client.start(container)
        return
    stream = client.attach_socket(container, params={"stdin": 1, "stream": 1})
    try:
        client.start(container)
        pipe = getattr(stream, "_sock", stream)
        words = "".join(f"{name}={value}\0" for name, value in secrets.items())
        pipe.settimeout(TIMEOUT)
        pipe.sendall(words.encode() + b"\0")
        pipe.shutdown(socket.SHUT_WR)
        while pipe.recv(1024):  # the engine hangs up when the container has them; before, they may be on their way
            pass
    except (ConnectionError, TimeoutError) as error:
        client.remove_container(container, force=True, v=True)
        raise BackendError(f"the container went away before it had its secrets: {error}") from error
    finally:
        stream.close()


def _signal(client: docker.APIClient, container: str, signal: str) -> bool:
    """Send a signal; whether there was somebody to get it."""
    import docker

    try:
        client.kill(container, signal)
    except docker.errors.NotFound:
        return False
    except docker.errors.APIError as error:
        if error.status_code == 409:  # it does not run
            return False
        raise explain(f"container {container[:12]} cannot be ended", error) from error
    return True


def _is_running(client: docker.APIClient, container: str) -> bool:
    import docker

    try:
        return bool(client.inspect_container(container)["State"]["Running"])
    except docker.errors.NotFound:
        return False


def _attempt_of(container: str, run_dir: RunDir) -> int:
    """Number of the attempt that ran in a container; the last one where that is not noted."""
    numbers = run_dir.attempts()
    noted = {n: read_json(run_dir.attempt(n) / RECORD) or {} for n in reversed(numbers)}
    return next((n for n, record in noted.items() if record.get("id") == container), max(numbers, default=1))


def _ended(client: docker.APIClient, container: str, run_dir: RunDir, number: int) -> Ended:
    """How an attempt's container ended. What the engine says is noted beside the log, and the container removed."""
    import docker

    path = run_dir.attempt(number) / RECORD
    record = read_json(path) or {"id": container}
    if "state" not in record and run_dir.root.exists():
        with contextlib.suppress(docker.errors.NotFound):
            record["state"] = client.inspect_container(container)["State"]
            write_atomically(path, json.dumps(record, indent=2) + "\n")
    if "state" in record:
        with contextlib.suppress(docker.errors.APIError):  # somebody else may be at it, or the engine busy
            client.remove_container(container, v=True)
    state = record.get("state", {})
    failure = None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        failure = run_dir.read_failure()
    return Ended(
        exit_code=state.get("ExitCode"),
        out_of_memory=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        gone=not state,
        success=run_dir.success.exists(),
        failure=failure if failure is not None and failure.attempt == number else None,
        script_code=run_dir.read_exit_code(number),
        trained=run_dir.has_trained(number),
    )
