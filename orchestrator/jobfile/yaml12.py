"""YAML as job files mean it: the core schema of YAML 1.2, with a place in the file for every value.

PyYAML scans and parses; which scalars are numbers, what may stand where, and what is refused is decided here. `on`,
`yes` and `24:00:00` are strings, `6e-4` is a number, `100_000` an integer. Nothing in a file can make an object, a
cycle or more than a fixed amount of work.

Source: YAML 1.2.2, chapter 10.3 (core schema); digits grouped by `_` are the one addition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from yaml.reader import Reader

from orchestrator.errors import Problem, SpecError
from orchestrator.jobfile.nodes import (
    Entry,
    MappingNode,
    Mark,
    Node,
    Plain,
    ScalarNode,
    SequenceNode,
    join_key,
    printable,
    shown,
)

LARGEST_FILE = 1 << 20  # bytes; a sweep that lists 1,000 runs one by one is a tenth of it
LARGEST_TREE = 100_000  # values, aliases written out
DEEPEST = 40  # levels of nesting, aliases written out; far from Python's recursion limit

_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})

_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS: Mapping[str, type] = {
    f"{_TAG}null": type(None),
    f"{_TAG}bool": bool,
    f"{_TAG}int": int,
    f"{_TAG}float": float,
}


class OutOfRangeError(ValueError):
    """A number that neither a 64-bit integer nor a float can hold."""


def resolve(text: str) -> Plain:
    """The value of a plain (unquoted) scalar under the core schema.

    Raises:
        OutOfRangeError: A number outside what 64 bits hold.
    """
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if text[0] not in "+-.0123456789":
        return text
    for pattern, base in ((_INT, 10), (_OCTAL, 8), (_HEX, 16)):
        if pattern.fullmatch(text):
            return _integer(text, base)
    if _FLOAT.fullmatch(text):
        return _finite(text)
    infinite = _INFINITE.fullmatch(text)
    if infinite:
        return -math.inf if infinite[1] == "-" else math.inf
    return math.nan if text in _NAN else text


def _integer(text: str, base: int) -> int:
    if len(text) > 70:
        raise OutOfRangeError(f"{shown(text)} is too large; integers have at most 64 bits")
    value = int(text.replace("_", "") if base == 10 else text[2:], base)
    if not -(1 << 63) <= value < 1 << 63:
        raise OutOfRangeError(f"{shown(text)} is too large; integers have at most 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise OutOfRangeError(f"{shown(text)} is too large; floats end at 1.8e308, infinity is written .inf")
    return value


def start_of(path: Path) -> Mark:
    """The first place of a file."""
    return Mark(printable(str(path), 4096), 1, 1)


def read_text(path: Path) -> str:
    """The text of a YAML file.

    Raises:
        SpecError: It is missing, unreadable, too large, or no UTF-8 text.
    """
    start = start_of(path)
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise SpecError([start.problem("", "there is no such file")]) from None
    except IsADirectoryError:
        raise SpecError([start.problem("", "is a folder; name a YAML file in it")]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise SpecError([start.problem("", f"cannot be read: {printable(reason)}")]) from None
    if len(raw) > LARGEST_FILE:
        raise SpecError([start.problem("", f"is larger than {LARGEST_FILE >> 20} MiB; is this a job file?")])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = _mark_at(raw[: error.start].decode("utf-8", "replace"), start)
        raise SpecError([mark.problem("", f"byte 0x{raw[error.start]:02x} is no UTF-8; write plain text")]) from None
    return text


def parse_file(path: Path, *, own: bool = False) -> tuple[Node | None, list[Problem]]:
    """Parse the only document of a file; see `parse`.

    Raises:
        SpecError: The file cannot be read as text.
    """
    return parse(read_text(path), start_of(path), own=own)


def parse(text: str, start: Mark, *, own: bool = False) -> tuple[Node | None, list[Problem]]:
    """Parse one YAML document.

    Args:
        text: The document.
        start: Place of its first character.
        own: It is the project's own, and right: libyaml reads it, which is ten times as fast and explains less.

    Returns:
        The tree, and every problem found. The tree is None where the text cannot be read on, or is empty.
    """
    forbidden = Reader.NON_PRINTABLE.search(text)
    if forbidden:
        mark = _mark_at(text[: forbidden.start()], start)
        what = f"character {forbidden[0]!a} may not stand in YAML; is this a text file?"
        return None, [mark.problem("", what)]
    builder = _Builder(start)
    loader: Any = (_OwnLoader if own else yaml.SafeLoader)(text)
    try:
        # Events rather than PyYAML's composer: that one recurses, and has its own idea of tags, merges and duplicates.
        while loader.check_event():
            builder.take(loader.get_event())
    except _GivenUpError as error:
        builder.problems.append(error.problem)
        return None, builder.problems
    except yaml.MarkedYAMLError as error:
        place = error.problem_mark or error.context_mark
        mark = builder.mark(place) if place else start
        what = printable(" ".join(filter(None, [error.context, error.problem])), 200)
        return None, [*builder.problems, mark.problem("", f"is no YAML: {what}")]
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML turns "\UFFFFFFFF" and the like into a character without looking.
        mark = builder.mark(loader.get_mark())
        return None, [*builder.problems, mark.problem("", f"is no YAML: {printable(str(error))}")]
    finally:
        loader.dispose()
    return builder.root, builder.problems


def _mark_at(before: str, start: Mark) -> Mark:
    """Place of the character that follows `before`, a text that begins at `start`."""
    lines = before.split("\n")
    column = len(lines[-1]) + (start.column if len(lines) == 1 else 1)
    return Mark(start.file, start.line + len(lines) - 1, column)


class _GivenUpError(Exception):
    """Reading on would be guessing."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass
