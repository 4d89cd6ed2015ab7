"""JobSpec: job files read, checked and written; every error names file:line:column and the key."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import Problem, SpecError
from orchestrator.jobfile.document import COMMAND_LINE, Document, Setting, plain, settings
from orchestrator.jobfile.job import JobSpec, Origin, Resources, Retry, Setup, Watchdog
from orchestrator.jobfile.model import Mount
from orchestrator.jobfile.nodes import Entry, MappingNode, Mark, Node, ScalarNode, SequenceNode, join_key
from orchestrator.jobfile.overrides import key_error, override_words
from orchestrator.jobfile.problems import to_problems
from orchestrator.jobfile.sweep import Sweep
from orchestrator.jobfile.tasks import simulator_of, task_error
from orchestrator.jobfile.train_keys import TrainKeys, known_keys
from orchestrator.jobfile.yaml12 import dump, parse_file, start_of

__all__ = [
    "JobSpec",
    "Mount",
    "Resources",
    "Retry",
    "Setup",
    "Sweep",
    "Watchdog",
    "check_secrets",
    "job_schema",
    "job_to_yaml",
    "load_job",
    "train_arguments",
]

MOST_PROBLEMS = 100  # shown of one file; a binary file that happens to be YAML has thousands


def load_job(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    sets: Sequence[str] = (),
    backend: str | None = None,
    tasks: Sequence[str] = (),
) -> JobSpec:
    """Read a job file and what the command line changes in it.

    Args:
        path: The job file.
        overrides: Trainer overrides, `KEY=VALUE` each, with values as in the file.
        sets: Changes to keys of the job, `KEY=VALUE` each; done before everything else here.
        backend: Instead of the file's.
        tasks: Names for a sweep over `env.name`; a word may hold several with commas between, or be `@FILE`.

    Returns:
        The job, with local paths made absolute.

    Raises:
        SpecError: Anything is wrong with the file or the words; it holds all problems found.
    """
    document = Document(*_read(path))
    document.normalise()
    for word in sets:
        document.set(word)
    if backend is not None:
        document.put(["backend"], _word(backend))
    document.sweep_over(tasks)
    document.normalise()
    for word in overrides:
        document.override(word)
    problems = [*document.problems, *_setting_problems(document.root)]
    job = None
    try:
        job = JobSpec.model_validate(_with_absolute_paths(plain(document.root), path))
    except ValidationError as error:
        problems += to_problems(error, JobSpec, document.root)
    if problems or job is None:
        raise SpecError(_in_order(problems))
    job._origin = Origin(_marks(document.root.get("secrets")))
    return job


def _read(path: Path) -> tuple[MappingNode, list[Problem]]:
    root, problems = parse_file(path)
    start = start_of(path)
    if root is None and not problems:
        problems = [start.problem("", "is empty; a job file holds at least name and backend")]
    elif root is not None and not isinstance(root, MappingNode):
        problems.append(
            root.mark.problem("", "is no job file; write KEY: VALUE pairs, beginning with name and backend")
        )
    if not isinstance(root, MappingNode):
        raise SpecError(problems)
    return root, problems


def _word(text: str) -> Entry:
    mark = Mark(COMMAND_LINE, 1, 1)
    return Entry(mark, ScalarNode(text, text, mark))


def _marks(node: Node | None) -> tuple[Mark, ...]:
    return tuple(item.mark for item in node.items) if isinstance(node, SequenceNode) else ()


def _in_order(problems: Sequence[Problem]) -> list[Problem]:
    """Each problem once, in the order of the file; of what is found at one place about one key, the first."""
    by_place: dict[tuple[str, int, int, str], Problem] = {}
    for problem in problems:
        by_place.setdefault((problem.file, problem.line, problem.column, problem.key), problem)
    return [by_place[place] for place in sorted(by_place)][:MOST_PROBLEMS]


def _setting_problems(root: MappingNode) -> Iterator[Problem]:
    """What is wrong with the trainer overrides, as the trainer's own config and the lists of tasks know it."""
    known = known_keys()
    found = list(settings(root))
    for setting in found:
        if key_error(setting.key) or known is None:
            continue  # the models say what is wrong with such a key
        error = known.key_error(setting.key)
        if error:
            yield setting.mark.problem(setting.where, error)
            continue
        for value in setting.values:
            error = known.value_error(setting.key, value)
            if error:
                yield value.mark.problem(setting.where, error)
    setup = root.get("setup")
    code = setup.get("code") if isinstance(setup, MappingNode) else None
    if not (isinstance(code, SequenceNode) and code.items):
        yield from _task_problems(found, known)


