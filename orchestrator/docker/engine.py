"""The container engine: how it is reached, how an image gets there, and what to do about each thing that is missing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.docker.ssh import SCHEME, SshEngine
from orchestrator.errors import BackendError

if TYPE_CHECKING:
    import docker

DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
TIMEOUT = 60  # seconds for one answer of the engine; pulls and builds send something all the time

# What an engine's own words mean, and what its user does about it. The first that matches counts.
REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"could not select device driver|nvidia-container-cli|invalid runtime name: nvidia|nvidia.*no such device",
        "the engine has no NVIDIA runtime: install nvidia-container-toolkit on its machine, then "
        "`nvidia-ctk runtime configure --runtime=docker` and restart the engine; or ask for no GPU",
    ),
    (
        r"unauthorized|authentication required|denied|no basic auth credentials|forbidden",
        "its registry wants a login: `docker login REGISTRY` (for nvcr.io user $oauthtoken, an NGC key as password)",
    ),
    (r"manifest.*unknown|not found: manifest|repository does not exist", "there is no such image in its registry"),
    (
        r"no such host|i/o timeout|network is unreachable|connection refused|TLS handshake|server misbehaving",
        "the engine cannot reach the image's registry: pull or build the image where there is a network",
    ),
    (r"no space left", "the engine's disk is full: `docker system df` says with what"),
    (
        r"bind source path does not exist",
        "the engine's machine has no such folder: $LONGSHORE_HOME and all mounts must be there under the same path",
    ),
)


def remedy(answer: str) -> str:
    """What to do about an engine's answer; empty where nothing is known."""
    return next((advice for pattern, advice in REMEDIES if re.search(pattern, answer, re.IGNORECASE)), "")


def explain(what: str, answer: object) -> BackendError:
    """The error for something that the engine would not do: its own words, on one line, and what helps."""
    words = " ".join(str(getattr(answer, "explanation", None) or answer).split())
    advice = remedy(words)
    return BackendError(f"{what}: {words}{f'; {advice}' if advice else ''}")


def address(engine: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The engine to talk to: the profile's, else DOCKER_HOST's, else this machine's."""
    return engine or environment.get("DOCKER_HOST") or DEFAULT_ADDRESS


@contextmanager
def connected(where: str) -> Iterator[docker.APIClient]:
    """A connection to the engine at an address.

    Raises:
        BackendError: It cannot be reached, or the connection broke.
    """
    import docker
    import requests

    with SshEngine(where) if where.startswith(SCHEME) else nullcontext() as elsewhere:
        url = where if elsewhere is None else elsewhere.url
        try:
            client = docker.APIClient(base_url=url, version="auto", timeout=TIMEOUT)
        except (docker.errors.DockerException, OSError) as error:
            reason = _reason(error) if elsewhere is None else elsewhere.reason()
            raise BackendError(f"no container engine answers at {where}: {reason}") from error
        try:
            yield client
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
            reason = _reason(error) if elsewhere is None else elsewhere.reason()
            raise BackendError(f"the container engine at {where} has gone away: {reason}") from error
        finally:
            client.close()


def _reason(error: Exception) -> str:
    text = str(error)
    if "PermissionError" in text or "Permission denied" in text:
        return "permission denied; add yourself to the group `docker`, or use sudo"
    if "FileNotFoundError" in text or "ConnectionRefused" in text or "Connection refused" in text:
        return "is it running? `systemctl start docker`, or set DOCKER_HOST or the profile's `engine`"
    return " ".join(text.split())[:300]


def ensure_image(client: docker.APIClient, image: str, show: TextIO | None = None) -> Mapping[str, Any]:
    """What the engine knows of an image, pulled first where it is not there.

    Args:
        client: The engine.
        image: With tag or digest.
        show: Terminal for a progress bar; standard error by default.

    Raises:
        BackendError: It cannot be had.
    """
    import docker

    try:
        return _inspect(client, image)
    except docker.errors.ImageNotFound:
        pass
    except docker.errors.APIError as error:
        raise explain(image, error) from error
    try:
        repository, _, tag = image.partition("@") if "@" in image else image.rpartition(":")
        messages = client.pull(repository, tag=tag, stream=True, decode=True)
        follow_messages(messages, f"pulling {image}", show or sys.stderr)
        return _inspect(client, image)
    except docker.errors.APIError as error:
        raise explain(f"{image} cannot be pulled", error) from error


def _inspect(client: docker.APIClient, image: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = client.inspect_image(image)
    return found


def image_digest(found: Mapping[str, Any]) -> str:
    """The digest that names an image anywhere; its id where it has never been in a registry."""
    digests = found.get("RepoDigests") or []
    return str(digests[0]) if digests else str(found["Id"])


def follow_messages(
    messages: Iterable[Mapping[str, Any]], what: str, show: TextIO, line: Callable[[str], None] | None = None
) -> None:
    """Read the messages of a pull or a build to their end: a bar on a terminal, elsewhere one line.

    Args:
        messages: As the engine sends them.
        what: Said beside the bar.
        show: Where to say it.
        line: Takes each line of a build's output.

    Raises:
        BackendError: The engine says that it failed.
    """
    if not show.isatty():
        print(f"{what} …", file=show, flush=True)
        for message in messages:
            _take(message, what, line)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    layers: dict[str, tuple[int, int]] = {}
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), DownloadColumn())
    with Progress(*columns, TransferSpeedColumn(), console=Console(file=show), transient=True) as progress:
        bar = progress.add_task(what, total=None)
        for message in messages:
            _take(message, what, line)
            detail = message.get("progressDetail") or {}
            if message.get("status") == "Downloading" and detail.get("total"):
                layers[str(message["id"])] = (int(detail["current"]), int(detail["total"]))
            elif message.get("status") in {"Download complete", "Pull complete"} and message.get("id") in layers:
                layers[str(message["id"])] = (layers[str(message["id"])][1],) * 2
            total = sum(size for _, size in layers.values())
            progress.update(bar, completed=sum(done for done, _ in layers.values()), total=total or None)


def _take(message: Mapping[str, Any], what: str, line: Callable[[str], None] | None) -> None:
    if "error" in message:
        raise explain(what, message["error"])
    if line is not None and message.get("stream"):
        line(str(message["stream"]))
