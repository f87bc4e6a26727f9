"""Pydantic models that forbid unknown keys, and their errors in a form people can act on.

Used for the YAML (by the kit) and for request bodies (by the handlers). Knows neither.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

MOST_PROBLEMS = 20


class Strict(BaseModel):
    """Unknown keys are errors, values are not coerced across types, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def closest(word: str, words: Iterable[str]) -> str | None:
    """The most similar of words, ignoring case, or None when none is near."""
    by_lower = {candidate.lower(): candidate for candidate in words}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[near[0]] if near else None


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each problem: `key.path: what is wrong`, with the closest valid key for an unknown one.

    Of more than MOST_PROBLEMS only their number: a body of wrong keys would be answered by one ten times as large.
    """
    found = error.errors()
    lines = [
        _line(problem["loc"], problem["type"], problem["msg"], problem["input"], model)
        for problem in found[:MOST_PROBLEMS]
    ]
    return lines if len(found) <= MOST_PROBLEMS else [*lines, f"and {len(found) - MOST_PROBLEMS} more"]


def _line(location: tuple[int | str, ...], kind: str, message: str, value: Any, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = closest(str(location[-1]), known)
        advice = f"did you mean {near!r}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"{path}: unknown key; {advice}"
    if isinstance(value, (str, int, float, bool)):
        message = f"{message}, got {str(value)[:60]!r}" if isinstance(value, str) else f"{message}, got {value}"
    return f"{path}: {message}" if path else message


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    models = {model}
    for part in location:
        inner = {found for m in models for found in _models_in(_annotation(m, str(part)))}
        models = inner or models
    return {field.alias or name for m in models for name, field in m.model_fields.items()}


def _annotation(model: type[BaseModel], key: str) -> Any:
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            return field.annotation
    return None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, UnionType, Annotated, list, dict, tuple):
        for argument in get_args(annotation):
            yield from _models_in(argument)
