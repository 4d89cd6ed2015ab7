"""Kinds of text in a job file: for each a type that checks it, and says what is accepted."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field, StrictStr, WithJsonSchema

from orchestrator.jobfile.nodes import shown
from orchestrator.jobfile.quantities import duration_seconds, memory_mib

IMAGE_EXAMPLE = "nvcr.io/nvidia/isaac-lab:2.3.0"
LONGEST_TEXT = 100_000  # characters of one text; Linux takes no longer argument or variable than 128 KiB

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_RUN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]{0,254}"
_IMAGE_FILE = re.compile(r"/[\w./@+-]+\.(?:sqsh|sif)")  # of enroot, of apptainer
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9.-]+(?::[0-9]{1,5})?/)?"  # registry
    r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?P<tag>:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?P<digest>@sha256:[0-9a-f]{64})?"
)
_VERSION = re.compile(r"[0-9][A-Za-z0-9.+!_-]{0,63}")
_GIT_URL = re.compile(r"(?:(?:https|http|ssh|git|file)://|[A-Za-z0-9._-]+@[A-Za-z0-9.-]+:)[!-~]+")
_GIT_PASSWORD = re.compile(r"https?://[^/]*@|[a-z]+://[^/:]*:[^/]*@")
_GIT_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,254}")
_APT = re.compile(r"[a-z0-9][a-z0-9+.-]*(?:=[A-Za-z0-9.+:~-]+)?")
_FLAG = re.compile(r"[a-z][a-z0-9-]{0,63}")
_TARGET = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9._-]*(?::[0-9]{1,5})?")
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+:@-]{0,254}")
# Flags of cluster commands that a key of its own stands for.
_OWN_KEY: Mapping[str, str] = {
    "time": "resources.time",
    "partition": "resources.partition",
    "ntasks": "resources.ntasks",
    "mem": "resources.memory",
    "cpus-per-task": "resources.cpus",
    "gpus-per-task": "resources.gpus",
    "container-image": "image",
    "job-name": "name",
}


def _name_error(text: str) -> str | None:
    if re.fullmatch(_NAME, text):
        return None
    return f"{shown(text)} is no name; write up to 64 letters, digits, '.', '_' and '-', with a letter or digit first"


def _variable_error(text: str) -> str | None:
    if not re.fullmatch(_VARIABLE, text):
        return f"{shown(text)} is no variable name; write letters, digits and '_', with no digit first"
    if text.startswith("LONGSHORE_"):
        return f"{text} is set by Longshore itself; choose a name without LONGSHORE_"
    return None


def is_image_file(image: str) -> bool:
    """Whether an image is a file on the machine that runs it, rather than one of a registry's."""
    return image.startswith("/")


def _image_error(text: str) -> str | None:
    if is_image_file(text):
        return (
            None if _IMAGE_FILE.fullmatch(text) else f"{shown(text)} is no image; one in a file ends in .sqsh or .sif"
        )
    match = _IMAGE.fullmatch(text) if len(text) <= 512 else None
    if not match:
        return f"{shown(text)} is no image; write REGISTRY/NAME:TAG, like {IMAGE_EXAMPLE}"
    if not match["tag"] and not match["digest"]:
        return f"{shown(text)} has no tag; write one, or a digest, like {IMAGE_EXAMPLE}"
    return None


def _quantity_error(parse: Callable[[str], int]) -> Callable[[str], str | None]:
    def check(text: str) -> str | None:
        try:
            parse(text)
        except ValueError as error:
            return str(error)
        return None

    return check


def _word_error(what: str, example: str, pattern: re.Pattern[str]) -> Callable[[str], str | None]:
    return lambda text: None if pattern.fullmatch(text) else f"{shown(text)} is no {what}; write {example}"


def _git_error(text: str) -> str | None:
    if not _GIT_URL.fullmatch(text):
        return f"{shown(text)} is no git URL; write https://HOST/REPOSITORY or USER@HOST:REPOSITORY"
    if _GIT_PASSWORD.match(text):
        return "holds a user name or a password, which every log would show; use a credential helper or ssh"
    return None


def _ref_error(text: str) -> str | None:
    if _GIT_REF.fullmatch(text) and ".." not in text:
        return None
    return f"{shown(text)} is no git ref; write a tag, a branch or a commit"


def _path_error(text: str) -> str | None:
    return None if text and text.isprintable() else f"{shown(text)} is no path; write it on one line"


def _requirement_error(text: str) -> str | None:
    if text and text.isprintable() and text[0].isalnum():
        return None
    return f"{shown(text)} is no requirement; write NAME or NAME==VERSION, one an entry, without options"


