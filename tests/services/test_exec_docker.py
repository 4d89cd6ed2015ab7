"""`exec` in a container of a real Docker Engine, whose image is a shell and what that needs."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from orchestrator.backends.docker import DockerBackend
from orchestrator.errors import BackendError
from tests.services.docker_engine import running_engine

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def engine():
    with running_engine() as engine:
        yield engine


def shell_image() -> bytes:
    """This machine's /bin/sh with its libraries, as an archive."""
    libraries = re.findall(r"(/\S+) \(", subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True).stdout)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path in ("/bin/sh", *libraries):
            archive.add(Path(path).resolve(), arcname=path)
    return packed.getvalue()


def test_a_command_in_a_container_has_the_runs_folder_and_variables_and_gives_its_exit_code(engine, tmp_path, capfd):
    client = engine.client
    client.import_image_from_data(shell_image(), repository="shell", tag="1")
    config = client.create_host_config(binds={str(tmp_path): {"bind": str(tmp_path)}})
    made = client.create_container("shell:1", ["/bin/sh", "-c", "read x"], stdin_open=True, host_config=config)
    client.start(made["Id"])
    handle, backend = f"{engine.address}#{made['Id']}", DockerBackend()
    command = ["/bin/sh", "-c", 'pwd; echo "$NOTE"; echo oops >&2; exit 7']
    assert backend.execute(handle, tmp_path, command, {"NOTE": "it's one"}) == 7
    assert capfd.readouterr() == (f"{tmp_path}\nit's one\n", "oops\n")
    client.kill(made["Id"])
    with pytest.raises(BackendError, match="not running"):
        backend.execute(handle, tmp_path, command, {})
