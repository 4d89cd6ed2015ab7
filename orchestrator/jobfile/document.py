"""Changes to a job file's tree before it is validated: nested settings made dotted, and what the command line says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import Problem, SpecError
from orchestrator.jobfile.nodes import (
    Entry,
    MappingNode,
    Mark,
    Node,
    ScalarNode,
    SequenceNode,
    join_key,
    printable,
    shown,
)
from orchestrator.jobfile.yaml12 import parse, read_text, start_of

COMMAND_LINE = "<command line>"  # stands for the file in problems; line 1, columns count within the argument

_SWEEP_WORDS = ("zip", "list", "exclude", "max_parallel", "stop")
# Keys whose numbers are read as the text that they were written as: 0.10 is a version, 90 a duration, 1234567 a commit.
_AS_WRITTEN = frozenset(
    {
        ("name",),
        ("environment", "*"),
        ("resources", "memory"),
        ("resources", "time"),
        ("setup", "tensordict"),
        ("setup", "tensordict", "ref"),
        ("setup", "torchrl"),
        ("setup", "torchrl", "ref"),
        ("setup", "code", "*", "ref"),
        ("watchdog", "start"),
        ("watchdog", "stall"),
    }
)


@dataclass(frozen=True)
class Setting:
    """One trainer override of a job or of its sweep, with every value that it takes."""

    key: str
    mark: Mark  # of the key
    where: str  # dotted key of the job that it stands under
    values: tuple[Node, ...] = ()


@dataclass
class Document:
    """A job file's tree, and the problems met while it was read and changed."""

    root: MappingNode
    problems: list[Problem] = field(default_factory=list)

    def normalise(self) -> None:
        """Write the nested settings of `train` and `sweep` with dotted keys."""
        for name, keep in (("train", ()), ("sweep", _SWEEP_WORDS)):
            entry = self.root.entries.get(name)
            if entry is not None and isinstance(entry.node, MappingNode):
                self.root = _with(self.root, name, Entry(entry.mark, self._dotted(entry.node, name, keep)))

    def _dotted(self, node: MappingNode, where: str, keep: Sequence[str] = ()) -> MappingNode:
        entries: dict[str, Entry] = {}
        for key, entry in _leaves(node, keep):
            first = entries.get(key)
            if first is not None:
                place = f"line {first.mark.line}, column {first.mark.column}"
                what = f"stands twice, with dots and nested; the first is in {place}"
                self.problems.append(entry.mark.problem(join_key(where, key), what))
            else:
                entries[key] = entry
        return MappingNode(entries, node.mark)

    def set(self, word: str) -> None:
        """Carry out `--set KEY=VALUE`: change a key of the job, or add it."""
        assignment = self._assignment(word, "a job key, like resources.time=1:00:00")
        if assignment is None:
            return
        key, entry = assignment
        first, _, rest = key.partition(".")
        open_ended = first in ("train", "environment")
        axis = first == "sweep" and rest.partition(".")[0] not in _SWEEP_WORDS
        path = [first, rest] if rest and (open_ended or axis) else key.split(".")
        if first == "train" and isinstance(entry.node, MappingNode) and rest:
            for name, leaf in _leaves(entry.node):
                self.put(["train", f"{rest}.{name}"], leaf)
        else:
            self.put(path, entry)

    def override(self, word: str) -> None:
        """Carry out a bare `KEY=VALUE`: a trainer override."""
        assignment = self._assignment(word, "a trainer override, like env.name=Isaac-Ant-v0")
        if assignment is None:
            return
        key, entry = assignment
        leaves = [(key, entry)]
        if isinstance(entry.node, MappingNode):
            leaves = [(f"{key}.{name}", leaf) for name, leaf in _leaves(entry.node)]
        swept = {setting.key for setting in settings(self.root) if setting.where.startswith("sweep")}
        for name, leaf in leaves:
            if name in swept:
                what = f"the sweep varies this; write --set 'sweep.{name}=[VALUE]', or --set sweep=null for one run"
                self.problems.append(leaf.mark.problem(join_key("train", name), what))
            else:
                self.put(["train", name], leaf)

    def sweep_over(self, words: Sequence[str]) -> None:
        """Carry out `--tasks`: a sweep over `env.name`.

        Args:
            words: Task names, several with commas between, or `@FILE` with one a line.
        """
        tasks: list[Node] = []
        for word in words:
            column = 1
            for name in word.split(","):
                mark = Mark(COMMAND_LINE, 1, column)
                column += len(name) + 1
                if name.startswith("@"):
                    tasks += self._listed(Path(name[1:]))
                elif name.strip():
                    tasks.append(ScalarNode(name.strip(), name.strip(), mark))
        start = Mark(COMMAND_LINE, 1, 1)
        if words and not tasks:
            self.problems.append(
                start.problem("sweep.env.name", "--tasks names no task; write --tasks A,B or --tasks @FILE")
            )
        elif tasks:
            self.put(["sweep", "env.name"], Entry(start, SequenceNode(tuple(tasks), start)))

    def _listed(self, path: Path) -> Iterator[Node]:
        try:
            lines = read_text(path).splitlines()
        except SpecError as error:
            self.problems += error.problems
            return
        for number, line in enumerate(lines, start=1):
            name = line.strip()
            if name and not name.startswith("#"):
                column = len(line) - len(line.lstrip()) + 1
                yield ScalarNode(name, name, Mark(start_of(path).file, number, column))

    def put(self, path: Sequence[str], entry: Entry) -> None:
        """Set one key, making the mappings that lead there."""
        self.root = self._put(self.root, path, entry, "")

    def _put(self, node: MappingNode, path: Sequence[str], entry: Entry, where: str) -> MappingNode:
        name, *rest = path
        here = join_key(where, name)
        if not rest:
            return _with(node, name, entry)
        old = node.entries.get(name)
        inner = old.node if old is not None else MappingNode({}, entry.mark)
        if isinstance(inner, ScalarNode) and inner.value is None:
            inner = MappingNode({}, inner.mark)
        if not isinstance(inner, MappingNode):
            what = f"holds no keys, so '{printable('.'.join(rest))}' cannot be set in it; set it as a whole"
            self.problems.append(entry.mark.problem(here, what))
            return node
        return _with(node, name, Entry(old.mark if old else entry.mark, self._put(inner, rest, entry, here)))

    def _assignment(self, word: str, accepted: str) -> tuple[str, Entry] | None:
        key, equals, text = word.partition("=")
        if not equals or not key:
            what = f"{shown(word)} is no KEY=VALUE; write {accepted}"
            self.problems.append(Mark(COMMAND_LINE, 1, 1).problem("", what))
            return None
        mark = Mark(COMMAND_LINE, 1, len(key) + 2)
        node, problems = parse(text, mark)
        shown_key = printable(key)
        problems = [replace(found, key=f"{shown_key}.{found.key}" if found.key else shown_key) for found in problems]
        if node is None and not problems:
            problems = [mark.problem(shown_key, "has no value; write null for none, '\"\"' for an empty text")]
        self.problems += problems
        return None if node is None else (key, Entry(Mark(COMMAND_LINE, 1, 1), node))


