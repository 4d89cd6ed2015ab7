"""Trainer overrides as Hydra reads them: which keys are keys, which values are values, and how both become one word."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TypeAlias

from orchestrator.jobfile.nodes import printable, shown

TrainValue: TypeAlias = bool | int | float | str | list["TrainValue"] | None

_PART = r"(?:[A-Za-z_][A-Za-z0-9_-]*|0|[1-9][0-9]*)"
_KEY = re.compile(rf"(?:\+\+?)?[A-Za-z_][A-Za-z0-9_-]*(?:\.{_PART})*")
# Strings that Hydra takes for what they are without quotes: an id, with characters that mean nothing to its grammar.
_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_./@%-]*")
_WORDS_WITH_MEANING = frozenset({"null", "true", "false", "inf", "nan"})


def key_error(key: str) -> str | None:
    """What is wrong with a trainer override's key, and what is accepted; None where it is one."""
    if _KEY.fullmatch(key):
        return None
    return f"'{printable(key, 60)}' is no trainer override; write a dotted key like env.name"


def value_error(value: object) -> str | None:
    """What is wrong with a trainer override's value, and what is accepted; None where it is one."""
    if isinstance(value, list):
        return next((error for item in value if (error := value_error(item))), None)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is no finite number"
    if value is None or isinstance(value, bool | int | float | str):
        return None
    return f"{shown(value)} is no value; write a number, a string, true, false, null or a list of them"


def override_words(train: Mapping[str, TrainValue]) -> tuple[str, ...]:
    """`KEY=VALUE` for each entry, in Hydra's override grammar; strings stay literal whatever they hold.

    The words are arguments of a program, not yet quoted for a shell.

    Source: Hydra 1.3, "Override grammar", and OmegaConf 2.3, "Escaping interpolations".
    """
    return tuple(f"{key}={_value(value)}" for key, value in train.items())


def _value(value: TrainValue) -> str:
    if isinstance(value, list):
        return f"[{','.join(_value(item) for item in value)}]"
    if isinstance(value, str):
        return _string(value)
    return shown(value) if value is None or isinstance(value, bool) else repr(value)


def _string(text: str) -> str:
    if _BARE.fullmatch(text) and text.lower() not in _WORDS_WITH_MEANING:
        return text
    # OmegaConf would interpolate; its escape is a backslash, and backslashes before that are doubled.
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    # Hydra's quoted strings: backslashes count only before a quote, and the end is before one.
    quoted = re.sub(r"(\\*)(')", r"\1\1\\'", literal)
    quoted = re.sub(r"(\\+)\Z", r"\1\1", quoted)
    return f"'{quoted}'"
