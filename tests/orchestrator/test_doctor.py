"""`doctor`: what it thinks of what it finds, and the command itself on this machine; clusters are in tests/services."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orchestrator.doctor import jobs, machine
from orchestrator.doctor.checks import Check, Outcome, examine, failure, ok
from orchestrator.doctor.clusters import fits, gpus_of, parse_sinfo
from orchestrator.doctor.machine import drift, driver_for, room
from orchestrator.doctor.site import Site, site_of
from orchestrator.errors import BackendError
from orchestrator.hosts import LocalHost
from orchestrator.profile import Profile
from orchestrator.spec import load_job
from tests.orchestrator.command_line import Project

GB = 10**9
KEY = "0123456789abcdef" * 2
SINFO = """\
normal*|up|2-00:00:00|4|gpu:h200:8(S:0-1),nvme:2
normal*|up|2-00:00:00|1|(null)
high|up|infinite|2|gpu:h200:8
debug|down|30:00|1|gpu:1
"""


def site(tmp_path: Path, text: str = "", backend: str = "local", **environment: str) -> Site:
    job = None
    if text:
        (tmp_path / "job.yaml").write_text(f"name: tiny\nbackend: {backend}\n{text}")
        job = load_job(tmp_path / "job.yaml")
    variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **environment}
    return site_of(backend, Profile(name="default"), tmp_path / "runs", job, environment=variables)


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Puts an nvidia-smi on the PATH that tells of two GPUs, as the real one's CSV does."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text("#!/bin/sh\nprintf 'NVIDIA H200, 143771 MiB, 570.86.15\\n%.0s' 1 2\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_checks_are_made_side_by_side_and_what_lies_behind_a_shut_door_is_not_looked_at(tmp_path):
    def slow(_):
        time.sleep(0.3)
        return ok("done")

    def breaks(_):
        raise BackendError("no answer")

    doors = [Check("ssh", slow, needs=""), Check("engine", breaks, remedy="start it", needs="")]
    checks = [
        Check("a", slow),
        Check("b", slow),
        Check("c", slow, needs="engine"),
        Check("d", slow, backends=("slurm",)),
    ]
    begun = time.monotonic()
    found = {one.name: one.finding for one in examine(site(tmp_path), doors, checks)}
    assert time.monotonic() - begun < 0.9
    assert list(found) == ["ssh", "engine", "a", "b", "c"]
    assert found["engine"] == failure("no answer", "start it")
    assert (found["a"].outcome, found["c"].message) == (Outcome.OK, "engine has failed")


@pytest.mark.parametrize(
    ("theirs", "outcome"), [(100.4, "OK"), (102.0, "OK"), (90.0, "warning"), (300.0, "failure"), (30.0, "failure")]
)
def test_a_clock_is_judged_by_what_the_answers_delay_cannot_explain(theirs, outcome):
    assert drift(theirs, 100.0, 101.0).outcome == outcome


@pytest.mark.parametrize(
    ("free", "files", "outcome"),
    [
        (90 * GB, ["500000", "900000"], "OK"),
        (9 * GB, ["500000", "900000"], "warning"),
        (GB // 2, ["500000", "900000"], "failure"),
        (90 * GB, ["12", "900000"], "failure"),
        (90 * GB, ["-", "-"], "OK"),
        (90 * GB, ["0", "0"], "OK"),  # btrfs and others count no files
    ],
)
def test_a_disk_needs_room_for_bytes_and_for_files(free, files, outcome):
    assert room(free, files, "/runs").outcome == outcome


def test_a_folder_that_is_not_there_yet_is_judged_by_its_parent(tmp_path):
    assert machine.disk(site(tmp_path)).outcome is Outcome.OK
    (tmp_path / "runs").write_text("a file")
    found = machine.disk(site(tmp_path))
    assert found.outcome is Outcome.FAILURE
    assert f"{tmp_path}/runs is no folder" in found.message


def test_an_interpreter_that_lacks_something_is_named_with_what_it_lacks(tmp_path):
    where = Site("local", Profile(name="x", python="/usr/bin/python3"), LocalHost(), tmp_path)
    found = machine.python(where)
    assert found.outcome is Outcome.FAILURE
    assert found.message.startswith("/usr/bin/python3 lacks torch")


def test_gpus_are_counted_against_the_job(tmp_path, smi):
    isaac = "train: {env.name: Isaac-Ant-v0}\n"
    assert machine.gpu(site(tmp_path)).message == ", ".join(["NVIDIA H200 (143771 MiB)"] * 2)
    wanted = site(tmp_path, f"image: nvcr.io/nvidia/isaac-lab:2.3.0\nresources: {{gpus: 4}}\n{isaac}", "docker")
    assert machine.gpu(wanted).message.startswith("the job wants 4, and there is NVIDIA H200")
    assert machine.driver(wanted).outcome is Outcome.WARNING


@pytest.mark.parametrize(
    ("version", "cuda", "isaac", "outcome"),
    [
        ("580.95.05", 13, False, "OK"),
        ("570.86.15", 13, False, "failure"),
        ("570.86.15", 12, False, "OK"),
        ("515.105.01", 12, False, "failure"),
        ("515.105.01", None, False, "OK"),
        ("580.65.06", None, True, "OK"),
        ("535.129.03", None, True, "warning"),
        ("470.1", None, True, "failure"),
    ],
)
def test_a_driver_is_compared_with_the_cuda_of_the_image_and_with_isaac_sim(version, cuda, isaac, outcome):
    assert driver_for(version, "example/image:1", isaac=isaac, cuda=cuda).outcome == outcome


def test_partitions_are_read_from_sinfo():
    found = parse_sinfo(SINFO)
    assert (found["normal"].nodes, found["normal"].gpus, found["normal"].limit) == (5, 8, 2 * 86400)
    assert (found["normal"].default, found["high"].default, found["debug"].up) == (True, False, False)
    assert found["high"].limit is None
    with pytest.raises(BackendError, match="sinfo answers something else"):
        parse_sinfo("slurm_load_partitions: Unable to contact\n")


@pytest.mark.parametrize(
    ("text", "gpus"), [("gpu:8", 8), ("gpu:h200:8(S:0-1)", 8), ("gpu:a:2,gpu:b:2,mps:400", 4), ("(null)", 0)]
)
def test_gpus_are_counted_in_generic_resources(text, gpus):
    assert gpus_of(text) == gpus


@pytest.mark.parametrize(
    ("wanted", "gpus", "time", "outcome", "words"),
    [
        (None, 2, 3600, "OK", "normal: 5 nodes, 8 GPUs a node, up to 48 h"),
        ("high", 8, None, "OK", "no time limit"),
        ("hihg", 0, None, "failure", "there is no partition hihg"),
        ("debug", 1, None, "failure", "debug is down"),
        (None, 16, None, "failure", "8 GPUs a node, and the job wants 16"),
        (None, 1, 3 * 86400, "failure", "allows 48 h, and the job asks for 72"),
    ],
)
def test_a_partition_is_judged_by_what_the_job_asks_for(wanted, gpus, time, outcome, words):
    found = fits(parse_sinfo(SINFO), wanted, gpus, time)
    assert found.outcome == outcome
    assert words in found.message
    assert found.remedy or outcome == "OK"


@contextmanager
def wandb_server() -> Iterator[tuple[str, list[str]]]:
    """Answers as W&B's API does: it knows KEY alone."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            key = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
            seen.append(f"{self.path} {key}")
            self.send_response(200 if key == f"api:{KEY}" else 401)
            self.end_headers()
            self.wfile.write(json.dumps({"data": {"viewer": {"username": "ada"}}}).encode())

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()


