"""Runs on a real Docker Engine, in the stand-in for NVIDIA's image: what a user sees, from submit to the last file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pexpect
import pytest

from tests.services.conftest import IMAGE, REPOSITORY
from tests.services.sshd import Sshd, SshUser
from tests.waiting import eventually
from trainer.run_dir import RunDir

pytestmark = [pytest.mark.services, pytest.mark.timeout(900)]

JOB = """\
name: {name}
backend: docker
image: {image}
resources: {{gpus: 0, memory: 6G, time: "1:00:00", extra: {{network: none}}}}
setup: {{wheelhouse: {wheelhouse}, code: [{code}]}}
secrets: [{secrets}]
train: {{{train}}}
"""
DEBUG = "env.backend: debug, experiment: debug"
LONG = f"{DEBUG}, optimization.total_optim_steps: 1_000_000"
PACKAGE = "import setuptools\nsetuptools.setup(name='mine', version='3', py_modules=['mine'])\n"
SLOW_PACKAGE = "import time, setuptools\ntime.sleep({seconds})\nsetuptools.setup(name='slow', version='1')\n"


@pytest.fixture
def job(project, wheelhouse):
    """Writes a job file; returns its path."""

    def write(name, train=DEBUG, code="", secrets="", image=IMAGE):
        path = project.folder / f"{name}.yaml"
        text = JOB.format(name=name, image=image, wheelhouse=wheelhouse, code=code, secrets=secrets, train=train)
        path.write_text(text)
        return path

    return write


def submit(project, *words):
    """Submit a job and return its run directory."""
    [run_id] = project.run("submit", *map(str, words), timeout=300).stdout.split()
    return RunDir(project.home / run_id)


def finish(project, run, code=0):
    """Wait for a run's end; returns what `status` says of it."""
    done = project.run("wait", run.root.name, check=None, timeout=600)
    assert done.returncode == code, done.stderr + log(run)
    return status(project, run)


def status(project, run):
    return json.loads(project.run("status", run.root.name, "--json").stdout)


def log(run):
    return run.log(1).read_text() if run.log(1).exists() else ""


def seconds(run):
    """That its container ran for."""
    state = json.loads((run.attempt(1) / "container.json").read_text())["state"]
    begun, ended = (datetime.fromisoformat(state[name][:26]) for name in ("StartedAt", "FinishedAt"))
    return (ended - begun).total_seconds()


def wait_for(run, text, seconds=300):
    eventually(lambda: text in log(run), seconds)


def trains(project, run):
    """Wait until there is something to save."""
    wait_for(run, "step 4/")
    assert status(project, run)["state"] == "running"


def container(engine, run):
    """The run's container."""
    return engine.client.containers(all=True, filters={"label": f"longshore.run={run.root.name}"})[0]["Id"]


def test_a_job_is_set_up_verified_and_trained_and_the_next_one_installs_nothing(project, job, engine):
    run = submit(project, job("first"))
    assert finish(project, run)["state"] == "succeeded"
    text = log(run)
    for line in (
        "Successfully installed tensordict-0.14.3",
        "Successfully installed torchrl-0.14.1",
        "ok    torch as in the image: 2.7.0",
        "ok    numpy as in the image: 1.26.4",
        "ok    tensordict: 0.14.3",  # the image has 0.7.0
    ):
        assert line in text, text
    assert "unknown terminal type" not in text
    assert run.success.exists()
    assert (run.checkpoints / "latest").exists()
    assert run.read_summary()["optim_steps"] == 20
    assert list(run.read_metrics())
    record = json.loads((run.attempt(1) / "container.json").read_text())
    assert record["image"] == IMAGE
    assert record["digest"] == engine.client.inspect_image(IMAGE)["Id"]
    assert engine.client.containers(all=True, filters={"label": f"longshore.run={run.root.name}"}) == []

    again = submit(project, job("first"), "seed=1")
    assert finish(project, again)["state"] == "succeeded"
    assert "packages: installed already" in log(again)
    assert "Successfully installed" not in log(again)
    installing = int(re.search(r"packages: installed in (\d+) s", text)[1])
    assert seconds(run) - seconds(again) > installing / 2, "what else takes its time may differ"


