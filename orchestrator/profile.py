"""The settings of a site: what is the same for every job that runs there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, StrictBool, ValidationError

from orchestrator.errors import Problem, SpecError
from orchestrator.jobfile.document import plain
from orchestrator.jobfile.fields import Duration, Name, Partition, PathText, Target, Variable, VariableValue
from orchestrator.jobfile.job import Model, Mount
from orchestrator.jobfile.nodes import Entry, MappingNode, Node, ScalarNode, join_key, printable, shown
from orchestrator.jobfile.problems import to_problems, unknown_key
from orchestrator.jobfile.tasks import nearest
from orchestrator.jobfile.yaml12 import parse_file, start_of

BACKENDS = ("steve", "slurm", "docker", "local")


class Assumptions(Model):
    """What is taken for granted of steve, which documents three commands and no more; see docs/steve.md."""

    folder: PathText = Field("/root", description="Folder of the container that files are copied to")
    staging: PathText | None = Field(None, description="Folder of `host` for what is to be copied; needed with `host`")
    answer: Duration = Field("1m", description="How long a submission waits for `steve job` before it says so")
    ready: Duration = Field("30m", description="From a job's id to the first copy that succeeds; longer is lost")
    lost: Duration = Field("10m", description="No step answers for this long: the allocation is lost")
    pull: Duration = Field("10m", description="Between two pulls of checkpoints and metrics")
    overlap: StrictBool = Field(True, description="A step may run beside another one")


class Profile(Model):
    """One section of profiles.yaml, as it is for one backend."""

    name: Name
    python: PathText | None = Field(None, description="Interpreter of local runs; by default Longshore's own")
    environment: dict[Variable, VariableValue] = Field(
        default_factory=dict, description="Variables of every run; a job's own come on top"
    )
    mounts: tuple[Mount, ...] = Field((), description="Mounts of every run; a job's own come on top")
    cache: PathText | None = Field(None, description="Folder of the host for caches that outlive a run")
    partition: Partition | None = Field(None, description="Partition for jobs that name none")
    host: Target | None = Field(
        None, description="Where the cluster's commands are typed: [USER@]HOST[:PORT]; by default this machine"
    )
    jump: Target | None = Field(None, description="Host to go through on the way there; by default ~/.ssh/config's")
    key: PathText | None = Field(None, description="Private key to log in with, besides those of ~/.ssh/config")
    shared: PathText | None = Field(
        None, description="Folder that the host and every node see; runs are done there. By default $LONGSHORE_HOME"
    )
    container_runtime: Literal["docker", "podman", "pyxis", "apptainer", "none"] | None = Field(
        None, description="What starts containers: docker or podman, on Slurm pyxis (the default), apptainer or none"
    )
    engine: PathText | None = Field(
        None, description="Address of the container engine: unix:///PATH, ssh://USER@HOST; by default DOCKER_HOST's"
    )
    commands: dict[Name, tuple[PathText, ...]] = Field(
        default_factory=dict, description="What to type instead of a cluster's command, word by word"
    )
    assume: Assumptions = Field(default_factory=Assumptions, description="What is taken for granted of steve")


def load_profile(name: str, backend: str, paths: Sequence[Path]) -> Profile:
    """The profile of a name, for one backend.

    Args:
        name: A section of a profile file.
        backend: Whose subsection, where there is one, is laid over the section.
        paths: Profile files; the first that has the section counts, and those that do not exist count for nothing.

    Returns:
        The profile; `default` without any section is what the program itself comes with.

    Raises:
        SpecError: A file is wrong, or none has the section.
    """
    sections: list[str] = []
    for path in paths:
        if not path.exists():
            continue
        root = _read(path)
        entry = root.entries.get(name)
        if entry is not None:
            return _profile(name, backend, entry)
        sections += root.entries
    if name == "default":
        return Profile(name=name)
    near = nearest(name, sections)
    known = f"did you mean '{near}'?" if near else f"there are {', '.join(sorted({*sections, 'default'}))}"
    place = start_of(paths[0] if paths else Path("profiles.yaml"))
    raise SpecError([place.problem(printable(name), f"there is no such profile; {known}")])


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