def _with(node: MappingNode, key: str, entry: Entry) -> MappingNode:
    return MappingNode({**node.entries, key: entry}, node.mark)


def _leaves(node: MappingNode, keep: Sequence[str] = (), prefix: str = "") -> Iterator[tuple[str, Entry]]:
    for key, entry in node.entries.items():
        if isinstance(entry.node, MappingNode) and key not in keep:
            yield from _leaves(entry.node, (), f"{prefix}{key}.")
        else:
            yield prefix + key, entry


def settings(root: MappingNode) -> Iterator[Setting]:
    """Every trainer override of a normalised job file, those of its sweep included."""
    yield from _settings_of(root.get("train"), "train", lambda node: (node,))
    sweep = root.get("sweep")
    if not isinstance(sweep, MappingNode):
        return
    axes = MappingNode({key: entry for key, entry in sweep.entries.items() if key not in _SWEEP_WORDS}, sweep.mark)
    yield from _settings_of(axes, "sweep", _items)
    yield from _settings_of(sweep.get("zip"), "sweep.zip", _items)
    for word in ("list", "exclude"):
        rows = sweep.get(word)
        for number, row in enumerate(rows.items if isinstance(rows, SequenceNode) else ()):
            yield from _settings_of(row, f"sweep.{word}.{number}", lambda node: (node,))


def _settings_of(node: Node | None, where: str, values: Callable[[Node], tuple[Node, ...]]) -> Iterator[Setting]:
    if isinstance(node, MappingNode):
        for key, entry in node.entries.items():
            yield Setting(key, entry.mark, join_key(where, key), values(entry.node))


def _items(node: Node) -> tuple[Node, ...]:
    return node.items if isinstance(node, SequenceNode) else ()


def plain(node: Node, path: tuple[str, ...] = ()) -> Any:
    """The values of a job file's tree, as the models take them."""
    if isinstance(node, MappingNode):
        inner = "*" if path == ("environment",) else None
        return {key: plain(entry.node, (*path, inner or key)) for key, entry in node.entries.items()}
    if isinstance(node, SequenceNode):
        return [plain(item, (*path, "*")) for item in node.items]
    accepts_booleans = path == ("environment", "*")
    if path in _AS_WRITTEN and isinstance(node.value, int | float):
        return node.text if accepts_booleans or not isinstance(node.value, bool) else node.value
    return node.value
