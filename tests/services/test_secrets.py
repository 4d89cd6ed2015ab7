"""The value of a secret is in no file but one, in no command line and in no answer: all that there is, is read."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shlex
import sys
import time
from datetime import timedelta
from pathlib import Path

import docker
import pytest

from orchestrator.backends.base import ContainerRequest, LaunchRequest
from orchestrator.backends.docker import DockerBackend
from orchestrator.jobfile.job import Resources
from orchestrator.jobfile.model import Mount
from tests.orchestrator.command_line import REPOSITORY
from tests.services.docker_engine import running_engine
from tests.services.hollow import PYTHON, folders_of, hollow_image
from tests.services.slurm_project import FOREVER, SlurmProject, end, started
from tests.services.sshd import Sshd
from tests.waiting import eventually
from trainer.run_dir import RunDir

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]
SECRET = "5ecre7" * 6 + "abcd"  # forty hexadecimal digits, as W&B's keys are
FORMS = [SECRET.encode(), base64.b64encode(SECRET.encode()), base64.b64encode(f"api:{SECRET}".encode())]
HOLDERS = {"local": [], "docker": [], "slurm": ["secrets"], "steve": ["longshore.env"]}  # while a run goes on
JOB = """\
name: secretive
backend: {backend}
profile: site
{image}
resources: {{gpus: 0, time: "30:00"{more}}}
environment: {{WANDB_MODE: offline}}
secrets: [WANDB_API_KEY]
mounts: [{mounts}]
train: {{env.backend: debug, experiment: debug, optimization.total_optim_steps: {steps}, logger.interval: 1}}
"""


@pytest.fixture(scope="module")
def cluster():
    cluster = started(accounting=True)
    yield cluster
    end(cluster)


@pytest.fixture(scope="module")
def engine():
    with running_engine() as engine:
        engine.client.import_image_from_data(hollow_image(), repository="hollow", tag="1")
        yield engine


@pytest.fixture(scope="module")
def project(tmp_path_factory, cluster, engine):
    """A laptop, a login node with Slurm and steve, and an engine; what they keep lies in the folders of `places`."""
    folder = tmp_path_factory.mktemp("secrets")
    steve = cluster.folder / "steve"
    (steve / "bin").mkdir(parents=True)
    (steve / "bin" / "python3").write_text(PYTHON.format(python=shlex.quote(sys.executable)))
    (steve / "bin" / "python3").chmod(0o755)
    (steve / "settings.json").write_text(json.dumps({"container": f"{steve}/container", "path": f"{steve}/bin"}))
    variables = {
        **cluster.variables,
        "PATH": f"{REPOSITORY / 'tests/fakes/slurm'}:{os.environ['PATH']}",
        "FAKE_STEVE": str(steve),
        "FAKE_STEVE_PYTHON": sys.executable,
    }
    (folder / "sshd").mkdir()
    sshd = Sshd(folder / "sshd", variables)
    sshd.start()
    (folder / "laptop").mkdir()
    far = {"host": sshd.target, "key": str(sshd.key)}
    assume = {"folder": f"{steve}/container", "staging": f"{steve}/staging"}
    site = {
        "local": {"python": sys.executable},
        "docker": {"environment": {"PATH": f"{steve}/bin:/usr/bin:/bin"}},
        "slurm": {**far, "shared": str(cluster.folder / "shared"), "python": sys.executable},
        "steve": {**far, "assume": assume},
    }
    (folder / "laptop" / "profiles.yaml").write_text(json.dumps({"site": site}))
    home = {"HOME": str(sshd.folder / "home"), "DOCKER_HOST": engine.address, "WANDB_API_KEY": SECRET}
    project = SlurmProject(folder / "laptop", home)
    yield project
    sshd.stop()


class LateEngine(docker.APIClient):
    """Takes up what is sent to a container's standard input only when that runs, as an engine does that is busy."""

    def attach_socket(self, container, *arguments, **more):
        self.start(container)
        return super().attach_socket(container, *arguments, **more)


