"""Whatever stands in a job file or on the command line: a SpecError with places, never another exception."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.jobfile.yaml12 import dump
from orchestrator.spec import load_job

LINE = re.compile(r".+:[1-9]\d*:[1-9]\d*: .+")
TINY = "name: tiny\nbackend: local\n"


def problems_of(path, **changes):
    with pytest.raises(SpecError) as caught:
        load_job(path, **changes)
    return str(caught.value).replace(str(path), "FILE").splitlines()


@pytest.fixture
def refused(tmp_path):
    def read(content, **changes):
        path = tmp_path / "job.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return problems_of(path, **changes)

    return read


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name: [1\n", "FILE:2:1: is no YAML: "),
        (TINY + "resources: {gpus: two}", "FILE:3:19: resources.gpus: 'two' is no integer; write a whole number"),
        (TINY + "resources: {gpus: true}", "FILE:3:19: resources.gpus: true is no integer; write a whole number"),
        (TINY + "resources: {gpus: -1}", "FILE:3:19: resources.gpus: -1 is too small; write 0 or more"),
        (TINY + "resources: []", "FILE:3:12: resources: a list is no mapping; write KEY: VALUE pairs"),
        (TINY + "resorces: {}", "FILE:3:1: resorces: unknown key; did you mean 'resources'?"),
        (TINY + "stop: 3", "FILE:3:1: stop: unknown key; "),
        (
            TINY + "train: {env.name: Isaac-Antt-v0}",
            "FILE:3:19: train.env.name: isaaclab 2.3.0 has no task 'Isaac-Antt-v0'; ",
        ),
        (TINY + "image: ubuntu", "FILE:3:8: image: 'ubuntu' has no tag; write one, or a digest, like "),
        (TINY + "image: Ubuntu:22", "FILE:3:8: image: 'Ubuntu:22' is no image; write REGISTRY/NAME:TAG, like "),
        (
            TINY + 'resources: {time: "25h:00"}',
            "FILE:3:19: resources.time: '25h:00' is no duration; write HH:MM:SS, D-HH:MM:SS or minutes, as Slurm does",
        ),
        ("name: $(reboot)\nbackend: local", "FILE:1:7: name: '$(reboot)' is no name; write up to 64 letters"),
        ('name: "a\\nb"\nbackend: local', "FILE:1:7: name: 'a\\nb' is no name; write up to 64 letters"),
        ("name: " + "a" * 65 + "\nbackend: local", "FILE:1:7: name: 'aaa"),
        ("name: a\nname: b\nbackend: local", "FILE:2:1: name: stands twice; the first is in line 1, column 1"),
        (
            "name: !!python/name:os.system x\nbackend: local",
            "FILE:1:7: name: tag 'tag:yaml.org,2002:python/name:os.system' is",
        ),
        ("name: a\nbackend: local\ntrain: &x {a: *x}", "FILE:3:15: train.a: anchor '&x' contains itself"),
        ("\x7fELF\x02\x01", "FILE:1:1: character '\\x7f' may not stand in YAML; is this a text file?"),
        (b"\xff\xfe\x00", "FILE:1:1: byte 0xff is no UTF-8; write plain text"),
        ("", "FILE:1:1: is empty; a job file holds at least name and backend"),
        ("# nothing\n", "FILE:1:1: is empty; "),
        ("- a\n- b\n", "FILE:1:1: is no job file; write KEY: VALUE pairs"),
        ("backend: local", "FILE:1:1: name: is missing; write name: VALUE"),
        (TINY + "environment: {A-B: 1}", "FILE:3:15: environment.A-B: 'A-B' is no variable name; "),
        (
            TINY + "environment: {LONGSHORE_RUN_ID: x}",
            "FILE:3:15: environment.LONGSHORE_RUN_ID: LONGSHORE_RUN_ID is set by",
        ),
        (TINY + "environment: {A: }", "FILE:3:17: environment.A: null is no text; "),
        (TINY + "environment: {A: x}\nsecrets: [A]", "FILE:4:11: secrets.0: A stands in environment too; "),
        (TINY + "secrets: [A, A]", "FILE:3:14: secrets.1: A stands twice"),
        (
            TINY + "mounts: [{source: x, target: /x}]",
            "FILE:3:19: mounts.0.source: 'x' cannot be mounted; write an absolute path",
        ),
        (TINY + "mounts: [{source: /x, target: '/x:ro'}]", "FILE:3:31: mounts.0.target: '/x:ro' cannot be mounted; "),
        (TINY + "mounts: [{source: /x}]", "FILE:3:10: mounts.0.target: is missing; "),
        (
            TINY + "setup: {torchrl: {git: https://u:p@h/x, ref: y}}",
            "FILE:3:24: setup.torchrl.git: holds a user name or a password",
        ),
        (TINY + "setup: {torchrl: {git: -x, ref: y}}", "FILE:3:24: setup.torchrl.git: '-x' is no git URL"),
        (TINY + "setup: {torchrl: {git: https://h/x, ref: --y}}", "FILE:3:42: setup.torchrl.ref: '--y' is no git ref"),
        (TINY + "setup: {torchrl: {git: https://h/x}}", "FILE:3:18: setup.torchrl.ref: is missing; "),
        (
            TINY + "setup: {code: [3]}",
            "FILE:3:16: setup.code.0: 3 is no package; write a folder, or {git: URL, ref: REF}",
        ),
        (TINY + "setup: {pip: [--index-url=x]}", "FILE:3:15: setup.pip.0: '--index-url=x' is no requirement; "),
        (TINY + "setup: {apt: ['a;b']}", "FILE:3:15: setup.apt.0: 'a;b' is no Debian package; "),
        (TINY + "resources: {extra: {--wrap: x}}", "FILE:3:21: resources.extra.--wrap: '--wrap' is no flag; "),
        (TINY + "resources: {extra: {time: 3}}", "FILE:3:21: resources.extra.time: 'time' has a key of its own; "),
        (TINY + "resources: {partition: -x}", "FILE:3:24: resources.partition: '-x' is no partition; "),
        (TINY + "resources: {memory: 128GB}", "FILE:3:21: resources.memory: '128GB' is no amount of memory; "),
        (TINY + "retry: {on: [stall]}", "FILE:3:14: retry.on.0: 'stall' is not accepted; write 'setup', "),
        (TINY + "watchdog: {stall: soon}", "FILE:3:19: watchdog.stall: 'soon' is no duration; "),
        (TINY + "train: {seed: .nan}", "FILE:3:15: train.seed: nan is "),
        (
            TINY + "train: {logger.wandb.group: [{a: 1}]}",
            "FILE:3:29: train.logger.wandb.group: a mapping is no value; ",
        ),
    ],
)
def test_bad_input_is_one_line_with_place_key_and_what_is_accepted(refused, text, problem):
    (found,) = refused(text)
    assert found.startswith(problem)


def test_all_problems_of_a_file_come_at_once_in_its_order(refused):
    found = refused("nam: a\nbackend: locl\nresources: {gpus: -1}\ntrain: {sed: 1}\n")
    assert [line.split(": ")[0] for line in found] == ["FILE:1:1", "FILE:1:1", "FILE:2:10", "FILE:3:19", "FILE:4:9"]


def test_missing_files_and_folders_are_problems(tmp_path):
    assert problems_of(tmp_path / "none.yaml") == ["FILE:1:1: there is no such file"]
    assert problems_of(tmp_path) == ["FILE:1:1: is a folder; name a YAML file in it"]


def test_a_thousand_mistakes_are_not_all_shown(refused):
    assert len(refused(TINY + "".join(f"k{number}: 1\n" for number in range(1000)))) == 100


def check_only_spec_errors(path, **changes):
    error = None
    try:
        load_job(path, **changes)
    except SpecError as caught:
        error = caught
    lines = str(error).splitlines() if error else []
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert len(lines) == (len(error.problems) if error else 0)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("bad") / "job.yaml"


FEW = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(content=st.binary(max_size=200))
def test_arbitrary_bytes(scratch, content):
    scratch.write_bytes(content)
    check_only_spec_errors(scratch)


@FEW
@given(content=st.text(max_size=80) | st.text(alphabet="name:backdl \n[]{},&*!|>'\"-?#%@`~<", max_size=60))
def test_arbitrary_text(scratch, content):
    scratch.write_text(content, encoding="utf-8", errors="surrogatepass")
    check_only_spec_errors(scratch)


JOB_KEYS = """
name backend profile image resources setup environment secrets mounts train retry watchdog sweep gpus cpus memory time
extra tensordict code git ref path pip max on start list zip exclude env.name env.backend seed agent
"""
KEYS = st.sampled_from(JOB_KEYS.split()) | st.text(max_size=5)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**62),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(["local", "1:00"]),
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@FEW
@given(tree=st.dictionaries(KEYS, TREES, max_size=6))
def test_arbitrary_values_under_the_keys_of_a_job(scratch, tree):
    try:
        text = dump({"name": "tiny", "backend": "local"} | tree)
    except UnicodeError:
        return
    scratch.write_text(text, encoding="utf-8", errors="surrogatepass")
    check_only_spec_errors(scratch)


WORDS = st.lists(st.text(max_size=12) | st.builds("{}={}".format, KEYS, st.text(max_size=10)), max_size=3)


@FEW
@given(overrides=WORDS, sets=WORDS, tasks=WORDS, backend=st.none() | st.text(max_size=5))
def test_arbitrary_words_on_the_command_line(scratch, overrides, sets, tasks, backend):
    scratch.write_text(TINY + "sweep: {seed: [1]}\n", encoding="utf-8")
    check_only_spec_errors(scratch, overrides=overrides, sets=sets, tasks=tasks, backend=backend)
