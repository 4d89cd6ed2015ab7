"""A Slurm without accounting, which forgets jobs seconds after their end: the run directory has the last word."""

from __future__ import annotations

import sys

import pytest

from tests.services.slurm_project import SlurmProject, end, started
from tests.waiting import eventually

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster():
    cluster = started(accounting=False, min_job_age=2)
    yield cluster
    end(cluster)


@pytest.fixture(scope="module")
def project(tmp_path_factory, cluster):
    project = SlurmProject(tmp_path_factory.mktemp("forgetful"), cluster.variables)
    profiles = f"default: {{python: {sys.executable}}}\nbroken: {{python: /bin/false}}\n"
    (project.folder / "profiles.yaml").write_text(profiles)
    return project


def forgotten(cluster, *names):
    """Wait until Slurm knows nothing more of the jobs of some runs."""
    eventually(lambda: not any(name in cluster.run("squeue", "-h", "--states=all", "-o", "%j") for name in names), 150)


def test_how_runs_ended_is_known_after_slurm_has_forgotten_them(project, cluster):
    done = project.submit(project.write("done", profile="default", gpus=0))
    failed = project.submit(project.write("failed", profile="broken", gpus=0))
    forgotten(cluster, "done-", "failed-")
    found = project.status(done)
    assert (found["state"], found["failure_class"]) == ("succeeded", None)
    found = project.status(failed)
    assert (found["state"], found["failure_class"]) == ("failed", "setup")
