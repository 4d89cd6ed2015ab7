"""An engine on another machine, over a real sshd: what goes through it, and what is said when it cannot be reached."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.backends.docker import DockerBackend, _start
from orchestrator.docker.engine import connected
from orchestrator.errors import BackendError
from tests.services.docker_engine import Engine, running_engine
from tests.services.sshd import CuttingProxy, Sshd, SshUser, make_key
from tests.services.test_exec_docker import shell_image
from tests.waiting import eventually

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]

LISTEN = 'while read -r line || [ -n "$line" ]; do echo "$line"; done; echo end'


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running_engine("/usr/sbin/sshd", "ssh", "docker") as engine:
        engine.client.import_image_from_data(shell_image(), repository="shell", tag="1")
        yield engine


@pytest.fixture(scope="module")
def sshd(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """The engine's machine."""
    sshd = Sshd(tmp_path_factory.mktemp("sshd"), {"DOCKER_HOST": engine.address})
    sshd.start()
    yield sshd
    sshd.stop()


@pytest.fixture(autouse=True)
def user(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SshUser:
    user = SshUser(tmp_path / "user", sshd)
    monkeypatch.setenv("PATH", user.path)
    return user


def container(engine: Engine, script: str) -> str:
    """One that was created and not started."""
    client = engine.client
    config = client.create_host_config(network_mode="none")
    words = ["/bin/sh", "-c", script]
    return str(client.create_container("shell:1", words, stdin_open=True, host_config=config)["Id"])


def refused(where: str) -> str:
    """What is said of an engine that cannot be reached, in one line."""
    with pytest.raises(BackendError) as caught, connected(where):
        pass
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    return str(caught.value).removeprefix(f"no container engine answers at {where}: ")


def test_secrets_reach_a_container_whole_and_no_process_is_left_behind(engine: Engine, sshd: Sshd, user: SshUser):
    """Over a slow line too: they may still be on their way when there is nothing else to be done."""
    name = container(engine, LISTEN)
    with CuttingProxy(sshd.port) as proxy:
        user.knows(sshd.known_as(proxy.port), sshd.key)
        with connected(f"ssh://{sshd.user}@127.0.0.1:{proxy.port}") as client:
            proxy.delay = 0.3
            _start(client, name, {"A": "one", "B": "two words"})
            assert psutil.Process().children()
    eventually(lambda: not engine.client.inspect_container(name)["State"]["Running"])
    assert engine.client.logs(name) == b"A=oneB=two words\nend\n"
    assert not [child for child in psutil.Process().children() if "ssh" in child.name() and "sshd" not in child.name()]


def test_a_command_in_a_container_gives_its_output_and_exit_code(engine: Engine, sshd: Sshd, tmp_path: Path, capfd):
    name = container(engine, "read x")
    engine.client.start(name)
    command = ["/bin/sh", "-c", 'echo "$NOTE"; echo oops >&2; exit 7']
    assert DockerBackend().execute(f"ssh://{sshd.target}#{name}", Path("/"), command, {"NOTE": "it's one"}) == 7
    assert capfd.readouterr() == ("it's one\n", "oops\n")
    engine.client.kill(name)


def test_requests_share_one_login(sshd: Sshd):
    before = (sshd.folder / "sshd.log").read_text().count("Accepted publickey")
    with connected(f"ssh://{sshd.target}") as client:
        client.info()
        client.containers()
    assert (sshd.folder / "sshd.log").read_text().count("Accepted publickey") == before + 1


def test_an_unknown_host_is_refused_with_the_command_that_adds_it(sshd: Sshd, user: SshUser):
    user.knows("", sshd.key)
    assert refused(f"ssh://{sshd.target}") == (
        f"the host key of [127.0.0.1]:{sshd.port} is not known; compare it, then add it: "
        f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> ~/.ssh/known_hosts"
    )
    assert (user.folder / "known_hosts").read_text() == ""


def test_a_host_with_another_key_is_refused_with_the_command_that_forgets_the_old_one(sshd: Sshd, user: SshUser):
    make_key(user.folder / "other")
    user.knows(f"[127.0.0.1]:{sshd.port} {(user.folder / 'other.pub').read_text()}", sshd.key)
    assert refused(f"ssh://{sshd.target}") == (
        f"the host key of [127.0.0.1]:{sshd.port} has changed; if you know why, forget the old: "
        f"ssh-keygen -R '[127.0.0.1]:{sshd.port}'"
    )


def test_a_key_that_is_not_let_in_is_one_line(sshd: Sshd, user: SshUser):
    make_key(user.folder / "id")
    user.knows(sshd.known_as(sshd.port), str(user.folder / "id"))
    assert refused(f"ssh://{sshd.target}") == (
        f"it lets you in with none of your keys; try: ssh -p {sshd.port} {sshd.user}@127.0.0.1"
    )


def test_a_host_that_does_not_answer_is_one_line():
    assert "Connection refused" in refused("ssh://127.0.0.1:1")
    assert "Could not resolve hostname" in refused("ssh://no-such-host.invalid")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"PATH": "/nowhere"}, "there is no command `docker` on it"),
        (
            {"DOCKER_HOST": "unix:///nowhere.sock"},
            "Docker does not run there (dial unix /nowhere.sock: connect: no such file or directory)",
        ),
    ],
    ids=["no docker", "no engine"],
)
def test_a_host_without_an_engine_is_one_line(tmp_path: Path, user: SshUser, variables: dict[str, str], words: str):
    bare = Sshd(tmp_path / "bare", variables)
    bare.folder.mkdir()
    bare.start()
    try:
        user.knows(bare.known_as(bare.port), bare.key)
        assert words in refused(f"ssh://{bare.target}")
    finally:
        bare.stop()


def test_a_jump_host_of_the_ssh_config_is_gone_through_and_its_key_is_checked_too(
    engine: Engine, sshd: Sshd, tmp_path: Path, user: SshUser
):
    """The engine's machine is known by a name that only the configuration has."""
    jump = Sshd(tmp_path / "jump")
    jump.folder.mkdir()
    jump.start()
    try:
        shutil.copy(sshd.folder / "authorized_keys", jump.folder / "authorized_keys")
        through = f" ProxyCommand {user.folder}/ssh -W %h:%p -p {jump.port} 127.0.0.1"
        lines = ("Host gpu1", " HostName 127.0.0.1", f" Port {sshd.port}", through)
        user.knows(jump.known_as(jump.port), sshd.key, *lines)
        assert f"of [127.0.0.1]:{sshd.port} is not known" in refused("ssh://gpu1")
        user.knows(sshd.known_as(sshd.port), sshd.key, *lines)
        assert refused("ssh://gpu1") == (
            "the host key of a host on the way there is not known, or has changed; try: ssh gpu1"
        )
        user.knows(sshd.known_as(sshd.port) + jump.known_as(jump.port), sshd.key, *lines)
        with connected("ssh://gpu1") as client:
            assert client.ping()
        assert "Accepted publickey" in (jump.folder / "sshd.log").read_text()
    finally:
        jump.stop()


def test_a_lost_connection_is_said(sshd: Sshd, user: SshUser):
    with CuttingProxy(sshd.port) as proxy:
        user.knows(sshd.known_as(proxy.port), sshd.key)
        where = f"ssh://{sshd.user}@127.0.0.1:{proxy.port}"

        def lose() -> None:
            with connected(where) as client:
                proxy.budget = proxy.passed + 200
                client.info()

        with pytest.raises(BackendError, match="has gone away"):
            lose()