def _source_error(text: str) -> str | None:
    return _mount_error(text, ("/", "~/"), "an absolute path or one that starts with ~/")


def _target_error(text: str) -> str | None:
    return _mount_error(text, ("/",), "an absolute path")


def _mount_error(text: str, starts: tuple[str, ...], accepted: str) -> str | None:
    if not text.isprintable() or not text.startswith(starts) or ".." in text.split("/"):
        return f"{shown(text)} cannot be mounted; write {accepted}, without '..'"
    if ":" in text or "," in text:  # they separate mounts and their parts for Docker and pyxis
        return f"{shown(text)} cannot be mounted; paths with ':' or ',' cannot be passed on"
    return None


def _target_host_error(text: str) -> str | None:
    hops = text.split(",")
    return None if all(map(_TARGET.fullmatch, hops)) else f"{shown(text)} is no host; write [USER@]HOST[:PORT]"


def _value_error(text: str) -> str | None:
    return "holds a NUL character, which no variable can hold" if "\0" in text else None


def _flag_error(text: str) -> str | None:
    if not _FLAG.fullmatch(text):
        return f"{shown(text)} is no flag; write it in lower case and without its dashes, like qos"
    if text in _OWN_KEY:
        return f"'{text}' has a key of its own; write {_OWN_KEY[text]}"
    return None


def _flag_value(value: Any) -> str | int | bool:
    if isinstance(value, bool | int) or (isinstance(value, str) and value.isprintable()):
        return value
    raise ValueError(f"{shown(value)} is no value of a flag; write a word, an integer, true or false")


def _checked(error_of: Callable[[str], str | None]) -> AfterValidator:
    """Make a validator of a function that says what is wrong with a text, or None."""

    def validate(text: str) -> str:
        error = "is too long" if len(text) > LONGEST_TEXT else error_of(text)
        if error:
            raise ValueError(error)
        return text

    return AfterValidator(validate)


def _pattern(pattern: str) -> Any:
    """Tell editors, through the JSON schema, what a text looks like."""
    return Field(json_schema_extra={"pattern": f"^{pattern}$"})


def _also(*types: str) -> Any:
    """Let the JSON schema accept numbers and the like, which are read as the text that they are written as."""
    return Field(json_schema_extra={"type": ["string", *types]})


def _examples(*examples: str) -> Any:
    return Field(examples=list(examples))


RunName: TypeAlias = Annotated[
    StrictStr,
    _checked(_word_error("run", "its id, the beginning of it, the id of a sweep, or last", re.compile(_RUN))),
    _pattern(_RUN),
]
Name: TypeAlias = Annotated[StrictStr, _checked(_name_error), _pattern(_NAME)]
Variable: TypeAlias = Annotated[StrictStr, _checked(_variable_error), _pattern(_VARIABLE)]
VariableValue: TypeAlias = Annotated[StrictStr, _checked(_value_error), _also("number", "boolean")]
Image: TypeAlias = Annotated[StrictStr, _checked(_image_error), _examples(IMAGE_EXAMPLE)]
Duration: TypeAlias = Annotated[
    StrictStr,
    _checked(_quantity_error(duration_seconds)),
    _also("integer"),
    _examples("24:00:00", "1-12:00:00", "90", "30m"),
]
Memory: TypeAlias = Annotated[StrictStr, _checked(_quantity_error(memory_mib)), _also("integer"), _examples("128G")]
Partition: TypeAlias = Annotated[
    StrictStr, _checked(_word_error("partition", "its name, or several with commas between", _WORD))
]
Version: TypeAlias = Annotated[
    StrictStr,
    _checked(_word_error("version", "one like 0.14.1, {git: URL, ref: REF} or {path: DIR}", _VERSION)),
    _also("number"),
]
GitUrl: TypeAlias = Annotated[StrictStr, _checked(_git_error)]
GitRef: TypeAlias = Annotated[StrictStr, _checked(_ref_error)]
Target: TypeAlias = Annotated[StrictStr, _checked(_target_host_error)]
PathText: TypeAlias = Annotated[StrictStr, _checked(_path_error)]
Requirement: TypeAlias = Annotated[StrictStr, _checked(_requirement_error)]
AptPackage: TypeAlias = Annotated[StrictStr, _checked(_word_error("Debian package", "its name in lower case", _APT))]
MountSource: TypeAlias = Annotated[StrictStr, _checked(_source_error)]
MountTarget: TypeAlias = Annotated[StrictStr, _checked(_target_error)]
AnyFlagValue: TypeAlias = Annotated[
    Any, AfterValidator(_flag_value), WithJsonSchema({"type": ["string", "integer", "boolean"]})
]
Flag: TypeAlias = Annotated[StrictStr, _checked(_flag_error)]