def _task_problems(found: Sequence[Setting], known: TrainKeys | None) -> Iterator[Problem]:
    backends = [value for setting in found if setting.key.lstrip("+") == "env.backend" for value in setting.values]
    simulators = {value.value for value in backends if isinstance(value, ScalarNode)}
    if len(simulators) > 1:
        return  # which task meets which simulator is the sweep's affair
    chosen = next(iter(simulators), None)
    default = known.default("env.backend") if known else None
    for setting in found:
        if setting.key.lstrip("+") != "env.name":
            continue
        for node in setting.values:
            if isinstance(node, ScalarNode) and isinstance(node.value, str):
                error = task_error(node.value, str(chosen or simulator_of(node.value) or default))
                if error:
                    yield node.mark.problem(setting.where, error)


def _with_absolute_paths(data: dict[str, Any], path: Path) -> dict[str, Any]:
    """Folders of the submitter's machine, seen from the job file's own folder and not from wherever a copy will lie."""
    base = os.path.abspath(path.parent)

    def absolute(folder: str) -> str:
        return os.path.normpath(os.path.join(base, os.path.expanduser(folder)))

    def source(value: object) -> object:
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            return {**value, "path": absolute(value["path"])}
        return value

    setup = data.get("setup")
    if not isinstance(setup, dict):
        return data
    moved = {key: source(value) if key in ("tensordict", "torchrl") else value for key, value in setup.items()}
    code = setup.get("code")
    if isinstance(code, list):
        moved["code"] = [source({"path": item} if isinstance(item, str) else item) for item in code]
    if isinstance(setup.get("wheelhouse"), str):
        moved["wheelhouse"] = absolute(setup["wheelhouse"])
    return {**data, "setup": moved}


def train_arguments(job: JobSpec) -> tuple[str, ...]:
    """Words for `python -m trainer`: the job's overrides in Hydra's grammar, not quoted for a shell.

    Where the job names no simulator, the task's name tells it: `Isaac-…` is Isaac Lab's, `Mjlab-…` mjlab's.
    """
    train = dict(job.train)
    task = train.get("env.name")
    simulator = simulator_of(task) if isinstance(task, str) else None
    if simulator and "env.backend" not in train:
        train = {"env.backend": simulator, **train}
    return override_words(train)


def check_secrets(job: JobSpec, environ: Mapping[str, str]) -> list[Problem]:
    """A problem for each secret of the job that `environ` lacks."""
    marks = job._origin.secrets
    problems = []
    for index, name in enumerate(job.secrets):
        if not environ.get(name):
            mark = marks[index] if index < len(marks) else Mark(f"{job.name} (job)", 1, 1)
            what = f"{name} is not set here; export {name}=… before submitting, or take it out"
            problems.append(mark.problem(join_key("secrets", index), what))
    return problems


def job_to_yaml(job: JobSpec) -> str:
    """The job as a file that `load_job` reads as the same job."""
    return JobWriter().write(job)


class JobWriter:
    """Writes jobs as files; what is the same object as in the job before is not written anew."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[object, str]] = {}  # value and text by key

    def write(self, job: JobSpec) -> str:
        """As `job_to_yaml`."""
        for name in JobSpec.model_fields:
            value = getattr(job, name)
            if name not in self._last or self._last[name][0] is not value:
                self._last[name] = value, _key_to_yaml(job, name)
        return "".join(text for _, text in self._last.values())


def _key_to_yaml(job: JobSpec, name: str) -> str:
    """One key of a job as a line or block of the file; nothing where it says nothing."""
    value = job.model_dump(include={name})[name]
    nothing = value is None or value == {} or value == ()
    if nothing and JobSpec.model_fields[name].get_default(call_default_factory=True) == value:
        return ""
    return dump({name: json.loads(json.dumps(value))})  # plain lists and mappings, as a file has them


def job_schema() -> dict[str, Any]:
    """The JSON schema of job files, for editors."""
    schema = JobSpec.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Longshore job",
    }
