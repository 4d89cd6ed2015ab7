"""What the models of job files and of profiles share: profiles are read by commands that read no job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool
from pydantic_core import PydanticCustomError

from orchestrator.jobfile.fields import MountSource, MountTarget

KeyPath: TypeAlias = tuple[str | int, ...]  # from a model to a value in it


def wrong(problems: Sequence[tuple[KeyPath, str]]) -> PydanticCustomError:
    """The error of a check that spans several keys: what is wrong, and where, seen from the model that raises it."""
    return PydanticCustomError("wrong", "{text}", {"text": problems[0][1], "problems": list(problems)})


class Model(BaseModel):
    """Frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class Mount(Model):
    """A folder of the host inside the container."""

    source: MountSource = Field(description="Folder of the host: an absolute path, or one that starts with ~/")
    target: MountTarget = Field(description="Where it is in the container: an absolute path")
    cache: StrictBool = Field(False, description="Holds a cache: may be empty, and is kept between runs")
