"""Runs behind steve in the stand-in for NVIDIA's image: allocations are a real Slurm's, containers a real engine's.

The image goes by NVIDIA's name. A container sees the node's processes, as it does under enroot, and has no network:
what a job installs lies in a folder of the site.
"""

from __future__ import annotations

import re
import subprocess

import pytest

from orchestrator.processes import read_table
from tests.services.conftest import IMAGE
from tests.services.docker_engine import missing
from tests.services.slurm_project import FOREVER
from tests.services.steve_site import allocations, behave, calls, steve_site
from tests.waiting import eventually
from trainer.run_dir import RunDir

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]
NVIDIAS = "nvcr.io/nvidia/isaac-lab:2.3.0"
JOB = """\
name: {name}
backend: steve
profile: far
image: {image}
resources: {{gpus: 0, time: "30:00", partition: normal}}
setup: {{wheelhouse: {wheelhouse}, code: [{code}]}}
environment: {{WANDB_MODE: disabled}}
secrets: [MY_SECRET]
train: {{{train}}}
retry: {{max: 1, on: [node-failure], backoff: 1s}}
"""
REACH = "env.backend: isaaclab, env.name: Standin-Reach-v0, env.packages: [mine], env.allow_cpu: true"
PACKAGE = "import setuptools\nsetuptools.setup(name='mine', version='3', py_modules=['mine'])\n"


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """A task package of the user's own."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text("import standin.standin_tasks\n")
    (folder / "setup.py").write_text(PACKAGE)
    return folder


@pytest.fixture(scope="module")
def steve(cluster, engine, wheelhouse, code):
    """The folder of what lies behind steve."""
    if absent := missing("docker", "nsenter"):
        pytest.skip(f"needs {absent}")
    repository, _, tag = NVIDIAS.partition(":")
    engine.client.tag(IMAGE, repository, tag)
    folder = cluster.folder / "steve"
    folder.mkdir()
    behave(folder, engine=engine.address, mounts=[str(wheelhouse), str(code)])
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory, cluster, steve):
    with steve_site(tmp_path_factory.mktemp("steve"), cluster, steve, {"ready": "2m"}) as site:
        yield site


@pytest.fixture
def job(site, wheelhouse, code):
    """Writes a job file; returns its name."""

    def write(name, train, more=""):
        values = {"image": NVIDIAS, "wheelhouse": wheelhouse, "code": code, "train": train}
        (site.folder / f"{name}.yaml").write_text(JOB.format(name=name, **values) + more)
        return f"{name}.yaml"

    return write


def containers(engine):
    return engine.client.containers(all=True)


def processes_of(run: RunDir):
    """Processes of a run on this machine, inside of containers and out."""
    return [entry.pid for entry in read_table(["LONGSHORE_RUN_ID"]) if run.root.name in entry.environment.values()]


def test_a_sweep_over_isaac_labs_kind_of_task_is_set_up_trained_and_pulled_and_its_container_goes(
    site, job, cluster, engine, steve
):
    train = f"{REACH}, experiment: debug, env.num_envs: 8"
    runs = site.submit_sweep(job("reach", train, "sweep: {seed: [0, 1]}\n"), timeout=120)
    done = site.run("wait", *[run.root.name for run in runs], check=None, timeout=600)
    assert done.returncode == 0, done.stderr + "".join(site.log(run) for run in runs)
    [allocation] = calls(steve, "job")
    assert allocation[allocation.index("--container-image") + 1] == NVIDIAS
    assert [words[-1] for words in calls(steve, "step", "-d")] == ["WANDB_MODE=disabled bash /root/in-turn.sh"]
    for run in runs:
        log = run.log(1).read_text()
        for line in (
            "ok    torch as in the image: 2.7.0",
            "ok    numpy as in the image: 1.26.4",
            "ok    tensordict: 0.14.3",  # the image has 0.7.0
            "ok    isaaclab.app: /workspace/isaaclab/source/isaaclab/isaaclab/app",
            "8 environments of Standin-Reach-v0",
        ):
            assert line in log, log
        assert run.read_summary()["optim_steps"] == 20
        assert (run.checkpoints / "latest").exists()
        assert list(run.read_metrics())
    first, second = (run.log(1).read_text() for run in runs)
    assert "Successfully installed torchrl-0.14.1" in first
    assert first.count("set up and verified") == 1
    assert int(re.search(r"packages: installed in (\d+) s", first)[1]) > 0
    assert "packages: installed already" in second
    assert "Successfully installed torchrl" not in second
    eventually(lambda: allocations(cluster) == [] and containers(engine) == [], 40)
    assert [pid for run in runs for pid in processes_of(run)] == []


def test_a_containers_files_die_with_its_allocation_and_the_run_goes_on_from_what_was_pulled(
    site, job, cluster, engine, steve
):
    steps = f"env.backend: debug, experiment: debug, optimization.total_optim_steps: {FOREVER}, checkpoint.interval: 1"
    run = site.submit(job("lost", steps))
    site.trains(run, seconds=400)
    assert [words[-1] for words in calls(steve, "step", "-d")][-1] == "WANDB_MODE=disabled bash /root/setup-and-run.sh"
    eventually(lambda: site.status(run) and (run.checkpoints / "latest").exists())
    [allocation] = allocations(cluster)
    [container] = containers(engine)
    inside = ["ls", f"/root/longshore/{run.root.name}/checkpoints"]
    made = engine.client.exec_create(container["Id"], inside)
    assert b"latest" in engine.client.exec_start(made["Id"])
    # Another run's process in the same container, and one of the node's: nobody ends those.
    bystander = subprocess.Popen(["sleep", "600"], env={"LONGSHORE_RUN_ID": "another"})
    try:
        cluster.run("scancel", allocation)
        eventually(lambda: containers(engine) == [], 40)
        eventually(lambda: processes_of(run) == [], 40)
        site.trains(run, attempt=2, seconds=400)
        log = site.log(run, 2)
        assert "resuming from step" in log
        assert "Successfully installed torchrl" in log  # nothing of the first container is left
        site.run("cancel", run.root.name, "--grace", "60s", timeout=120)
        assert site.status(run)["message"] == "after saving a checkpoint"
        assert bystander.poll() is None
    finally:
        bystander.kill()
    assert [one["failure_class"] for one in site.status(run)["attempts"]] == ["node-failure", None]
    eventually(lambda: allocations(cluster) == [] and containers(engine) == [], 40)
    assert processes_of(run) == []
