"""What pydantic found wrong, said as the rest of Longshore says it: place, key, what is wrong, what is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from orchestrator.errors import Problem
from orchestrator.jobfile.nodes import MappingNode, Mark, Node, SequenceNode, join_key, shown
from orchestrator.jobfile.tasks import nearest

# Errors of pydantic by type: message of the value found, and of pydantic's context.
_MESSAGES: Mapping[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "value_error": lambda value, about: str(about["error"]),
    "int_type": lambda value, about: f"{shown(value)} is no integer; write a whole number",
    "bool_type": lambda value, about: f"{shown(value)} is neither true nor false; write one of them",
    "string_type": lambda value, about: f"{shown(value)} is no text; write a word, or any text in quotes",
    "tuple_type": lambda value, about: f"{shown(value)} is no list; write [A, B]",
    "dict_type": lambda value, about: f"{shown(value)} is no mapping; write KEY: VALUE pairs",
    "model_type": lambda value, about: f"{shown(value)} is no mapping; write KEY: VALUE pairs",
    "greater_than_equal": lambda value, about: f"{shown(value)} is too small; write {about['ge']} or more",
    "less_than_equal": lambda value, about: f"{shown(value)} is too large; write {about['le']} or less",
    "literal_error": lambda value, about: _choice(value, about["expected"]),
}


def to_problems(error: ValidationError, model: type[BaseModel], root: MappingNode) -> list[Problem]:
    """Problems of a document that a model refused.

    Args:
        error: What the model said of the document's values.
        model: The model.
        root: The document.
    """
    problems = []
    for found in error.errors(include_url=False):
        about = found.get("ctx", {})
        if found["type"] == "wrong":
            for path, message in about["problems"]:
                problems.append(problem_at(root, (*found["loc"], *path), message))
        elif found["type"] == "extra_forbidden":
            message = unknown_key(str(found["loc"][-1]), _known(model, found["loc"][:-1]))
            problems.append(problem_at(root, found["loc"], message, of_key=True))
        elif found["type"] == "missing":
            message = _missing(str(found["loc"][-1]), _known(model, found["loc"][:-1]))
            problems.append(problem_at(root, found["loc"], message))
        else:
            say = _MESSAGES.get(found["type"])
            problems.append(problem_at(root, found["loc"], say(found["input"], about) if say else found["msg"]))
    return problems


def problem_at(root: MappingNode, path: tuple[str | int, ...], message: str, *, of_key: bool = False) -> Problem:
    """A problem with what stands under a path of keys and indices; with the key itself where `of_key`.

    Where the document ends before the path does, the problem lies with the last that there is.
    """
    if path and path[-1] == "[key]":  # pydantic's way of saying that the key is meant, not what stands under it
        path, of_key = path[:-1], True
    node: Node = root
    mark: Mark = root.mark
    dotted = ""
    for number, part in enumerate(path):
        last = number == len(path) - 1
        if isinstance(node, MappingNode) and part in node.entries:
            entry = node.entries[str(part)]
            node = entry.node
            mark = entry.mark if of_key and last else node.mark
        elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            mark = node.mark
        elif not last or str(part).startswith("<"):  # a name inside the models: "<git>", "axes"
            continue
        dotted = join_key(dotted, part)
    return mark.problem(dotted, message)


def _choice(value: Any, expected: str) -> str:
    near = nearest(value, expected.split("'")[1::2]) if isinstance(value, str) else None
    return f"{shown(value)} is not accepted; write {expected}" + (f"; did you mean '{near}'?" if near else "")


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key that is none of those known."""
    known = list(known)
    near = nearest(key, known)
    return "unknown key; " + (f"did you mean '{near}'?" if near else f"accepted are {', '.join(known)}")


def _missing(key: str, known: Mapping[str, FieldInfo]) -> str:
    meaning = known[key].description if key in known else None
    return f"is missing; write {key}: VALUE" + (f" ({meaning})" if meaning else "")


def _known(model: type[BaseModel], path: tuple[str | int, ...]) -> dict[str, FieldInfo]:
    """Keys that a model accepts under a path."""
    models = [model]
    for part in path:
        fields = [field for one in models for name, field in one.model_fields.items() if part in (name, field.alias)]
        if fields:
            models = [found for field in fields for found in _models(field.annotation)]
    return {field.alias or name: field for one in models for name, field in one.model_fields.items()}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