def holders(*places: Path) -> list[Path]:
    """Files with the secret in them."""
    found = []
    for path in (path for place in places for path in place.rglob("*")):
        try:
            if path.is_file() and not path.is_symlink() and any(form in path.read_bytes() for form in FORMS):
                found.append(path)
        except OSError:
            continue  # it has gone meanwhile, or is no file at all
    return found


def told(project, cluster, engine, job) -> bytes:
    """Everything that anybody says."""
    words = [("plan", job, "--json"), ("render", job), ("status", "last", "--json"), ("runs", "--json")]
    words += [("logs", "last"), ("doctor", job, "--json"), ("submit", job, "--set", "resources.nonsense=1")]
    words += [("submit", job, "--again", "--backend", "slurm", "--set", "resources.partition=nowhere")]
    said = [project.run(*line, check=None) for line in words]
    client = engine.client
    texts = [done.stdout + done.stderr for done in said]
    texts += [json.dumps(client.inspect_container(one["Id"])) for one in client.containers(all=True)]
    texts += [json.dumps(client.history(one["Id"])) for one in client.images()]
    texts.append(cluster.run("scontrol", "show", "job", "-dd"))
    texts.append(cluster.run("sacct", "-P", "-o", "ALL"))
    texts.append(cluster.run("ps", "-eww", "-o", "args"))
    return "\n".join(texts).encode()


@pytest.mark.parametrize("backend", ["local", "docker", "slurm", "steve"])
def test_the_value_of_a_secret_is_in_one_file_at_most_and_nowhere_else(project, cluster, engine, backend):
    inside = sorted({*folders_of(Path(sys.prefix)), "/tmp", str(REPOSITORY), str(cluster.folder / "steve")})
    values = {
        "image": "image: hollow:1" if backend in {"docker", "steve"} else "",
        "more": ", extra: {network: none}" if backend == "docker" else ", partition: normal" * (backend == "steve"),
        "mounts": ", ".join(f"{{source: {path}, target: {path}}}" for path in inside) if backend == "docker" else "",
    }
    job = project.folder / "secretive.yaml"
    job.write_text(JOB.format(backend=backend, steps=FOREVER, **values))
    run = project.submit(job.name)
    places = (project.folder.parent, cluster.folder, engine.folder)
    try:
        project.trains(run)
        found = holders(*places)
        assert [path.name for path in found] == HOLDERS[backend]
        assert [path.stat().st_mode & 0o777 for path in found] == [0o600] * len(found)
        said = told(project, cluster, engine, job.name)
        assert not any(form in said for form in FORMS)
        wandb = [path for place in places for path in place.rglob("*.wandb") if run.root.name in str(path)]
        assert wandb, "W&B has recorded nothing: this shows less than it should"
    finally:
        project.run("cancel", run.root.name, "--grace", "60s", timeout=120, check=None)
    assert [path.name for path in holders(*places)] in ([], HOLDERS[backend])


def test_an_engine_that_takes_up_secrets_late_does_not_hold_the_connection_until_the_run_ends(engine, tmp_path):
    backend = DockerBackend(connect=lambda where: contextlib.closing(LateEngine(base_url=where)))
    script = tmp_path / "setup-and-run.sh"
    script.write_text('while IFS= read -r -d "" word && [[ "$word" ]]; do echo "got ${word%=*}"; done; sleep 600\n')
    usr = Mount(source="/usr", target="/usr")
    container = ContainerRequest("hollow:1", Resources(gpus=0), (usr,), engine=engine.address)
    launch = backend.plan(LaunchRequest("late", tmp_path, script, 1, ("KEY",), container=container))
    began = time.monotonic()
    handle = backend.launch(launch, {"KEY": "value"})
    assert time.monotonic() - began < 30, "what the engine's answers may take, and less than the run"
    eventually(lambda: RunDir(tmp_path).log(1).read_text() == "got KEY\n", 30)
    backend.cancel([handle], timedelta())
