"""What can go wrong with a run in a container: a real Docker Engine, as root, with the trainer on torch 2.7."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker

from tests.chaos.faults import Fault, begun, full_disk, kill_of, spoilt_simulator
from tests.chaos.subject import REPOSITORY, ROLES, Subject, eventually
from tests.services import docker_engine
from tests.services.docker_engine import Engine
from tests.services.hollow import PYTHON, folders_of, hollow_image

TORCH27 = REPOSITORY / ".venv-torch27"
IMAGE = "hollow:1"
STOP_GRACE = 30  # seconds that `docker stop` gives here; ten are its own, which a loaded machine needs for a save


@dataclass
class DockerSubject(Subject):
    """A run in a container whose files are seen from here, as are its processes."""

    engine: Engine | None = None
    backend: str = "docker"

    @property
    def place(self) -> Engine:
        assert self.engine is not None
        return self.engine

    def submit(self, *train: str, **changes: Any) -> None:
        tools = self.folder / "bin"
        tools.mkdir()
        python = tools / "python3"
        python.write_text(PYTHON.format(python=TORCH27 / "bin" / "python"))
        python.chmod(0o755)
        folders = [str(tools), *folders_of(TORCH27), str(self.packages)]
        mounts = ", ".join(f"{{source: {folder}, target: {folder}}}" for folder in folders)
        self.job += f"image: {IMAGE}\nmounts: [{mounts}]\n"
        (self.folder / "profiles.yaml").write_text(f"default: {{environment: {{PATH: {tools}:/usr/bin:/bin}}}}\n")
        super().submit(*train, **changes)

    def container(self) -> str:
        """The one that the run is in."""
        [found] = self.place.client.containers(filters={"label": f"longshore.run={self.run_id}"})
        return str(found["Id"])

    def left(self) -> list[str]:
        label = {"label": f"longshore.run={self.run_id}"}
        return [*super().left(), *(str(one["Names"]) for one in self.place.client.containers(all=True, filters=label))]

    def end(self) -> None:
        with contextlib.suppress(docker.errors.DockerException):
            for one in self.place.client.containers(all=True, filters={"label": f"longshore.run={self.run_id}"}):
                self.place.client.remove_container(one["Id"], force=True, v=True)
        super().end()

    def _surroundings(self) -> dict[str, Any]:
        inherited = super()._surroundings()
        return {**inherited, "env": inherited["env"] | {"DOCKER_HOST": self.place.address}}


def lacking() -> str:
    """What containers need that is not here; empty where nothing is."""
    environment = "" if (TORCH27 / "bin" / "python").exists() else f"{TORCH27.name} (make {TORCH27.name}/run.stamp)"
    return docker_engine.missing() or environment


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    """An engine of its own, for as long as it is needed."""
    engine = Engine()
    try:
        engine.start()
        engine.client.import_image_from_data(hollow_image(), repository="hollow", tag="1")
        yield engine
    finally:
        engine.end()


def _here(run: Subject) -> DockerSubject:
    assert isinstance(run, DockerSubject)
    return run


def kill_of_the_container(run: Subject) -> int:
    step = begun(run)
    here = _here(run)
    here.place.client.kill(here.container(), "SIGKILL")
    return step


def stop_of_the_container(run: Subject) -> int:
    """`docker stop`, typed by somebody else."""
    step = begun(run)
    here = _here(run)
    here.place.client.stop(here.container(), timeout=STOP_GRACE)
    return step


def kill_of_the_engine(run: Subject) -> int:
    """What it has started goes on without it, and is stopped by the next one."""
    step = begun(run)
    _without_an_engine(_here(run))
    return step


def kill_of_an_engine_that_restores(run: Subject) -> int:
    """With live-restore the next engine takes over what goes on."""
    engine = _here(run).place
    engine.stop()
    engine.start(live_restore=True)
    begun(run)
    _without_an_engine(_here(run), live_restore=True)
    run.finish()
    engine.stop()
    engine.start()
    return 0


def _without_an_engine(run: DockerSubject, *, live_restore: bool = False) -> None:
    run.place.stop(signal.SIGKILL)
    if run.command("status", run.run_id, check=False).returncode != 3:
        raise AssertionError("`status` does not say that the engine cannot be reached")
    before = run.step()
    eventually(lambda: run.step() > before or run.run_dir.success.exists(), "a step without the engine")
    run.place.start(live_restore=live_restore)


def faults() -> list[Fault]:
    """All of them."""
    return [
        Fault("Docker: kill -9 of the container", kill_of_the_container, frozenset({"node-failure"}), place="docker"),
        Fault("Docker: kill -9 of the trainer in it", kill_of(ROLES["trainer"]), place="docker"),
        Fault("Docker: docker stop", stop_of_the_container, frozenset({"preempted"}), place="docker"),
        Fault("Docker: kill -9 of dockerd", kill_of_the_engine, frozenset({"preempted"}), place="docker"),
        Fault(
            "Docker: kill -9 of dockerd with live-restore",
            kill_of_an_engine_that_restores,
            frozenset(),
            place="docker",
        ),
        Fault(
            "Docker: the trainer takes more memory than it has",
            spoilt_simulator("memory"),
            frozenset({"out-of-memory"}),
            place="docker",
        ),
        Fault("Docker: disk full while a checkpoint is written", full_disk, place="docker"),
    ]