def test_cancelling_training_saves_and_no_secret_is_left_anywhere(project, job, engine):
    run = submit(project, job("long", LONG, secrets="MY_SECRET"))
    trains(project, run)
    client, name = engine.client, container(engine, run)
    listed = client.exec_start(client.exec_create(name, ["bash", "-c", "cat /proc/[0-9]*/environ"]))
    assert b"MY_SECRET=hunter2-hunter2" in listed
    inspected = json.dumps(client.inspect_container(name))
    assert "longshore.run" in inspected
    project.run("cancel", run.root.name, timeout=200)
    found = status(project, run)
    assert (found["state"], found["message"]) == ("cancelled", "after saving a checkpoint"), log(run)
    assert (run.checkpoints / "latest").exists()
    written = [path for path in project.home.rglob("*") if path.is_file()]
    kept = inspected.encode() + b"".join(path.read_bytes() for path in written)
    kept += project.run("plan", "long.yaml", "--json").stdout.encode()
    kept += b"".join(path.read_bytes() for path in (engine.folder / "data" / "containers").rglob("*") if path.is_file())
    assert b"hunter2" not in kept


def test_a_run_on_an_engine_over_ssh_is_followed_reached_into_and_cancelled(project, job, engine, tmp_path):
    """Its machine sees the project's folder under the same path, as it has to."""
    (tmp_path / "sshd").mkdir()
    sshd = Sshd(tmp_path / "sshd", {"DOCKER_HOST": engine.address})
    sshd.start()
    try:
        user = SshUser(tmp_path / "user", sshd)
        far = project.with_variables(DOCKER_HOST=f"ssh://{sshd.target}", PATH=user.path)
        run = submit(far, job("far", LONG, secrets="MY_SECRET"))
        trains(far, run)
        name = run.root.name
        done = far.run(
            "exec",
            name,
            "--",
            "bash",
            "-c",
            "pwd; tr '\\0' '\\n' </proc/1/environ | grep -c MY_SECRET; exit 7",
            check=7,
        )
        assert done.stdout == f"{run.root}\n0\n"
        far.run("cancel", name, timeout=200)
        found = status(far, run)
        assert (found["state"], found["message"]) == ("cancelled", "after saving a checkpoint"), log(run)
        assert json.loads((run.attempt(1) / "container.json").read_text())["engine"] == f"ssh://{sshd.target}"
    finally:
        sshd.stop()


def test_cancelling_the_set_up_ends_it(project, job, engine, tmp_path):
    (tmp_path / "setup.py").write_text(SLOW_PACKAGE.format(seconds=600))
    run = submit(project, job("slow", code=tmp_path))
    wait_for(run, "longshore: code-0")
    assert status(project, run)["state"] == "setting-up"
    began = time.monotonic()
    project.run("cancel", run.root.name, timeout=200)
    assert time.monotonic() - began < 60
    assert status(project, run)["state"] == "cancelled"
    assert not run.failure.exists()
    assert "stopped by SIGTERM during code-0" in log(run)


