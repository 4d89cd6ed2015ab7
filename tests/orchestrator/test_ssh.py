"""What is said of a host's key; the rest needs an sshd and is in tests/services/test_ssh.py."""

import shlex

import pytest

from orchestrator.remote.ssh import forget, learn


@pytest.mark.parametrize(
    ("name", "keyscan", "keygen"),
    [
        (
            "login.example.org",
            "ssh-keyscan login.example.org >> ~/.ssh/known_hosts",
            "ssh-keygen -R login.example.org",
        ),
        ("[login]:2222", "ssh-keyscan -p 2222 login >> ~/.ssh/known_hosts", "ssh-keygen -R '[login]:2222'"),
        ("2001:db8::1", "ssh-keyscan 2001:db8::1 >> ~/.ssh/known_hosts", "ssh-keygen -R 2001:db8::1"),
        ("[2001:db8::1]:22", "ssh-keyscan -p 22 2001:db8::1 >> ~/.ssh/known_hosts", "ssh-keygen -R '[2001:db8::1]:22'"),
    ],
)
def test_the_command_that_mends_known_hosts_is_spelled_out(name, keyscan, keygen):
    assert (learn(name), forget(name)) == (keyscan, keygen)


def test_a_name_is_no_shell_text():
    assert shlex.split(learn("a; id"))[1] == "a; id"
