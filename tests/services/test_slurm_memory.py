"""Runs that take more memory than their job asked for, on a Slurm that keeps jobs to it: by looking, or by the kernel.

Slurm 22.05 calls neither job OUT_OF_MEMORY: the batch script goes on, and what it ends with makes the job FAILED.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.services.slurm_cluster import CGROUPS
from tests.services.slurm_project import SlurmProject, end, started

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
TOO_WIDE = "agent.world_model.deter=32768"  # a layer of it has six gigabytes, and the job asks for one


@pytest.fixture
def project(tmp_path, request):
    if request.param == "cgroup" and not os.access(CGROUPS, os.W_OK):
        pytest.skip("this kernel has no memory controller of cgroups, version 1")
    cluster = started(accounting=False, memory=request.param, nodes=f"mem{os.getpid()}n")
    (tmp_path / "profiles.yaml").write_text(f"default: {{python: {sys.executable}}}\n")
    yield SlurmProject(tmp_path, cluster.variables)
    end(cluster)


@pytest.mark.parametrize("project", ["cgroup"], indirect=True)
def test_a_trainer_that_the_kernel_kills_for_memory_is_out_of_memory(project):
    run = project.submit(project.write("wide", profile="default", gpus=0), TOO_WIDE)
    found = project.finish(run, 1)
    assert (found["state"], found["failure_class"]) == ("failed", "out-of-memory"), project.log(run)
    assert "the kernel ran out of memory for it" in found["message"]


@pytest.mark.parametrize("project", ["linux"], indirect=True)
def test_a_step_that_slurm_kills_for_memory_is_out_of_memory_and_retried_as_such(project):
    job = project.write("wide", profile="default", gpus=0, retries=1)
    run = project.submit(job, TOO_WIDE, "--set", "retry.on=[out-of-memory]")
    found = project.finish(run, 1, 200)
    assert (found["state"], found["failure_class"]) == ("failed", "out-of-memory"), project.log(run)
    assert "more memory than resources.memory allows" in found["message"]
    assert [attempt["failure_class"] for attempt in found["attempts"]] == ["out-of-memory"] * 2, project.log(run)
