"""An engine with the stand-in's image, a wheelhouse, a project whose commands talk to that engine, and a Slurm."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.orchestrator.command_line import Project
from tests.services.docker_engine import running_engine
from tests.services.slurm_project import end, started
from tests.services.standin.image import build

REPOSITORY = Path(__file__).parents[2]
TORCH27 = REPOSITORY / ".venv-torch27" / "bin" / "python"
IMAGE = "standin/isaac-lab:2.3.0"
WHEELS = ("tensordict==0.14.3", "torchrl==0.14.1", "pyvers", "hoptorch==0.1.4", "cloudpickle", "orjson")
WHEELS += ("importlib_metadata", "zipp", "hydra-core", "tensorboard")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """With --need-services, whatever `needs` something that could have been installed has failed."""
    report = yield
    if report.skipped and item.config.getoption("--need-services") and str(call.excinfo.value).startswith("needs "):
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def engine():
    """A running engine that has the stand-in's image."""
    folder = os.environ.get("STANDIN_ENGINE")  # keeps the image for the next time, while the tests are worked on
    with running_engine("debootstrap", folder=Path(folder) if folder else None) as engine:
        if not engine.client.images(IMAGE):
            build(engine.client, IMAGE)
        yield engine


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory):
    """What the jobs install, as files: their containers have no network."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    words = [TORCH27, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
    subprocess.run([str(word) for word in (*words, *WHEELS)], check=True)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory, engine):
    """A folder where commands are typed."""
    return Project(tmp_path_factory.mktemp("project"), {"DOCKER_HOST": engine.address, "MY_SECRET": "hunter2-hunter2"})


@pytest.fixture(scope="module")
def cluster():
    """A Slurm of two nodes, without accounting."""
    cluster = started(accounting=False)
    yield cluster
    end(cluster)
