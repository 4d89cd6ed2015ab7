"""The set-up script as text: how values are quoted, what it installs, and that nothing in a value is ever executed."""

from __future__ import annotations

import os
import shlex
import shutil
import string
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import jinja2
import pytest
from golden_files import GOLDEN
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestrator.script import (
    ContainerSetup,
    Install,
    ScriptContext,
    ScriptWriter,
    Variable,
    render_script,
    shell_environment,
    shell_words,
)

LOCAL = ScriptContext("demo-1", "/runs/demo-1", "/runs/snapshots/0", ("python3",), modules=("trainer",))
CONTAINER = replace(
    LOCAL,
    container=ContainerSetup(
        installs=(Install("torchrl", ("torchrl==0.14.1",), ("--no-deps",)), Install("pip", ("wandb", "hydra-core"))),
        own=("torchrl", "wandb", "hydra-core"),
        apt=("rsync", "git"),
        wheelhouse="/wheels here",
        visible_devices="0,1",
    ),
)

# What a shell would do something about, were it to read it.
HOSTILE = [
    "$(touch CANARY)",
    "`touch CANARY`",
    "'; touch CANARY; '",
    '"; touch CANARY; "',
    "\ntouch CANARY\n",
    "${HOME}",
]
HOSTILE += [
    "~",
    "*",
    "a b",
    "",
    "\\",
    "'",
    '"',
    "&& touch CANARY",
    "| touch CANARY",
    "> CANARY",
    "!!",
    "é\u2028",
    "$((1+1))",
]
texts = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=40),
    st.lists(st.sampled_from([*HOSTILE, "x", "="]), max_size=5).map("".join),
)
names = st.text(string.ascii_letters + string.digits + "_", max_size=12).map("V_{}".format)

STANDIN = r"""#!/bin/sh
cd {folder} && mkdir -p calls
case "{name} $1" in
  "dpkg -s") [ -e apt-was-here ]; exit ;;
  "apt-get install") touch apt-was-here ;;
  "python -") [ ! -f "$3" ] || {{ echo /site >"$3"; echo torch==2.7.0 >"$2"; exit; }} ;; # packages of the image
esac
printf '%s\0' {name} "$@" >"calls/$(ls calls | wc -l)"
/usr/bin/env -0 >environment
"""
PIP = ["python", "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-warn-script-location"]