def test_a_package_of_the_users_own_is_installed_from_its_folder(project, job, tmp_path):
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "setup.py").write_text(
        "import setuptools\nsetuptools.setup(name='mine', version='3', py_modules=['mine'])\n"
    )
    run = submit(project, job("own", code=tmp_path))
    assert finish(project, run)["state"] == "succeeded"
    assert "Successfully installed mine-3" in log(run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py", "setup.py"]


def test_the_job_of_the_ant_trains_with_what_isaac_asks_for(project, wheelhouse, tmp_path):
    """As it is in jobs/, but small, and on a task of the user's own, which `setup.code` alone names.

    The real `isaaclab` package starts the stand-in, which refuses what Isaac Sim does not survive.
    """
    (tmp_path / "mine.py").write_text("import standin.standin_tasks\n")
    (tmp_path / "setup.py").write_text(PACKAGE)
    sets = [f"image={IMAGE}", "resources={gpus: 0, memory: 6G, extra: {network: none}}", "secrets=[]", "environment={}"]
    sets.append(f"setup={{wheelhouse: {wheelhouse}, code: [{tmp_path}]}}")
    task = ["env.name=Standin-Reach-v0", "env.allow_cpu=true", "experiment=debug"]
    keys = ["env.num_envs=8", "collector.frames_per_batch=64", "collector.init_random_frames=256"]
    keys += [f"replay_buffer.{key}" for key in ("batch_size=32", "batch_length=8", "buffer_size=1024")]
    words = [*task, *keys, "optimization.total_optim_steps=20"]
    words += [word for assignment in sets for word in ("--set", assignment)]
    run = submit(project, REPOSITORY / "jobs" / "ant.yaml", "--backend", "docker", *words)
    assert finish(project, run)["state"] == "succeeded"
    assert "ok    isaaclab.app: /workspace/isaaclab/source/isaaclab/isaaclab/app" in log(run)
    assert "8 environments of Standin-Reach-v0" in log(run)


def test_what_the_kernel_kills_for_memory_is_out_of_memory(project, job):
    huge = f"{DEBUG}, agent.world_model.deter: 32768, agent.world_model.hidden: 32768, agent.world_model.blocks: 1"
    run = submit(project, job("huge", huge), "--set", "resources.memory=2G")
    found = finish(project, run, 1)
    assert (found["state"], found["failure_class"]) == ("failed", "out-of-memory"), log(run)


def test_a_set_up_that_the_kernel_kills_for_memory_is_out_of_memory_too(project, job, tmp_path):
    (tmp_path / "setup.py").write_text("bytearray(4 << 30)\n")
    run = submit(project, job("greedy", code=tmp_path), "--set", "resources.memory=1G")
    found = finish(project, run, 1)
    assert (found["state"], found["failure_class"]) == ("failed", "out-of-memory"), log(run)


def test_a_run_goes_on_while_an_engine_with_live_restore_is_restarted(project, job, engine):
    engine.stop()
    engine.start(live_restore=True)
    run = submit(project, job("survivor"))
    wait_for(run, "longshore: verify")
    engine.stop()
    done = project.run("status", run.root.name, check=3)
    assert "no container engine answers" in done.stderr
    waits = subprocess.Popen(
        project.command("wait", run.root.name),
        env=project.variables(),
        cwd=project.folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waits.stderr is not None
    assert re.search("no container engine answers.*; asking again", waits.stderr.readline())
    engine.start(live_restore=True)
    assert waits.wait(timeout=300) == 0
    assert finish(project, run)["state"] == "succeeded"
    engine.stop()
    engine.start()


def test_a_run_that_an_engine_stops_with_itself_has_saved_and_is_preempted(project, job, engine):
    run = submit(project, job("stopped", LONG))
    trains(project, run)
    engine.stop()
    engine.start()
    found = finish(project, run, 1)
    assert (found["state"], found["failure_class"]) == ("failed", "preempted"), log(run)
    assert (run.checkpoints / "latest").exists()


def test_a_run_whose_engine_was_killed_is_stopped_by_the_next_one_and_is_preempted(project, job, engine):
    run = submit(project, job("orphan", LONG))
    trains(project, run)
    engine.stop(signal.SIGKILL)
    project.run("status", run.root.name, check=3)
    engine.start()
    found = finish(project, run, 1)
    assert (found["state"], found["failure_class"]) == ("failed", "preempted"), log(run)
    assert (run.checkpoints / "latest").exists()


def test_a_container_that_is_killed_from_outside_is_a_node_failure(project, job, engine):
    run = submit(project, job("killed", LONG))
    wait_for(run, "longshore: verify")
    engine.client.kill(container(engine, run), "SIGKILL")
    found = finish(project, run, 1)
    assert (found["state"], found["failure_class"]) == ("failed", "node-failure"), log(run)


def test_build_only_sets_up_and_trains_nothing(project, job, engine):
    planned = json.loads(project.run("plan", str(job("build")), "--json").stdout)["runs"][0]
    body = planned["launch"]["container"]
    run = submit(project, job("build", LONG))  # puts the files in place
    project.run("cancel", run.root.name, timeout=200)
    text = json.dumps(body).replace(planned["run_id"], run.root.name)
    body = json.loads(text)
    body["Entrypoint"], body["Cmd"] = ["bash"], [str(run.script), "--build-only"]
    client = engine.client
    name = client.create_container_from_config(body)["Id"]
    client.start(name)
    assert client.wait(name)["StatusCode"] == 0
    output = client.logs(name).decode()
    assert "set up and verified" in output
    assert "-m trainer" not in output
    client.remove_container(name)


def test_a_baked_image_trains_without_network_and_installs_nothing(project, job, engine):
    done = project.run("image", "build", str(job("baked")), "--tag", "standin/isaac-lab:baked", timeout=600)
    assert done.stdout == "standin/isaac-lab:baked\n"
    text = job("baked", image="standin/isaac-lab:baked").read_text()
    path = project.folder / "baked.yaml"
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("setup:")))
    cache = project.folder / "empty cache"  # nothing that an earlier run has left
    (project.folder / "profiles.yaml").write_text(f"fresh: {{cache: '{cache}'}}\n")
    run = submit(project, path, "--set", "profile=fresh")
    assert finish(project, run)["state"] == "succeeded"
    assert "packages: installed already, in /opt/longshore/packages/" in log(run)
    record = json.loads((run.attempt(1) / "container.json").read_text())
    assert record["digest"] == engine.client.inspect_image("standin/isaac-lab:baked")["Id"]


