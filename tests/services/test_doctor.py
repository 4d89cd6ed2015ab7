"""`doctor` on what it is for: a real Slurm behind a real sshd, and a real Docker Engine."""

from __future__ import annotations

import json
import sys

import pytest

from tests.orchestrator.command_line import Project
from tests.services.docker_engine import running_engine
from tests.services.slurm_project import PROFILES, SlurmProject, end, login_node, started

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


def findings(project: Project, *words: str, check: int = 0) -> dict[str, dict[str, str]]:
    return {one["check"]: one for one in json.loads(project.run("doctor", *words, "--json", check=check).stdout)}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Commands typed on a machine without Slurm."""
    cluster = started(accounting=True)
    folder = tmp_path_factory.mktemp("doctor")
    sshd = login_node(folder / "sshd", cluster)
    (folder / "laptop").mkdir()
    project = SlurmProject(folder / "laptop", {"HOME": str(sshd.folder / "home"), "PATH": "/nowhere"})
    shared = cluster.folder / "shared"
    shared.mkdir()
    text = PROFILES.format(target=sshd.target, key=sshd.key, shared=shared, python=sys.executable)
    (project.folder / "profiles.yaml").write_text(text)
    yield project
    sshd.stop()
    end(cluster)


def test_a_cluster_behind_ssh_is_well_and_slurm_says_when_the_job_would_start(project):
    found = findings(project, project.write("fits"))
    failed = {name: one["message"] for name, one in found.items() if one["outcome"] == "failure"}
    assert failed == {}
    assert found["ssh"]["outcome"] == found["clock"]["outcome"] == found["disk"]["outcome"] == "OK"
    assert found["slurm"]["message"].startswith("slurm")
    assert found["partition"]["message"] == "normal: 2 nodes, 8 GPUs a node, no time limit"
    assert found["accounting"]["message"] == "sacct answers"
    assert "to start at" in found["sbatch"]["message"]
    assert found["python"]["message"].startswith(sys.executable)
    assert list((project.folder / "runs").glob("*")) == []


def test_a_job_that_the_cluster_cannot_run_is_told_by_partition_and_by_slurm(project):
    found = findings(project, project.write("large", gpus=9), check=1)
    assert "8 GPUs a node, and the job wants 9" in found["partition"]["message"]
    assert found["sbatch"]["outcome"] == "failure"
    assert "not available" in found["sbatch"]["message"]


def test_a_cluster_without_pyxis_is_told_so(project):
    assert findings(project, "--profile", "far", check=1)["container"]["message"] == "srun has no --container-image"


@pytest.fixture(scope="module")
def engine():
    with running_engine() as engine:
        yield engine


def test_an_engine_without_gpus_and_without_the_image_is_told_so(engine, tmp_path):
    project = Project(tmp_path, {"DOCKER_HOST": engine.address})
    job = "name: tiny\nbackend: docker\nimage: localhost:9/nothing:1\nresources: {gpus: 1}\n"
    (tmp_path / "job.yaml").write_text(job)
    found = findings(project, "job.yaml", check=1)
    assert found["engine"]["outcome"] == "OK"
    assert found["engine"]["message"].endswith(engine.address)
    assert found["runtime"]["message"].startswith("no NVIDIA runtime, only ")
    assert "nvidia-ctk" in found["runtime"]["remedy"]
    assert found["image"]["message"].startswith("localhost:9/nothing:1 is not there and cannot be pulled")
    assert findings(project, "--backend", "docker")["runtime"]["outcome"] == "warning"
