"""Commands and files on another host, over a real sshd: keys, jump hosts, lost connections."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from fabric.runners import Remote

from orchestrator.errors import BackendError
from orchestrator.remote.ssh import SshHost
from tests.services.sshd import CuttingProxy, Sshd, make_key

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def sshd(tmp_path_factory):
    if shutil.which("/usr/sbin/sshd") is None:
        pytest.skip("needs openssh-server")
    sshd = Sshd(tmp_path_factory.mktemp("sshd"), {"MARK": "over there"})
    sshd.start()
    yield sshd
    sshd.stop()


@pytest.fixture
def host(sshd):
    host = SshHost(sshd.target, key=sshd.key, folder=sshd.dot_ssh)
    yield host
    host.close()


def test_a_command_gives_its_output_and_exit_code(host):
    done = host.run(["sh", "-c", "echo $MARK; echo no >&2; exit 3"])
    assert (done.exit_code, done.stdout, done.stderr) == (3, "over there\n", "no\n")


def test_arguments_are_no_shell_text_and_nothing_waits_for_input(host):
    assert host.run(["printf", "%s|", "$(id) ; *", "it's", "two\nlines", ""]).stdout == "$(id) ; *|it's|two\nlines||"
    assert host.run(["cat"]).stdout == ""


def test_with_an_environment_there_is_no_other_variable(host):
    done = host.run(["sh", "-c", "echo $A; env"], environment={"A": "x $y", "PATH": "/usr/bin:/bin"})
    assert done.stdout.startswith("x $y\n")
    assert "MARK" not in done.stdout


def test_a_program_that_is_missing_is_named(host):
    with pytest.raises(BackendError, match="no-such-program: No such file"):
        host.run(["no-such-program"])


def test_a_command_that_does_not_answer_is_given_up_and_the_next_one_works(host):
    with pytest.raises(BackendError, match=r"sleep: no answer within 0\.5 s"):
        host.run(["sleep", "30"], timeout=0.5)
    assert host.run(["echo", "again"]).stdout == "again\n"


def test_a_command_is_given_up_as_one_too_where_the_timer_that_hangs_up_is_slow_to_end(host, monkeypatch):
    kill = Remote.kill

    def slow(runner):
        kill(runner)
        time.sleep(1)

    monkeypatch.setattr(Remote, "kill", slow)
    with pytest.raises(BackendError, match=r"sleep: no answer within 0\.5 s"):
        host.run(["sleep", "30"], timeout=0.5)


def test_one_connection_serves_all_commands(host):
    ports = {host.run(["sh", "-c", "echo $SSH_CONNECTION"]).stdout for _ in range(3)}
    assert len(ports) == 1


def test_files_and_folders_go_there_and_back_with_their_modes(host, tmp_path):
    source, there, back = tmp_path / "source", tmp_path / "deep" / "there", tmp_path / "other" / "back"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (source / "sub" / "run.sh").chmod(0o750)
    (source / "empty").mkdir()
    host.put(source, there)
    host.get(there, back)
    assert (back / "sub" / "run.sh").stat().st_mode & 0o777 == 0o750
    assert (back / "empty").is_dir()
    host.put(source / "sub" / "run.sh", there / "alone.sh")
    host.get(there / "alone.sh", back / "alone.sh")
    assert (back / "alone.sh").read_text() == "#!/bin/sh\n"
    assert (back / "alone.sh").stat().st_mode & 0o777 == 0o750
    left = [path.name for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
    assert left == []


def test_half_a_copy_is_gone_on_with(host, tmp_path):
    source, copy, told = tmp_path / "large", tmp_path / "copy", []
    source.write_bytes(os.urandom(3_000_000))
    copy.write_bytes(source.read_bytes()[:1_234_567])
    host.append(source, copy, told.append)
    assert copy.read_bytes() == source.read_bytes()
    assert told[-1] == 3_000_000
    host.append(source, copy, told.append)
    assert copy.stat().st_size == 3_000_000
    with pytest.raises(BackendError, match="No such file"):
        host.append(tmp_path / "gone", tmp_path / "nothing", told.append)


def test_output_comes_while_the_command_runs_and_its_exit_code_at_the_end(host, capfd):
    assert host.stream(["sh", "-c", "echo one; echo two >&2; exit 3"]) == 3
    assert capfd.readouterr() == ("one\n", "two\n")


def test_what_is_written_appears_as_a_whole_and_with_its_mode(host, tmp_path):
    path = tmp_path / "new" / "secret"
    host.write(path, "first\n", mode=0o600)
    host.write(path, "second\n", mode=0o600)
    assert path.read_text() == "second\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


def test_a_file_that_is_not_there_is_one_line_and_the_connection_stays(host, tmp_path):
    port = host.run(["sh", "-c", "echo $SSH_CONNECTION"]).stdout
    with pytest.raises(BackendError, match="No such file"):
        host.get(tmp_path / "nothing", tmp_path / "here")
    assert host.run(["sh", "-c", "echo $SSH_CONNECTION"]).stdout == port


def test_an_unknown_host_is_refused_with_the_command_that_adds_it(sshd, tmp_path):
    with pytest.raises(BackendError, match="is not known; compare it") as caught:
        SshHost(sshd.target, key=sshd.key, folder=tmp_path).run(["true"])
    assert str(caught.value).endswith(f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> ~/.ssh/known_hosts")


def test_a_host_with_another_key_is_refused_with_the_command_that_forgets_the_old_one(sshd, tmp_path):
    make_key(tmp_path / "other")
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{sshd.port} {(tmp_path / 'other.pub').read_text()}")
    with pytest.raises(BackendError, match="has changed") as caught:
        SshHost(sshd.target, key=sshd.key, folder=tmp_path).run(["true"])
    assert str(caught.value).endswith(f"ssh-keygen -R '[127.0.0.1]:{sshd.port}'")


def test_a_key_that_is_not_let_in_is_one_line(sshd, tmp_path):
    make_key(tmp_path / "id")
    (tmp_path / "known_hosts").write_text(sshd.known_as(sshd.port))
    with pytest.raises(BackendError, match="lets you in with none of your keys"):
        SshHost(sshd.target, key=str(tmp_path / "id"), folder=tmp_path).run(["true"])


def test_a_host_that_does_not_answer_is_one_line(sshd):
    with pytest.raises(BackendError, match="nothing answers") as caught:
        SshHost("127.0.0.1:1", folder=sshd.dot_ssh).run(["true"])
    assert "\n" not in str(caught.value)


def test_names_users_ports_and_keys_come_from_the_ssh_config(sshd, tmp_path):
    shutil.copy(sshd.dot_ssh / "known_hosts", tmp_path / "hosts")
    (tmp_path / "config").write_text(
        f"Host cluster\n HostName 127.0.0.1\n Port {sshd.port}\n User {sshd.user}\n IdentityFile {sshd.key}\n"
        f" UserKnownHostsFile {tmp_path}/hosts\n"
    )
    assert SshHost("cluster", folder=tmp_path).run(["echo", "in"]).stdout == "in\n"


@pytest.mark.parametrize("configured", [True, False], ids=["of the ssh config", "of the profile"])
def test_a_jump_host_is_gone_through_and_its_key_is_checked_too(sshd, tmp_path, configured):
    behind = Sshd(tmp_path / "behind", {"MARK": "behind"})
    behind.folder.mkdir()
    behind.start()
    try:
        shutil.copy(behind.folder / "authorized_keys", tmp_path)
        with (sshd.folder / "authorized_keys").open("a") as keys:
            keys.write((behind.dot_ssh / "id_ed25519.pub").read_text())
        known = behind.dot_ssh / "known_hosts"
        host = SshHost(behind.target, jump=None if configured else sshd.target, key=behind.key, folder=behind.dot_ssh)
        if configured:
            text = f"Host 127.0.0.1\n ProxyJump {sshd.target}\n IdentityFile {behind.key}\n"
            (behind.dot_ssh / "config").write_text(text)
        with pytest.raises(BackendError, match=rf"\[127\.0\.0\.1\]:{sshd.port} is not known"):
            host.run(["true"])
        known.write_text(known.read_text() + sshd.known_as(sshd.port))
        done = host.run(["sh", "-c", "echo $MARK $SSH_CONNECTION"])
        assert done.stdout.split()[0] == "behind"
        assert "Accepted publickey" in (sshd.folder / "sshd.log").read_text()
        host.close()
    finally:
        behind.stop()


def test_a_lost_connection_is_said_and_the_next_command_opens_another(sshd, tmp_path):
    with CuttingProxy(sshd.port) as proxy:
        shutil.copy(sshd.key, tmp_path / "id")
        (tmp_path / "known_hosts").write_text(sshd.known_as(proxy.port))
        host = SshHost(f"{sshd.user}@127.0.0.1:{proxy.port}", key=str(tmp_path / "id"), folder=tmp_path)
        assert host.run(["echo", "here"]).stdout == "here\n"
        proxy.budget = proxy.passed + 200
        began = time.monotonic()
        with pytest.raises(BackendError, match="lost"):
            host.run(["sh", "-c", "sleep 0.2; seq 100000"])
        assert time.monotonic() - began < 10
        with pytest.raises(BackendError):
            host.run(["true"])
        host.target = sshd.target
        host.folder = sshd.dot_ssh
        assert host.run(["echo", "again"]).stdout == "again\n"
        host.close()