def test_a_shell_is_set_up_and_sees_the_working_tree(project, job, engine):
    path = job("shell", secrets="MY_SECRET")
    command, *words = project.command("shell", str(path))
    (project.folder / "note.txt").write_text("from outside")
    shell = pexpect.spawn(command, words, cwd=project.folder, env=project.variables(), encoding="utf-8", timeout=300)
    shell.expect("training starts with")
    shell.sendline(f"cat {project.folder}/note.txt; echo in > {project.folder}/inside.txt")
    shell.sendline("echo [$TD_GET_DEFAULTS_TO_NONE$MY_SECRET]")
    shell.expect("from outside")
    shell.expect_exact("[1]")
    shell.sendline("exit")
    shell.expect(pexpect.EOF)
    shell.wait()
    assert shell.exitstatus == 0
    assert (project.folder / "inside.txt").read_text() == "in\n"
    eventually(lambda: not engine.client.containers(all=True, filters={"label": "longshore.shell"}))


def test_gpus_without_the_nvidia_runtime_are_one_line_that_says_what_to_install(project, job):
    done = project.run("submit", str(job("gpus")), "--set", "resources.gpus=1", check=3)
    assert "nvidia-container-toolkit" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_image_that_cannot_be_had_is_one_line(project, job):
    done = project.run("submit", str(job("nowhere", image="localhost:1/nowhere:1")), check=3)
    [error] = done.stderr.strip().splitlines()
    assert error.startswith("error: localhost:1/nowhere:1 cannot be pulled: ")
    assert "cannot reach the image's registry" in error


def test_two_submitters_start_an_attempt_once(project, job, engine):
    path = job("once", LONG)
    first, second = submit(project, path), submit(project, path)
    assert first.root == second.root
    listed = engine.client.containers(all=True, filters={"label": f"longshore.run={first.root.name}"})
    assert len(listed) == 1
    project.run("cancel", first.root.name, timeout=200)


def test_a_container_that_somebody_removed_is_lost(project, job, engine):
    run = submit(project, job("removed", LONG))
    engine.client.remove_container(container(engine, run), force=True)
    found = finish(project, run, 1)
    assert (found["state"], found["failure_class"]) == ("failed", "lost")


def test_files_of_a_run_belong_to_whom_the_folder_does(project, job):
    path = job("owned")
    home = project.folder / "others"
    home.mkdir()
    other = project.with_variables(LONGSHORE_HOME=str(home))
    [run_id] = other.run("submit", str(path), timeout=300).stdout.split()
    run = RunDir(Path(home / run_id))
    run.root.chmod(0o755)
    os.chown(run.root, 1234, 1234)
    other.run("wait", run_id, timeout=300)
    assert {path.stat().st_uid for path in run.checkpoints.rglob("*")} == {1234}