def test_the_login_at_wandb_is_tried_and_the_key_is_never_shown(tmp_path):
    with wandb_server() as (url, seen):
        found = jobs.wandb(site(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=url))
        assert (found.outcome, found.message) == (Outcome.OK, "logged in as ada")
        assert seen == [f"/graphql api:{KEY}"]
        found = jobs.wandb(site(tmp_path, WANDB_API_KEY="wrong-key", WANDB_BASE_URL=url))
        assert (found.outcome, found.message) == (Outcome.FAILURE, f"{url} refuses the key")
        (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login user password {KEY}\n")
        assert jobs.wandb(site(tmp_path, WANDB_BASE_URL=url)).outcome is Outcome.OK
    found = jobs.wandb(site(tmp_path, WANDB_API_KEY=KEY, WANDB_BASE_URL=url))
    assert found.outcome is Outcome.WARNING
    assert KEY not in f"{found}"


@pytest.mark.parametrize(
    ("text", "outcome", "words"),
    [
        ("", "skipped", "does not log there"),
        ("environment: {WANDB_MODE: offline}", "skipped", "logs offline"),
        ("train: {logger.wandb.mode: online}", "failure", "the container does not get a key"),
        ("secrets: [WANDB_API_KEY]", "failure", "there is no key here"),
    ],
)
def test_a_job_that_logs_at_wandb_needs_a_key_where_it_runs(tmp_path, text, outcome, words):
    found = jobs.wandb(site(tmp_path, f"image: example/tool:1\n{text}\n", "docker"))
    assert found.outcome == outcome
    assert words in found.message


def test_this_machine_is_well_in_a_second_and_a_job_is_looked_at_with_it(tmp_path):
    project = Project.make(tmp_path)
    lines = project.run("doctor").stdout.splitlines()
    assert lines[0] == "local, profile default"
    assert {line.split()[0] for line in lines[1:]} <= {"OK", "skipped", "warning"}
    found = {one["check"]: one for one in json.loads(project.run("doctor", project.job(), "--json").stdout)}
    assert found["job"]["message"] == "tiny, one run"
    assert not (project.home).exists()


def test_each_failure_comes_with_its_remedy_and_the_exit_code_is_1(tmp_path):
    project = Project.make(tmp_path)
    (tmp_path / "profiles.yaml").write_text(
        "default: {engine: 'unix:///nowhere.sock'}\nfar: {host: 'me@127.0.0.1:9'}\n"
    )
    job = project.job(more="secrets: [MISSING_TOKEN]\n")
    answers = {
        "job": project.run("doctor", job, "--json", check=1),
        "engine": project.run("doctor", "--backend", "docker", "--json", check=1),
        "ssh": project.run("doctor", "--profile", "far", "--backend", "slurm", "--json", check=1),
        "steve": project.run("doctor", "--backend", "steve", "--json", check=1),
    }
    for name, done in answers.items():
        failed = [one for one in json.loads(done.stdout) if one["outcome"] == "failure"]
        assert name in [one["check"] for one in failed]
        assert all(one["remedy"] for one in failed)
    assert "export MISSING_TOKEN=…" in project.run("doctor", job, check=1).stdout
    assert project.run("doctor", "--backend", "lsf", check=2).stderr.startswith("error: --backend")


def test_the_profile_says_which_cluster_is_meant(tmp_path):
    project = Project.make(tmp_path)
    (tmp_path / "profiles.yaml").write_text("site: {slurm: {partition: gpu, commands: {sbatch: [/no/sbatch]}}}\n")
    done = project.run("doctor", "--profile", "site", check=1)
    assert done.stdout.startswith("slurm, profile site\n")
