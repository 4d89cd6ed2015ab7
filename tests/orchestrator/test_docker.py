"""Docker without an engine: what is planned, how an end is read, what is said when something is missing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from golden_files import assert_golden
from test_plan import planned, read_job

from orchestrator.backends.base import ContainerRequest, LaunchRequest
from orchestrator.backends.docker import DockerBackend, Ended, outcome
from orchestrator.docker.container import container_body
from orchestrator.docker.engine import address, connected, explain, follow_messages, image_digest
from orchestrator.docker.ssh import SshAddress
from orchestrator.errors import BackendError, UsageError
from orchestrator.jobfile.job import Resources
from orchestrator.jobfile.model import Mount
from orchestrator.launches import launch_text, parse_launch
from orchestrator.profile import Profile
from orchestrator.states import FailureClass, RunState
from trainer.run_dir import Failure

IMAGE = "nvcr.io/nvidia/isaac-lab:2.3.0"
ISAAC = f"""\
name: ant
backend: docker
image: {IMAGE}
resources: {{gpus: 2, cpus: 16, memory: 64G, time: "4:00:00"}}
setup: {{code: [/home/user/tasks], apt: [rsync]}}
secrets: [WANDB_API_KEY]
mounts: [{{source: ~/isaac-cache, target: /isaac-sim/kit/cache, cache: true}}]
train: {{env.name: Isaac-Ant-v0}}
"""


def body(secrets=(), gpus=0, mounts=(), cache=None, extra=None, **resources):
    container = ContainerRequest(IMAGE, Resources(gpus=gpus, extra=extra or {}, **resources), mounts, ("/code",), cache)
    run_dir = Path("/runs/r")
    return container_body(LaunchRequest("r", run_dir, run_dir / "setup-and-run.sh", 1, secrets), container)


def targets(of):
    return {mount["Target"]: mount for mount in of["HostConfig"]["Mounts"]}


def test_what_is_created_is_as_recorded_and_the_same_each_time(tmp_path):
    job = read_job(tmp_path, ISAAC)
    [run] = planned(job).runs
    assert_golden("docker.json", json.dumps(run.launch.container, indent=2) + "\n")
    assert_golden("docker.sh", run.files["setup-and-run.sh"])
    assert planned(job).runs[0].launch == run.launch
    assert planned(job).to_dict()["runs"][0]["launch"]["container"] == run.launch.container


def test_the_registry_gives_back_the_launch_that_was_planned(tmp_path):
    [run] = planned(read_job(tmp_path, ISAAC), profile=Profile(name="default", engine="ssh://gpu1")).runs
    again = parse_launch(launch_text(run.launch))
    assert (again.container, again.engine) == (run.launch.container, "ssh://gpu1")


def test_no_value_of_a_secret_is_in_what_is_created(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "hunter2-hunter2")
    [run] = planned(read_job(tmp_path, ISAAC)).runs
    assert "hunter2" not in json.dumps(run.launch.container)
    assert not any(word.startswith("WANDB_API_KEY=") for word in run.launch.container["Env"])
    assert run.launch.container["OpenStdin"]


def test_without_secrets_standard_input_stays_closed():
    assert not body()["OpenStdin"]


def test_gpus_come_with_all_capabilities_because_cameras_need_graphics():
    created = body(gpus=2)
    [request] = created["HostConfig"]["DeviceRequests"]
    assert (request["Count"], request["Capabilities"]) == (2, [["gpu"]])
    assert "NVIDIA_DRIVER_CAPABILITIES=all" in created["Env"]
    assert "DeviceRequests" not in body(gpus=0)["HostConfig"]


def test_limits_are_the_engines_own_units():
    host = body(cpus=4, memory="2G")["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (4 * 10**9, 2 << 30, 2 << 30)


def test_the_run_directory_is_mounted_where_it_is_and_the_code_cannot_be_written():
    mounts = targets(body())
    assert mounts["/runs/r"] == {"Type": "bind", "Source": "/runs/r", "Target": "/runs/r"}
    assert mounts["/code"]["ReadOnly"]


def test_caches_are_volumes_or_folders_of_the_profiles_cache():
    assert targets(body())["/root/.cache/pip"] == {
        "Type": "volume",
        "Source": "longshore-pip",
        "Target": "/root/.cache/pip",
    }
    assert targets(body(cache="/data/cache"))["/root/.cache/pip"]["Source"] == "/data/cache/pip"


def test_a_mount_of_the_job_takes_the_place_of_a_cache_and_of_the_profiles():
    mounts = (
        Mount(source="/profile", target="/root/.cache/pip"),
        Mount(source="/job", target="/root/.cache/pip", cache=True),
    )
    assert targets(body(mounts=mounts))["/root/.cache/pip"]["Source"] == "/job"


def test_flags_of_docker_run_find_their_place():
    created = body(extra={"network": "none", "pids-limit": 100, "user": "1000"})
    assert (created["HostConfig"]["NetworkMode"], created["HostConfig"]["PidsLimit"]) == ("none", 100)
    assert created["User"] == "1000"
    with pytest.raises(UsageError, match=r"resources.extra.qos: docker takes cpuset-cpus, ipc, network"):
        body(extra={"qos": "high"})


CRASH = Failure(FailureClass.CRASH, "the trainer was ended by signal 9 (SIGKILL)", exit_code=137)
NAN = Failure(FailureClass.NAN, "the loss is nan", exit_code=1)


@pytest.mark.parametrize(
    ("ended", "state", "failure_class"),
    [
        (Ended(exit_code=0, success=True), RunState.SUCCEEDED, None),
        (Ended(exit_code=139, success=True, script_code=139), RunState.SUCCEEDED, None),
        (Ended(exit_code=0, script_code=0), RunState.FAILED, FailureClass.SETUP),
        (Ended(exit_code=1, script_code=1, trained=True), RunState.FAILED, FailureClass.CRASH),
        (Ended(exit_code=75, script_code=75), RunState.FAILED, FailureClass.PREEMPTED),
        (Ended(exit_code=1, script_code=1, failure=NAN), RunState.FAILED, FailureClass.NAN),
        (Ended(exit_code=137, script_code=137, failure=CRASH), RunState.FAILED, FailureClass.CRASH),
        (Ended(exit_code=137, out_of_memory=True), RunState.FAILED, FailureClass.OUT_OF_MEMORY),
        (Ended(exit_code=137, out_of_memory=True, script_code=137, failure=CRASH), RunState.FAILED, "out-of-memory"),
        (Ended(exit_code=1, out_of_memory=True, script_code=1, failure=NAN), RunState.FAILED, FailureClass.NAN),
        (Ended(exit_code=137), RunState.FAILED, FailureClass.NODE_FAILURE),
        (Ended(exit_code=127, error="exec: bash: not found"), RunState.FAILED, FailureClass.SETUP),
        (Ended(gone=True), RunState.FAILED, FailureClass.LOST),
        (Ended(gone=True, success=True), RunState.SUCCEEDED, None),
    ],
)
def test_how_a_container_ended(ended, state, failure_class):
    seen = outcome(ended)
    assert (seen.state, seen.failure_class) == (state, failure_class)
    assert bool(seen.message) == (state is RunState.FAILED)


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "nvidia-container-toolkit"),
        (
            "Get https://nvcr.io/v2/nvidia/isaac-lab/manifests/2.3.0: unauthorized: authentication required",
            "docker login",
        ),
        ("pull access denied for x, repository does not exist or may require 'docker login'", "docker login"),
        ("manifest for nvcr.io/nvidia/isaac-lab:9 not found: manifest unknown: manifest unknown", "no such image"),
        ("dial tcp: lookup nvcr.io: no such host", "cannot reach the image's registry"),
        ("write /var/lib/docker/x: no space left on device", "disk is full"),
        ('invalid mount config for type "bind": bind source path does not exist: /x', "LONGSHORE_HOME"),
    ],
)
def test_an_answer_of_the_engine_comes_with_what_to_do_about_it(answer, advice):
    error = explain("run", answer)
    assert advice in str(error)
    assert answer in str(error)
    assert "\n" not in str(error)
    assert error.exit_code == 3


@pytest.mark.parametrize(
    ("engine", "variables", "where"),
    [
        ("ssh://gpu1", {"DOCKER_HOST": "ssh://gpu2"}, "ssh://gpu1"),
        (None, {"DOCKER_HOST": "ssh://gpu2"}, "ssh://gpu2"),
        (None, {}, "unix:///var/run/docker.sock"),
    ],
)
def test_the_profiles_engine_comes_before_the_environments(engine, variables, where):
    assert address(engine, variables) == where


def test_an_engine_that_does_not_answer_is_one_line_and_exit_code_3(tmp_path):
    where = f"unix://{tmp_path}/no.sock"
    with pytest.raises(BackendError, match="no container engine answers") as error, connected(where):
        pass
    assert "\n" not in str(error.value)
    with pytest.raises(BackendError):
        DockerBackend().poll({f"{where}#abc": tmp_path})


@pytest.mark.parametrize(
    ("where", "words", "typed"),
    [
        ("ssh://gpu1", ("--", "gpu1"), "ssh gpu1"),
        ("ssh://Me@Gpu1:2222", ("-l", "Me", "-p", "2222", "--", "Gpu1"), "ssh -p 2222 Me@Gpu1"),
        ("ssh://me@[fe80::1]:22", ("-l", "me", "-p", "22", "--", "fe80::1"), "ssh -p 22 me@fe80::1"),
    ],
)
def test_an_address_of_an_engine_elsewhere_is_what_ssh_is_told(where, words, typed):
    read = SshAddress.of(where)
    assert (read.words, read.command) == (words, typed)


@pytest.mark.parametrize(
    "where", ["ssh://", "ssh://me@gpu1:port", "ssh://gpu1/var/run/docker.sock", "ssh://me:word@gpu1", "ssh://-oX@-oY"]
)
def test_other_addresses_are_refused_before_anything_is_started(where):
    with pytest.raises(BackendError, match=r"is no address of an engine; write ssh://USER@HOST"), connected(where):
        pass


def test_a_pull_without_a_terminal_says_one_line_and_what_went_wrong():
    show = io.StringIO()
    follow_messages([{"status": "Downloading", "id": "a"}], "pulling x", show)
    assert show.getvalue() == "pulling x …\n"
    with pytest.raises(BackendError, match="docker login"):
        follow_messages([{"error": "unauthorized"}], "pulling x", io.StringIO())


def test_a_pull_on_a_terminal_shows_a_bar():
    show = io.StringIO()
    show.isatty = lambda: True
    detail = {"current": 5, "total": 10}
    messages = [
        {"status": "Downloading", "id": "a", "progressDetail": detail},
        {"status": "Pull complete", "id": "a"},
        {"status": "Status: done"},
    ]
    follow_messages(messages, "pulling x", show)
    assert "pulling x" in show.getvalue()


def test_an_image_that_was_never_in_a_registry_is_named_by_its_id():
    assert image_digest({"Id": "sha256:1", "RepoDigests": []}) == "sha256:1"
    assert image_digest({"Id": "sha256:1", "RepoDigests": ["a@sha256:2"]}) == "a@sha256:2"
