"""A YAML document as a tree that knows where everything in it stands, and how error messages show its values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.errors import Problem

Plain: TypeAlias = bool | int | float | str | None


@dataclass(frozen=True)
class Mark:
    """A place in a file, or in one argument of a command line."""

    file: str
    line: int  # from 1
    column: int  # from 1

    def problem(self, key: str, message: str) -> Problem:
        """A problem at this place."""
        return Problem(self.file, self.line, self.column, key, message)


@dataclass(frozen=True)
class ScalarNode:
    """One value and the text that it was written as."""

    value: Plain
    text: str
    mark: Mark


@dataclass(frozen=True)
class SequenceNode:
    """Values in order."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True)
class Entry:
    """What stands under one key of a mapping; `mark` is the key's own place."""

    mark: Mark
    node: Node


@dataclass(frozen=True)
class MappingNode:
    """Values by key, in the order of the file. Keys are the text that they were written as."""

    entries: Mapping[str, Entry]
    mark: Mark

    def get(self, key: str) -> Node | None:
        """The value under `key`, or None where there is no such key."""
        entry = self.entries.get(key)
        return entry.node if entry else None


Node: TypeAlias = ScalarNode | SequenceNode | MappingNode


LONGEST_LINE = 1000  # characters of what sets a run apart: lists of layers may stand in it


def printable(text: str, limit: int = 80) -> str:
    """`text` on one line without control characters, cut to `limit` characters."""
    line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1] + "…"


def shown(value: object) -> str:
    """A value as an error message shows it: as YAML would spell it, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{printable(value)}'"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return printable(str(value))


def differences(differs: Mapping[str, object]) -> str:
    """What sets a run of a sweep apart, on one line: `env.name=Isaac-Ant-v0 seed=1`."""
    return printable(" ".join(f"{key}={value}" for key, value in differs.items()), LONGEST_LINE)


def join_key(parent: str, key: str | int) -> str:
    """Dotted key of an entry, fit for one line of an error message."""
    part = str(key) if isinstance(key, int) else printable(key, 60)
    return f"{parent}.{part}" if parent else part