def check_syntax(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def read_words(path: Path) -> list[str]:
    return path.read_bytes().decode().split("\0")[:-1]


@dataclass
class Sandbox:
    """A folder with a `python`, a `dpkg` and an `apt-get` that only write down how they were called."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Sandbox:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in ("python", "apt-get", "dpkg"):
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(STANDIN.format(name=name, folder=shlex.quote(os.fspath(folder))))
            path.chmod(0o755)
        return cls(folder)

    def run(self, context: ScriptContext, *words: str, stdin: str | int = "", **variables: str) -> str:
        """Run the script with the stand-ins, and return its output; it reads a text, or from a file descriptor."""
        context = replace(
            context,
            run_dir=os.fspath(self.folder / "run"),
            snapshot=os.fspath(self.folder),
            python=(os.fspath(self.folder / "bin" / "python"),),
        )
        (self.folder / "script.sh").write_text(render_script(context))
        done = subprocess.run(
            ["bash", os.fspath(self.folder / "script.sh"), *words],
            env={
                **os.environ,
                "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
                "LONGSHORE_STATE": f"{self.folder}/state",
                **variables,
            },
            **{"input" if isinstance(stdin, str) else "stdin": stdin},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout + done.stderr

    @property
    def calls(self) -> list[list[str]]:
        """Words of each call so far."""
        files = sorted((self.folder / "calls").iterdir(), key=lambda path: int(path.name))
        return [read_words(file) for file in files]

    def forget_calls(self) -> None:
        shutil.rmtree(self.folder / "calls")

    @property
    def environment(self) -> dict[str, str]:
        """What the last call had."""
        return dict(word.split("=", 1) for word in read_words(self.folder / "environment"))

    def canaries(self) -> list[Path]:
        return list(self.folder.rglob("*CANARY*"))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("plain-word_1.0", "plain-word_1.0"),
        ("two words", "'two words'"),
        ("it's", "'it'\"'\"'s'"),
        ("", "''"),
        (3, "3"),
        (PurePosixPath("/a b"), "'/a b'"),
        (["a", "b c"], "a 'b c'"),
        ((), ""),
        (Variable("NAME", "a b"), "NAME='a b'"),
    ],
)
def test_a_value_is_quoted_where_the_shell_would_read_more_than_a_word(value, words):
    assert shell_words(value) == words


@pytest.mark.parametrize("value", ["a\0b", ["a", "\0"], Variable("NAME", "\0")])
def test_a_nul_is_refused(value):
    with pytest.raises(ValueError, match="NUL"):
        shell_words(value)


@pytest.mark.parametrize("value", [None, True, {"a": 1}, object()])
def test_what_is_no_word_is_refused(value):
    with pytest.raises(TypeError, match="cannot stand in a shell script"):
        shell_words(value)


@pytest.mark.parametrize("name", ["", "1A", "A B", "A=B", "A\n", "é", "A$(x)"])
def test_a_variable_needs_a_name_that_the_shell_takes(name):
    with pytest.raises(ValueError, match="no name of an environment variable"):
        render_script(replace(LOCAL, environment={name: "x"}))


def test_an_undefined_name_in_a_template_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="no_such_name"):
        shell_environment().from_string("echo {{ no_such_name }}").render()


def test_every_interpolation_of_a_template_is_quoted_by_the_environment_itself():
    assert shell_environment().from_string("echo {{ x }}").render(x="$(reboot)") == "echo '$(reboot)'"


@pytest.mark.parametrize("context", [LOCAL, CONTAINER], ids=["local", "container"])
def test_the_script_starts_strictly_and_is_valid_bash(context):
    text = render_script(context)
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    check_syntax(text)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing_in_rendered_scripts(path):
    done = subprocess.run(["shellcheck", os.fspath(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("context", [LOCAL, CONTAINER], ids=["local", "container"])
def test_scripts_that_are_written_one_after_the_other_are_as_if_each_were_the_only_one(context):
    writer = ScriptWriter()
    values = [{"run_id": "a b-000", "run_dir": "/runs/it's", "train": ("seed=1", "note='$(id)'")}]
    values += [{"run_id": "s-001", "run_dir": "/runs/s-001", "train": ("seed=2",)}, {"train": ()}]
    values += [{"run_id": "s-002", "environment": {"NOTE": "s-001"}}, {"run_id": "s-003", "environment": {}}]
    for changes in values:
        changed = replace(context, **changes)
        assert writer.write(changed) == render_script(changed)


def test_a_plain_machine_gets_no_block_of_a_container():
    text = render_script(LOCAL)
    for word in ("apt-get", "pip install", "CUDA_VISIBLE_DEVICES", "pkill"):
        assert word not in text


def test_a_container_installs_apt_packages_first_then_python_packages_in_order(tmp_path):
    sandbox = Sandbox.make(tmp_path / "box")
    sandbox.run(CONTAINER)
    calls = sandbox.calls
    assert calls[:2] == [
        ["apt-get", "update"],
        ["apt-get", "install", "-y", "--no-install-recommends", "--", "rsync", "git"],
    ]
    held, wheels, prefix = calls[2][7:9], calls[2][9:12], calls[2][12:14]
    assert [call[:7] for call in calls[2:4]] == [PIP, PIP]
    assert (held[0], wheels, prefix[0]) == ("--constraint", ["--no-index", "--find-links", "/wheels here"], "--prefix")
    assert [call[14:] for call in calls[2:4]] == [["--no-deps", "--", "torchrl==0.14.1"], ["--", "wandb", "hydra-core"]]
    assert calls[4][1] == "-"  # verify
    assert calls[5] == ["python", "-m", "trainer"]
    assert sandbox.environment["PYTHONPATH"].startswith(f"{sandbox.folder}:{prefix[1]}/site")


def test_a_second_start_installs_nothing(tmp_path):
    sandbox = Sandbox.make(tmp_path / "box")
    sandbox.run(CONTAINER, "--build-only")
    sandbox.forget_calls()
    output = sandbox.run(CONTAINER)
    assert "packages: installed already" in output
    assert not [call for call in sandbox.calls if "install" in call]


def test_an_install_that_was_cut_short_goes_on_where_it_stopped(tmp_path):
    sandbox = Sandbox.make(tmp_path / "box")
    sandbox.run(CONTAINER, "--build-only")
    [complete] = (sandbox.folder / "state").rglob(".complete")
    complete.unlink()
    (complete.parent / ".pip").unlink()
    sandbox.forget_calls()
    assert "torchrl: installed already" in sandbox.run(CONTAINER, "--build-only")
    [call] = [call for call in sandbox.calls if "install" in call]
    assert call[-2:] == ["wandb", "hydra-core"]


def test_another_version_of_a_package_gets_a_folder_of_its_own(tmp_path):
    sandbox = Sandbox.make(tmp_path / "box")
    sandbox.run(CONTAINER, "--build-only")
    sandbox.forget_calls()
    other = replace(CONTAINER.container, installs=(Install("torchrl", ("torchrl==0.14.0",), ("--no-deps",)),))
    sandbox.run(replace(CONTAINER, container=other), "--build-only")
    [call] = [call for call in sandbox.calls if "install" in call]
    assert call[-1] == "torchrl==0.14.0"
    assert len(list((sandbox.folder / "state").rglob(".complete"))) == 2


def test_what_may_change_under_its_name_is_installed_from_a_copy_by_each_start(tmp_path):
    sandbox = Sandbox.make(tmp_path / "box")
    tasks = tmp_path / "my tasks"
    tasks.mkdir()
    code = (*CONTAINER.container.installs, Install("code-0", (), ("--no-deps",), folder=str(tasks), kept=False))
    context = replace(CONTAINER, container=replace(CONTAINER.container, installs=code))
    for _ in range(2):
        output = sandbox.run(context, "--build-only")
    [first, second] = [call for call in sandbox.calls if "install" in call and call[-1].endswith("/code-0")]
    assert first[9:-1] == second[9:-1] != [], output
    assert str(tasks) not in first
    assert first[first.index("--prefix") + 1] == f"{sandbox.folder}/run/packages/own"
    assert sandbox.environment["PYTHONPATH"].startswith(f"{sandbox.folder}:{sandbox.folder}/run/packages/own/site:")


@pytest.mark.parametrize(("sent", "arrives"), [("KEY=a b\nc\0OTHER=x\0\0", True), ("KEY=a b\nc\0", False), ("", False)])
def test_secrets_come_through_standard_input_whole_or_the_run_does_not_start(tmp_path, sent, arrives):
    sandbox = Sandbox.make(tmp_path / "box")
    context = replace(LOCAL, container=ContainerSetup(), secrets=True)
    output = sandbox.run(context, "--build-only", stdin=sent, LONGSHORE_SECRETS="stdin")
    failure = sandbox.folder / "run" / "failure.json"
    assert failure.exists() is not arrives
    if arrives:
        assert sandbox.environment["KEY"] == "a b\nc"
        assert "LONGSHORE_SECRETS" not in sandbox.environment
        assert "a b" not in output
    else:
        assert "did not arrive" in failure.read_text()


def test_secrets_that_nobody_sends_are_waited_for_a_minute(tmp_path):
    sandbox = Sandbox.make(tmp_path / "box")
    (tmp_path / "hasty").write_text('read() { builtin read "${@/#60/0.5}"; }\n')  # what the script calls, for a test
    silent, open_end = os.pipe()
    try:
        context = replace(LOCAL, container=ContainerSetup(), secrets=True)
        hasty = {"LONGSHORE_SECRETS": "stdin", "BASH_ENV": str(tmp_path / "hasty")}
        sandbox.run(context, "--build-only", stdin=silent, **hasty)
    finally:
        os.close(silent)
        os.close(open_end)
    assert "did not arrive" in (sandbox.folder / "run" / "failure.json").read_text()


def test_an_install_that_failed_is_tried_again(tmp_path):
    sandbox = Sandbox.make(tmp_path / "box")
    apt = sandbox.folder / "bin" / "apt-get"
    good = apt.read_text()
    apt.write_text("#!/bin/sh\nexit 100\n")
    output = sandbox.run(CONTAINER)
    assert "exit status 100 of: apt-get update" in output
    assert (sandbox.folder / "run" / "attempts" / "1" / "exit_code").read_text() == "1\n"
    apt.write_text(good)
    sandbox.run(CONTAINER)
    assert ["apt-get", "update"] in sandbox.calls


@pytest.mark.parametrize(("inherited", "seen"), [(None, "0,1"), ("2,3", "2,3"), ("", "")])
def test_gpus_that_the_scheduler_chose_are_respected(tmp_path, monkeypatch, inherited, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if inherited is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    sandbox = Sandbox.make(tmp_path / "box")
    sandbox.run(CONTAINER, "--build-only")
    assert sandbox.environment["CUDA_VISIBLE_DEVICES"] == seen


@settings(max_examples=50)
@given(environment=st.dictionaries(names, texts, max_size=4), train=st.lists(texts), words=st.lists(texts), text=texts)
@example(environment={}, train=HOSTILE, words=HOSTILE, text="$(touch CANARY)")
def test_any_values_make_valid_bash(environment, train, words, text):
    container = ContainerSetup(
        installs=(Install(text, tuple(words), tuple(words)),), apt=tuple(words), wheelhouse=text, visible_devices=text
    )
    context = ScriptContext(text, text, text, tuple(words), environment, tuple(train), tuple(words), tuple(words))
    check_syntax(render_script(context))
    check_syntax(render_script(replace(context, container=container)))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(environment=st.dictionaries(names, texts, max_size=4), train=st.lists(texts, max_size=3), text=texts)
@example(environment={f"V_{i}": text for i, text in enumerate(HOSTILE)}, train=HOSTILE, text="$(touch CANARY)")
def test_values_reach_their_programs_as_they_are_and_none_is_executed(tmp_path, environment, train, text):
    sandbox = Sandbox.make(tmp_path / "box")
    container = ContainerSetup(installs=(Install("pip", (text,)),), apt=(text,), wheelhouse=text)
    context = replace(LOCAL, environment=environment, train=tuple(train), run_id=text or "run", container=container)
    output = sandbox.run(context, f"note={text}")
    assert sandbox.canaries() == [], output
    assert {name: sandbox.environment[name] for name in environment} == environment
    assert sandbox.environment["LONGSHORE_RUN_ID"] == (text or "run")
    assert sandbox.calls[-1] == ["python", "-m", "trainer", *train, f"note={text}"]
    pip = [call for call in sandbox.calls if "pip" in call]
    assert [call[-1] for call in pip] == [text]
    assert pip[0][pip[0].index("--find-links") + 1] == text


def test_the_property_above_would_see_an_unquoted_value(tmp_path):
    """The same canary, in a script whose values are not quoted."""
    sandbox = Sandbox.make(tmp_path / "box")
    script = render_script(replace(LOCAL, train=("$(touch CANARY)",))).replace("'$(touch CANARY)'", "$(touch CANARY)")
    script = script.replace("PYTHON=(python3)", f"PYTHON=({sys.executable})").replace("/runs/", f"{sandbox.folder}/")
    script = script.replace("torch tensordict torchrl", "json").replace("verify_modules=(trainer)", "verify_modules=()")
    subprocess.run(["bash", "-c", script], capture_output=True, timeout=60, check=False)
    assert sandbox.canaries()