class _Open:
    """A collection whose end has not been read yet."""

    mark: Mark
    key: str  # dotted key of the collection itself
    anchor: str | None
    is_mapping: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    pending: tuple[str, Mark] | None = None  # key whose value comes next
    size: int = 1  # values in it, aliases written out
    height: int = 1  # levels in it, aliases written out


@dataclass(frozen=True)
class _Anchored:
    node: Node | None  # None while the collection is still open
    size: int = 1
    height: int = 0


class _Builder:
    """Makes a tree of the parser's events, without recursion."""

    def __init__(self, start: Mark) -> None:
        self.start = start
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._open: list[_Open] = []
        self._anchors: dict[str, _Anchored] = {}
        self._documents = 0
        self._size = 0

    def mark(self, mark: Any) -> Mark:
        """Where one of PyYAML's marks (they count from 0) is in the file."""
        column = mark.column + (self.start.column if mark.line == 0 else 1)
        return Mark(self.start.file, self.start.line + mark.line, column)

    def take(self, event: yaml.Event) -> None:
        """Add one event of the parser."""
        mark = self.mark(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _GivenUpError(mark.problem("", "a second document starts here; a file holds one"))
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, mark)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor), mark)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._start(event, mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()

    def _here(self) -> str:
        """Dotted key of the value that comes next."""
        if not self._open:
            return ""
        top = self._open[-1]
        if not top.is_mapping:
            return join_key(top.key, len(top.items))
        return join_key(top.key, top.pending[0]) if top.pending else top.key

    def _scalar(self, event: yaml.ScalarEvent, mark: Mark) -> None:
        text = event.value
        if event.style is None and text == "<<" and self._expects_key():
            self.problems.append(mark.problem(self._here(), "YAML 1.2 has no merge keys; write the keys out"))
        value: Plain = text
        try:
            value = self._value(event, mark)
        except OutOfRangeError as error:
            self.problems.append(mark.problem(self._here(), str(error)))
        if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
            self.problems.append(mark.problem(self._here(), "holds a character that no text file can hold"))
        node = ScalarNode(value, text, mark)
        self._anchor(event.anchor, _Anchored(node))
        self._add(node, 1, 0)

    def _value(self, event: yaml.ScalarEvent, mark: Mark) -> Plain:
        text: str = event.value
        tag = event.tag
        if tag is None:
            return resolve(text) if event.implicit[0] else text
        if tag in ("!", f"{_TAG}str"):
            return text
        if tag not in _SCALAR_TAGS:
            self._refuse_tag(tag, mark)
            return text
        value = resolve(text)
        wanted = _SCALAR_TAGS[tag]
        if wanted is float and type(value) is int:
            return float(value)
        if type(value) is not wanted:
            what = f"{shown(text)} is no {wanted.__name__}, as the tag before it says"
            self.problems.append(mark.problem(self._here(), what))
        return value

    def _refuse_tag(self, tag: str, mark: Mark) -> None:
        what = f"tag {shown(tag)} is not accepted; only !!str, !!int, !!float, !!bool, !!null, !!seq and !!map are"
        self.problems.append(mark.problem(self._here(), what))

    def _expects_key(self) -> bool:
        return bool(self._open) and self._open[-1].is_mapping and self._open[-1].pending is None

    def _alias(self, name: str, mark: Mark) -> None:
        target = self._anchors.get(name)
        if target is None:
            raise _GivenUpError(mark.problem(self._here(), f"there is no anchor '&{printable(name)}' before this"))
        if target.node is None:
            raise _GivenUpError(mark.problem(self._here(), f"anchor '&{printable(name)}' contains itself"))
        self._add(target.node, target.size, target.height, mark)

    def _anchor(self, name: str | None, target: _Anchored) -> None:
        if name is not None:
            self._anchors[name] = target

    def _start(self, event: yaml.CollectionStartEvent, mark: Mark) -> None:
        if self._expects_key():
            raise _GivenUpError(mark.problem(self._here(), "a key is a plain word, no list and no mapping"))
        if len(self._open) >= DEEPEST:
            raise _GivenUpError(mark.problem(self._here(), f"is nested deeper than {DEEPEST} levels"))
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", f"{_TAG}map" if is_mapping else f"{_TAG}seq"):
            self._refuse_tag(event.tag, mark)
        self._anchor(event.anchor, _Anchored(None))
        self._open.append(_Open(mark, self._here(), event.anchor, is_mapping))

    def _end(self) -> None:
        done = self._open.pop()
        mapping = MappingNode(done.entries, done.mark)
        node = mapping if done.is_mapping else SequenceNode(tuple(done.items), done.mark)
        self._anchor(done.anchor, _Anchored(node, done.size, done.height))
        self._add(node, done.size, done.height)

    def _add(self, node: Node, size: int, height: int, mark: Mark | None = None) -> None:
        """Put a finished value where it belongs; `mark` is where an alias of it stands."""
        place = mark or node.mark
        if mark is not None or isinstance(node, ScalarNode):
            self._size += size
        if self._size > LARGEST_TREE:
            what = f"the file holds more than {LARGEST_TREE:,} values, aliases written out"
            raise _GivenUpError(place.problem(self._here(), what))
        if len(self._open) + height > DEEPEST:
            raise _GivenUpError(place.problem(self._here(), f"is nested deeper than {DEEPEST} levels"))
        if not self._open:
            self.root = node
            return
        top = self._open[-1]
        top.size += size
        top.height = max(top.height, height + 1)
        if not top.is_mapping:
            top.items.append(node)
        elif top.pending is None:
            self._key(top, node, place)
        else:
            key, key_mark = top.pending
            top.pending = None
            top.entries.setdefault(key, Entry(key_mark, node))

    def _key(self, top: _Open, node: Node, mark: Mark) -> None:
        if not isinstance(node, ScalarNode):
            raise _GivenUpError(mark.problem(top.key, "a key is a plain word, no list and no mapping"))
        first = top.entries.get(node.text)
        if first is not None:
            what = f"stands twice; the first is in line {first.mark.line}, column {first.mark.column}"
            self.problems.append(mark.problem(join_key(top.key, node.text), what))
        top.pending = (node.text, mark)


if TYPE_CHECKING or not yaml.__with_libyaml__:
    from yaml import SafeDumper
    from yaml import SafeLoader as _OwnLoader
else:
    from yaml import CSafeDumper as SafeDumper  # a sweep writes hundreds of jobs; libyaml takes a third of the time
    from yaml import CSafeLoader as _OwnLoader


class _Dumper(SafeDumper):
    """Writes strings plainly exactly where `resolve` reads them back as strings."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is not yaml.ScalarNode or not implicit[0]:
            return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]
        if value == "<<":
            return f"{_TAG}merge"
        try:
            plain = resolve(value)
        except OutOfRangeError:
            return f"{_TAG}int"
        return next((tag for tag, kind in _SCALAR_TAGS.items() if type(plain) is kind), f"{_TAG}str")

    def represent_str(self, text: str) -> yaml.ScalarNode:
        # PyYAML writes characters like U+0085 as they are where YAML reads them as the end of a line.
        return self.represent_scalar(f"{_TAG}str", text, style=None if text.isprintable() else '"')

    def ignore_aliases(self, data: Any) -> bool:
        return True


class _Root(dict[str, Any]):
    """The mapping that a document is."""


_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_representer(
    _Root, lambda dumper, root: dumper.represent_mapping(f"{_TAG}map", root.items(), flow_style=False)
)


def dump(data: Mapping[str, Any] | Sequence[Any]) -> str:
    """Block YAML that `parse` reads back as the same values; collections of scalars below the top stand on one line.

    The texts of two mappings, one behind the other, are that of both together.
    """
    root = _Root(data) if isinstance(data, Mapping) else data
    return str(yaml.dump(root, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))
