"""`sweep:` of a job file: what differs between runs, and which of them are stopped early."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    StrictInt,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from orchestrator.halving import StopRule
from orchestrator.jobfile.model import KeyPath, Model, wrong
from orchestrator.jobfile.nodes import shown
from orchestrator.jobfile.overrides import TrainValue, key_error, value_error

LARGEST_SWEEP = 10_000  # runs


def _train_key(key: Any) -> str:
    error = key_error(key) if isinstance(key, str) else f"{shown(key)} is no key"
    if error:
        raise ValueError(error)
    return str(key)


def _train_value(value: Any) -> TrainValue:
    error = value_error(value)
    if error:
        raise ValueError(error)
    return value  # type: ignore[no-any-return]


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"{shown(value)} is no share; write a number between 0 and 1")
    return float(value)


def _metric(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", value):
        raise ValueError(f"{shown(value)} is no metric; write a name of metrics.jsonl, like episode/return")
    return value


Share: TypeAlias = Annotated[
    float, BeforeValidator(_share), WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1})
]
MetricName: TypeAlias = Annotated[str, BeforeValidator(_metric)]
_TRAIN_VALUE_SCHEMA: JsonSchemaValue = {"type": ["boolean", "number", "string", "null", "array"]}
TrainKey: TypeAlias = Annotated[str, AfterValidator(_train_key)]
AnyTrainValue: TypeAlias = Annotated[Any, AfterValidator(_train_value), WithJsonSchema(_TRAIN_VALUE_SCHEMA)]
Values: TypeAlias = tuple[AnyTrainValue, ...]


class Stop(Model):
    """Successive halving: at some points of training only the best runs of the sweep go on."""

    metric: MetricName = Field(description="Name in metrics.jsonl, such as episode/return; more of it is better")
    at: tuple[Share, ...] = Field(min_length=1, description="The points, as shares of all optimiser steps: 0.25, 0.5")
    keep: Share = Field(0.5, description="Share of the runs at each point that goes on")

    @model_validator(mode="after")
    def _check(self) -> Stop:
        if list(self.at) != sorted(set(self.at)):
            raise wrong([(("at",), "must ascend: [0.25, 0.5]")])
        return self

    @property
    def rule(self) -> StopRule:
        return StopRule(self.metric, self.at, self.keep)


class Sweep(Model):
    """Trainer settings that differ between runs: `seed: [0, 1, 2]` makes three.

    The runs are the product of the rows of `list`, the rows of `zip`, and all other settings; the last varies fastest.
    """

    # In the file the axes stand beside the other keys, not under one of their own.
    axes: dict[TrainKey, Values] = Field(default_factory=dict)
    zipped: dict[TrainKey, Values] = Field(default_factory=dict, alias="zip", description="Lists gone through together")
    listed: tuple[dict[TrainKey, AnyTrainValue], ...] = Field((), alias="list", description="Settings of run after run")
    exclude: tuple[dict[TrainKey, AnyTrainValue], ...] = Field((), description="Runs left out: those with these values")
    max_parallel: StrictInt | None = Field(
        None,
        ge=1,
        le=LARGEST_SWEEP,
        description="Runs at a time; by default one locally, one allocation behind steve, else all",
    )
    stop: Stop | None = Field(None, description="Which runs are stopped before their end")

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The file's own shape: an axis is any further key."""
        schema = handler.resolve_ref_schema(handler(core))
        schema["additionalProperties"] = schema["properties"].pop("axes")["additionalProperties"]
        return schema

    @model_validator(mode="before")
    @classmethod
    def _gather_axes(cls, written: Any) -> Any:
        if not isinstance(written, Mapping):
            return written
        named = {"zip", "list", "exclude", "max_parallel", "stop"}
        gathered = {key: value for key, value in written.items() if key in named and value is not None}
        return {**gathered, "axes": {key: value for key, value in written.items() if key not in named}}

    @model_serializer
    def _spread_axes(self) -> dict[str, Any]:
        spread: dict[str, Any] = {key: list(values) for key, values in self.axes.items()}
        if self.zipped:
            spread["zip"] = {key: list(values) for key, values in self.zipped.items()}
        if self.listed:
            spread["list"] = [dict(row) for row in self.listed]
        if self.exclude:
            spread["exclude"] = [dict(row) for row in self.exclude]
        if self.max_parallel is not None:
            spread["max_parallel"] = self.max_parallel
        if self.stop is not None:
            spread["stop"] = self.stop.model_dump()
        return spread

    @model_validator(mode="after")
    def _check(self) -> Sweep:
        problems = list(self._problems()) or list(self._exclusion_problems())
        if problems:
            raise wrong(problems)
        return self

    def _problems(self) -> Iterator[tuple[KeyPath, str]]:
        if not (self.axes or self.zipped or self.listed):
            yield (), "varies nothing; write KEY: [VALUE, …] with a trainer override as key"
        for path, values in self._columns():
            if not values:
                yield path, "is an empty list; write at least one value"
            twice = None if path[0] == "zip" else _first_repeated(values)
            if twice is not None:
                yield (*path, twice), f"{shown(values[twice])} stands twice; each run is started once"
        lengths = {len(values) for values in self.zipped.values()}
        if len(lengths) > 1:
            yield ("zip",), f"its lists have {' and '.join(map(str, sorted(lengths)))} values; write as many in each"
        yield from self._shared_keys()
        runs = math.prod([len(self.listed) or 1, max(lengths, default=1) or 1, *map(len, self.axes.values())])
        if runs > LARGEST_SWEEP:
            yield (), f"makes {runs:,} runs; {LARGEST_SWEEP:,} are accepted"

    def _columns(self) -> Iterator[tuple[KeyPath, Values]]:
        for key, values in self.axes.items():
            yield (key,), values
        for key, values in self.zipped.items():
            yield ("zip", key), values

    def _shared_keys(self) -> Iterator[tuple[KeyPath, str]]:
        listed = {key for row in self.listed for key in row}
        for key in self.zipped:
            if key in listed:
                yield ("zip", key), "stands in list too; vary a key in one place"
        for key in self.axes:
            if key in listed or key in self.zipped:
                yield (key,), f"stands in {'list' if key in listed else 'zip'} too; vary a key in one place"

    def _exclusion_problems(self) -> Iterator[tuple[KeyPath, str]]:
        if not self.exclude:
            return
        rows = [identities(row) for row in self._rows()]
        for index, excluded in enumerate(self.exclude):
            if not any(identities(excluded).items() <= row.items() for row in rows):
                yield ("exclude", index), "matches no run; write KEY: VALUE pairs as they stand in the sweep"
        if not self.combinations():
            yield ("exclude",), "leaves no run"

    def _rows(self) -> list[dict[str, TrainValue]]:
        columns: list[list[dict[str, TrainValue]]] = []
        if self.listed:
            columns.append([dict(row) for row in self.listed])
        if self.zipped:
            columns.append(
                [dict(zip(self.zipped, row, strict=True)) for row in zip(*self.zipped.values(), strict=True)]
            )
        columns += [[{key: value} for value in values] for key, values in self.axes.items()]
        return [{key: row[key] for row in rows for key in row} for rows in itertools.product(*columns)]

    def combinations(self) -> list[dict[str, TrainValue]]:
        """What differs in each run, in the order of the runs."""
        excluded = [identities(row).items() for row in self.exclude]
        return [row for row in self._rows() if not any(items <= identities(row).items() for items in excluded)]


def identities(row: Mapping[str, TrainValue]) -> dict[str, str]:
    """Values by what tells them apart: 1, 1.0, true and '1' are four, though Python calls three of them equal."""
    return {key: repr(value) for key, value in row.items()}


def _first_repeated(values: Values) -> int | None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if repr(value) in seen:
            return index
        seen.add(repr(value))
    return None
