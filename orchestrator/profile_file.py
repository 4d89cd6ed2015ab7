"""Profile files: sections of settings, some of them for one backend alone, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from orchestrator.errors import Problem, SpecError
from orchestrator.jobfile.document import plain
from orchestrator.jobfile.nodes import Entry, MappingNode, Node, ScalarNode, join_key, printable, shown
from orchestrator.jobfile.problems import to_problems, unknown_key
from orchestrator.jobfile.tasks import nearest
from orchestrator.jobfile.yaml12 import parse_file, start_of
from orchestrator.profile import Profile

BACKENDS = ("steve", "slurm", "docker", "local")


def read_profile(name: str, backend: str, paths: Sequence[Path], expected: Path) -> Profile:
    """The profile of a name, for one backend; see `load_profile`.

    Args:
        name: A section.
        backend: Whose subsection is laid over it.
        paths: Files that are there.
        expected: The file to name where none has the section.

    Raises:
        SpecError: A file is wrong, or none has the section.
    """
    sections: list[str] = []
    for path in paths:
        root = _read(path)
        entry = root.entries.get(name)
        if entry is not None:
            return _profile(name, backend, entry)
        sections += root.entries
    if name == "default":
        return Profile(name=name)
    near = nearest(name, sections)
    known = f"did you mean '{near}'?" if near else f"there are {', '.join(sorted({*sections, 'default'}))}"
    raise SpecError([start_of(expected).problem(printable(name), f"there is no such profile; {known}")])


def _read(path: Path) -> MappingNode:
    root, problems = parse_file(path)
    if root is None and not problems:
        return MappingNode({}, start_of(path))  # all commented out
    if root is not None and not isinstance(root, MappingNode):
        problems.append(root.mark.problem("", "is no profile file; write NAME: {SETTING: VALUE}"))
    if problems or not isinstance(root, MappingNode):
        raise SpecError(problems)
    return root


def _profile(name: str, backend: str, entry: Entry) -> Profile:
    section = _section(entry.node, name)
    settings = [key for key in Profile.model_fields if key != "name"]
    problems = list(_unknown(section, name, [*settings, *BACKENDS]))
    own = {key: value for key, value in section.entries.items() if key in settings}
    below = section.entries.get(backend)
    if below is not None:
        over = _section(below.node, join_key(name, backend))
        problems += _unknown(over, join_key(name, backend), settings)
        own |= {key: _over(own.get(key), value) for key, value in over.entries.items() if key in settings}
    tree = MappingNode(own, section.mark)
    try:
        profile = Profile.model_validate({"name": name, **plain(tree)})
    except ValidationError as error:
        problems += [replace(found, key=join_key(name, found.key)) for found in to_problems(error, Profile, tree)]
    if problems:
        raise SpecError(problems)
    return profile


def _unknown(section: MappingNode, where: str, accepted: Sequence[str]) -> Iterator[Problem]:
    for key, entry in section.entries.items():
        if key not in accepted:
            yield entry.mark.problem(join_key(where, key), unknown_key(key, accepted))


def _section(node: Node, key: str) -> MappingNode:
    if isinstance(node, ScalarNode) and node.value is None:
        return MappingNode({}, node.mark)
    if isinstance(node, MappingNode):
        return node
    value: object = node.value if isinstance(node, ScalarNode) else []
    raise SpecError([node.mark.problem(key, f"{shown(value)} is no mapping; write SETTING: VALUE pairs")])


def _over(old: Entry | None, new: Entry) -> Entry:
    """A backend's setting over the section's: variables and commands one by one, anything else as a whole."""
    if old is not None and isinstance(old.node, MappingNode) and isinstance(new.node, MappingNode):
        return Entry(new.mark, MappingNode({**old.node.entries, **new.node.entries}, new.node.mark))
    return new
