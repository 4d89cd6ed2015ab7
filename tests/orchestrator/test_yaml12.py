"""YAML 1.2 core rules, and the ways in which a file is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.jobfile.document import plain
from orchestrator.jobfile.nodes import MappingNode, Mark
from orchestrator.jobfile.yaml12 import DEEPEST, LARGEST_FILE, dump, parse, parse_file

START = Mark("job.yaml", 1, 1)


def value_of(text):
    node, problems = parse(f"key: {text}", START)
    assert not problems
    assert isinstance(node, MappingNode)
    return plain(node)["key"]


def problems_of(text):
    return [str(problem) for problem in parse(text, START)[1]]


@pytest.mark.parametrize(
    "text", ["on", "yes", "no", "off", "y", "24:00:00", "1:30", "2026-11-22", "0b11", "1_0.5", "=", "0.14.3"]
)
def test_what_yaml_1_1_would_change_stays_a_string(text):
    assert value_of(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6e-4", 6e-4),
        ("1e3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-1.5E+2", -150.0),
        ("100_000", 100_000),
        ("-7", -7),
        ("+3", 3),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("!!float 1", 1.0),
        ("[1, a]", [1, "a"]),
        ("{on: off}", {"on": "off"}),
    ],
)
def test_scalars_follow_the_core_schema(text, value):
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))


def test_nodes_know_their_line_and_column():
    node, _ = parse("a:\n  - b: {c: 1}\n", START)
    inner = node.get("a").items[0].entries["b"]
    assert (inner.mark.line, inner.mark.column) == (2, 5)
    assert inner.node.entries["c"].node.mark == Mark("job.yaml", 2, 12)


def test_an_alias_stands_for_the_whole_value():
    node, problems = parse("a: &a {x: [1]}\nb: *a", START)
    assert not problems
    assert plain(node) == {"a": {"x": [1]}, "b": {"x": [1]}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", "job.yaml:3:1: a: stands twice; the first is in line 1, column 1"),
        ("x: {a: 1, a: 2}", "job.yaml:1:11: x.a: stands twice; the first is in line 1, column 5"),
        ("a: &x [1, *x]", "job.yaml:1:11: a.1: anchor '&x' contains itself"),
        ("a: *x", "job.yaml:1:4: a: there is no anchor '&x' before this"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "job.yaml:1:4: a: tag 'tag:yaml.org,2002:python/object/apply:os.system' is",
        ),
        ("a: !own 1", "job.yaml:1:4: a: tag '!own' is not accepted; only !!str"),
        ("a: !!binary aGk=", "job.yaml:1:4: a: tag 'tag:yaml.org,2002:binary' is not accepted"),
        ("a: !!int x", "job.yaml:1:4: a: 'x' is no int"),
        ("<<: {a: 1}", "job.yaml:1:1: YAML 1.2 has no merge keys"),
        ("a: b: c", "job.yaml:1:5: is no YAML: mapping values are not allowed here"),
        ("a: [1, 2", "job.yaml:1:9: is no YAML: "),
        ("a: 1\n---\nb: 2", "job.yaml:2:1: a second document starts here"),
        ("? [a]\n: b", "job.yaml:1:3: a key is a plain word"),
        ("a: 99999999999999999999", "job.yaml:1:4: a: '99999999999999999999' is too large"),
        ("a: " + "9" * 5000, "job.yaml:1:4: a: '999"),
        ("a: 1e999", "job.yaml:1:4: a: '1e999' is too large"),
        ("a\0b", "job.yaml:1:2: character '\\x00' may not stand in YAML"),
        ('a: "\\0"', "job.yaml:1:4: a: holds a character that no text file can hold"),
        ('a: "\\ud800"', "job.yaml:1:4: a: holds a character that no text file can hold"),
        ('a: "\\UFFFFFFFF"', "job.yaml:1:7: is no YAML: "),
    ],
)
def test_what_is_refused_says_where_and_why(text, problem):
    (found,) = problems_of(text)
    assert found.startswith(problem)


def test_problems_of_a_file_are_found_together():
    assert len(problems_of("a: 1\na: 2\nb: !x 1\nc: 1e999")) == 3


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "- " * 20_000, "{a: " * 20_000, "".join(f"{' ' * n}a:\n" for n in range(500))]
)
def test_deep_nesting_ends_in_a_problem_and_not_in_a_recursion_error(text):
    assert f"nested deeper than {DEEPEST} levels" in problems_of(text)[0]


def test_nesting_through_aliases_is_counted():
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 100))
    assert f"nested deeper than {DEEPEST} levels" in problems_of(chain)[0]


def test_a_bomb_of_aliases_is_defused():
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    bomb += "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
    assert "more than 100,000 values" in problems_of(bomb)[0]


def error_of(path):
    with pytest.raises(SpecError) as caught:
        parse_file(path)
    return str(caught.value).replace(str(path), "FILE")


def test_files_that_cannot_be_read_are_problems(tmp_path):
    assert error_of(tmp_path / "none.yaml") == "FILE:1:1: there is no such file"
    assert error_of(tmp_path).startswith("FILE:1:1: is a folder")
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (LARGEST_FILE + 1))
    assert error_of(big) == "FILE:1:1: is larger than 1 MiB; is this a job file?"
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("a: 1\nb: ü".encode("latin-1"))
    assert error_of(latin) == "FILE:2:4: byte 0xfc is no UTF-8; write plain text"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("a: 1", encoding="utf-8-sig")
    node, problems = parse_file(path)
    assert (plain(node), problems) == ({"a": 1}, [])


TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=6
)
LOOKS_LIKE_ANOTHER_TYPE = st.from_regex(
    r"[-+]?(0[xo])?[0-9_]{1,4}(\.[0-9]{0,2})?(e[-+]?[0-9])?|[~nNtTfFoOyY]\w{0,4}", fullmatch=True
)


@settings(max_examples=150)
@given(st.dictionaries(TEXT | LOOKS_LIKE_ANOTHER_TYPE, TREES | LOOKS_LIKE_ANOTHER_TYPE, max_size=4))
def test_what_is_dumped_reads_back_as_the_same_values(data):
    node, problems = parse(dump(data), START)
    assert not problems
    assert plain(node) == data


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text(alphabet="ab: -[]{}&*!?|>'\"%@`#\n\t,~<\\0x", max_size=40))
def test_any_text_is_a_tree_or_problems_with_a_place(text):
    node, problems = parse(text, START)
    if node is not None:
        plain(node)
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        assert "\n" not in str(problem)
