"""Which overrides the trainer's config knows, read from its plain YAML files without Hydra."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.jobfile.nodes import MappingNode, Node, ScalarNode, SequenceNode, shown
from orchestrator.jobfile.tasks import nearest
from orchestrator.jobfile.yaml12 import parse_file

CONF = Path(__file__).resolve().parents[2] / "trainer" / "conf"


@dataclass(frozen=True)
class TrainKeys:
    """Keys of the trainer's config.

    Attributes:
        values: Values that stand under each key in config.yaml or in a file of a group; more than one where files of a
            group differ.
        sections: Keys that hold further keys.
        free: Sections that are empty in the config: any key may be set below them.
        groups: Names of the files of each group.
    """

    values: Mapping[str, tuple[Node, ...]]
    sections: frozenset[str]
    free: frozenset[str]
    groups: Mapping[str, frozenset[str]]

    def default(self, key: str) -> object:
        """The plain value that `key` has in config.yaml, or None."""
        nodes = self.values.get(key, ())
        return nodes[0].value if nodes and isinstance(nodes[0], ScalarNode) else None

    def key_error(self, key: str) -> str | None:
        """What is wrong with the key of an override, and what is accepted; None where the trainer knows it."""
        name = key.lstrip("+")
        if name in self.values or name in self.groups:
            return None
        parts = name.split(".")
        if any(".".join(parts[:end]) in self.free for end in range(1, len(parts))):
            return None
        if name in self.sections:
            return f"is a group of settings; write {name}.KEY"
        near = self._nearest(name)
        return "the trainer has no such setting; " + (
            f"did you mean '{near}'?" if near else "trainer/conf lists those that it has"
        )

    def _nearest(self, name: str) -> str | None:
        """The known key that was meant: by its whole, else by its last word, as `lr` for `agent.optimizer.lr`."""
        known = [*self.values, *self.groups]
        by_word = {key.rpartition(".")[2]: key for key in reversed(known)}
        word = name.rpartition(".")[2]
        if word in by_word:
            return by_word[word]
        near = nearest(name, known)
        if near is None and (close := nearest(word, by_word)):
            near = by_word[close]
        return near

    def value_error(self, key: str, node: Node) -> str | None:
        """What is wrong with the value of an override, and what is accepted; None where the trainer takes it."""
        name = key.lstrip("+")
        if name in self.groups:
            return self._option_error(name, node)
        defaults = self.values.get(name, ())
        if not defaults or any(_same_kind(node, default) for default in defaults):
            return None
        value: object = node.value if isinstance(node, ScalarNode) else []
        return f"{shown(value)} is not accepted; write {_kind(defaults[0])}"

    def _option_error(self, group: str, node: Node) -> str | None:
        options = self.groups[group]
        value: object = node.value if isinstance(node, ScalarNode) else []
        if value is None or value in options:
            return None
        accepted = ", ".join(sorted(options))
        near = nearest(value, options) if isinstance(value, str) else None
        return f"{shown(value)} is not accepted; write {accepted}" + (f"; did you mean '{near}'?" if near else "")


def known_keys(conf: Path = CONF) -> TrainKeys | None:
    """Read config.yaml and its groups.

    Args:
        conf: The trainer's config folder.

    Returns:
        The keys, or None where there is no config to read.

    Raises:
        SpecError: A file of it cannot be read.
    """
    config = conf / "config.yaml"
    if not config.is_file():
        return None
    values: dict[str, list[Node]] = {}
    sections: set[str] = set()
    free: set[str] = set()
    groups: dict[str, frozenset[str]] = {}
    files = [(config, "")]
    for folder in sorted(path for path in conf.iterdir() if path.is_dir()):
        options = sorted(folder.glob("*.yaml"))
        groups[folder.name] = frozenset(option.stem for option in options)
        files += [(option, "" if _is_global(option) else f"{folder.name}.") for option in options]
    for file, prefix in files:
        root, _ = parse_file(file, own=True)
        for key, node in _walk(root, prefix):
            if not isinstance(node, MappingNode):
                values.setdefault(key, []).append(node)
            elif node.entries:
                sections.add(key)
            else:
                free.add(key)
    values.pop("defaults", None)
    return TrainKeys(
        {key: tuple(nodes) for key, nodes in values.items()}, frozenset(sections), frozenset(free - sections), groups
    )


def _is_global(file: Path) -> bool:
    """Whether a file of a group says that its keys stand at the top, as `experiment` files do."""
    return file.read_text(encoding="utf-8").lstrip().startswith("# @package _global_")


def _walk(node: Node | None, prefix: str) -> Iterator[tuple[str, Node]]:
    if not isinstance(node, MappingNode):
        return
    for name, entry in node.entries.items():
        yield prefix + name, entry.node
        yield from _walk(entry.node, f"{prefix}{name}.")


def _same_kind(node: Node, default: Node) -> bool:
    """Whether the trainer takes a value in place of a default: as `trainer.config` decides."""
    if not isinstance(default, ScalarNode):
        return isinstance(node, SequenceNode)
    kind = type(default.value)
    if default.value is None or "${" in default.text:
        return True
    if not isinstance(node, ScalarNode):
        return False
    value = node.value
    if kind is int:
        return type(value) is int or (isinstance(value, float) and value.is_integer())
    if kind is float:
        return type(value) in (int, float)
    if kind is str:
        return type(value) in (str, int, float)
    return type(value) is kind


def _kind(default: Node) -> str:
    if not isinstance(default, ScalarNode):
        return "a list"
    name = {bool: "true or false", int: "a whole number", float: "a number"}.get(type(default.value), "a string")
    return f"{name}, like {shown(default.value)}"
