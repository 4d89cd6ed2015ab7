"""Images and shells without an engine: what would be built, and what a shell's container is."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from test_docker import ISAAC
from test_plan import planned, read_job

from orchestrator.assets import containers_folder, trainer_folder
from orchestrator.docker.images import _write_archive, build_context, default_job, default_tag
from orchestrator.docker.shell import open_shell, shell_body
from orchestrator.errors import LongshoreError, UsageError
from orchestrator.profile import Profile
from orchestrator.script import render_script
from orchestrator.snapshot import snapshot_folder

SITE = Profile(name="default")


def kept(script):
    """What decides the folder that packages are kept in."""
    return script.split("kept=(")[1].split("\n)")[0]


@pytest.mark.parametrize(
    ("base", "tag"),
    [
        ("nvcr.io/nvidia/isaac-lab:2.3.0", "longshore/isaac-lab:2.3.0"),
        ("localhost:5000/mine:1", "longshore/mine:1"),
        (f"nvcr.io/nvidia/isaac-lab@sha256:{'0' * 64}", "longshore/isaac-lab:latest"),
    ],
)
def test_an_image_is_named_after_what_it_is_made_from(base, tag):
    assert default_tag(base) == tag


def test_the_default_is_nvidias_image():
    assert default_job().image == "nvcr.io/nvidia/isaac-lab:2.3.0"
    assert "ARG BASE_IMAGE=nvcr.io/nvidia/isaac-lab:2.3.0" in (containers_folder() / "Dockerfile.isaac").read_text()


def test_an_image_has_what_a_run_would_install_and_nothing_of_one_run(tmp_path):
    job = read_job(tmp_path, ISAAC)
    script = render_script(build_context(job, SITE))
    assert kept(script) == kept(planned(job).runs[0].files["setup-and-run.sh"])
    assert "verify_gpus=0\n" in script
    for word in ("/home/user/tasks", "LONGSHORE_SECRETS", "time_limit="):
        assert word not in script


def test_a_folder_is_no_part_of_an_image(tmp_path):
    job = read_job(tmp_path, ISAAC.replace("setup: {", "setup: {torchrl: {path: /home/user/rl}, "))
    assert "torchrl" not in kept(render_script(build_context(job, SITE)))


def test_the_engine_gets_the_dockerfile_the_script_the_trainer_and_the_wheels(tmp_path):
    (tmp_path / "a.whl").write_bytes(b"wheel")
    archive = io.BytesIO()
    _write_archive(archive, "echo\n", trainer_folder(), str(tmp_path))
    with tarfile.open(fileobj=archive) as tar:
        names = tar.getnames()
    assert {"Dockerfile.isaac", "longshore/setup-and-run.sh", "longshore/wheels/a.whl"} <= set(names)
    assert "longshore/code/trainer/run_dir.py" in names
    assert not [name for name in names if "__pycache__" in name]


def test_a_shell_is_the_runs_container_with_live_code_and_without_its_secrets(tmp_path):
    plan = planned(read_job(tmp_path, ISAAC))
    [run] = plan.runs
    snapshot = snapshot_folder(plan.snapshot, plan.home)
    body = shell_body(run, snapshot, Path("/home/user/project"))
    mounts = {mount["Target"]: mount["Source"] for mount in body["HostConfig"]["Mounts"]}
    assert mounts[f"{snapshot}/trainer"] == str(trainer_folder())
    assert mounts["/home/user/project"] == "/home/user/project"
    assert str(snapshot) not in mounts
    assert body["Cmd"] == [str(run.launch.request.script), "--shell"]
    assert (body["Tty"], body["HostConfig"]["AutoRemove"]) == (True, True)
    assert not [word for word in body["Env"] if word.startswith("LONGSHORE_SECRETS")]
    assert "longshore.run" not in json.dumps(body["Labels"])
    assert run.launch.container["Labels"]["longshore.run"] == run.run_id


def test_a_shell_needs_a_container_and_dockers_own_command(tmp_path):
    [local] = planned(read_job(tmp_path, "name: a\nbackend: local\n")).runs
    with pytest.raises(UsageError, match="--backend docker"):
        open_shell(local, Path("/s"), ("docker",), tmp_path)
    [run] = planned(read_job(tmp_path, ISAAC)).runs
    with pytest.raises(LongshoreError, match="no-such-docker: there is no such command"):
        open_shell(run, Path("/s"), ("no-such-docker",), tmp_path)
