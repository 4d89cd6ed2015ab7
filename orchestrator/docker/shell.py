"""A shell in a job's container: set up as a run would be, with the code as it is on disk now."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.assets import trainer_folder
from orchestrator.docker.container import LABEL, SECRETS_VARIABLE
from orchestrator.docker.engine import address, connected, ensure_image, explain
from orchestrator.errors import LongshoreError, UsageError
from trainer.run_dir import write_atomically

if TYPE_CHECKING:
    from orchestrator.plan import PlannedRun


def shell_body(planned: PlannedRun, snapshot: Path, working: Path) -> dict[str, Any]:
    """What the engine is asked to create: the run's own container, but for a terminal, live code and the secrets.

    Args:
        planned: The run.
        snapshot: Folder of the frozen code, in whose place the trainer of the working tree is mounted.
        working: Current folder, mounted as it is.
    """
    assert planned.launch.container is not None, "planned for docker"
    body = dict(planned.launch.container)
    host = dict(body["HostConfig"])
    mounts = [mount for mount in host["Mounts"] if mount["Target"] != str(snapshot)]
    for source, target in ((trainer_folder(), snapshot / "trainer"), (working, working)):
        mounts.append({"Type": "bind", "Source": str(source), "Target": str(target)})
    host |= {"Mounts": mounts, "AutoRemove": True}
    return {
        **body,
        "Entrypoint": ["bash"],
        "Cmd": [str(planned.launch.request.script), "--shell"],
        "Env": [word for word in body["Env"] if not word.startswith(f"{SECRETS_VARIABLE}=")],
        "Labels": {f"{LABEL}shell": planned.run_id},
        "HostConfig": host,
        "Tty": True,
        "OpenStdin": True,
        "StdinOnce": True,
    }


def open_shell(
    planned: PlannedRun,
    snapshot: Path,
    command: Sequence[str],
    working: Path,
    environment: Mapping[str, str] = os.environ,
) -> int:
    """Create the container, and hand the terminal over to it.

    Args:
        planned: The run whose container it is; its files are written, but it is no run of the registry.
        snapshot: Folder of the frozen code.
        command: What starts Docker's command line.
        working: Current folder.
        environment: Where DOCKER_HOST is looked up.

    Returns:
        The exit status of the shell.

    Raises:
        BackendError: The engine cannot be reached, or refuses.
        LongshoreError: Docker's command line is not there.
        UsageError: The job is not for Docker.
    """
    import docker

    if planned.launch.container is None or planned.job.backend != "docker":
        raise UsageError(f"a shell needs a container, and {planned.job.backend} has none; add --backend docker")
    if shutil.which(command[0]) is None:
        raise LongshoreError(f"{command[0]}: there is no such command, and it connects the terminal to the container")
    where = address(planned.launch.engine, environment)
    for name, text in planned.files.items():
        write_atomically(planned.run_dir / name, text)
    home = environment.get("HOME", str(Path.home()))
    body = shell_body(planned, snapshot, working)
    for mount in body["HostConfig"]["Mounts"]:
        if mount["Source"].startswith("~/"):
            mount["Source"] = home + mount["Source"][1:]
    with connected(where) as client:
        ensure_image(client, body["Image"])
        try:
            container = client.create_container_from_config(body, f"longshore-shell-{planned.run_id}")["Id"]
        except docker.errors.APIError as error:
            raise explain("the shell's container cannot be created", error) from error
    done = subprocess.run([*command, "--host", where, "start", "--attach", "--interactive", container], check=False)
    return done.returncode
