r"""What botocore's own model of a service says of a request: required members, types, enums, patterns, lengths, ranges.

botocore itself checks types, required members and lower bounds before it sends; services check all of it. Knows nothing
of what the model does not say: what exists, and what goes together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape

JAVA_CLASSES = {
    r"\p{ASCII}": r"[\x00-\x7f]",
    r"[\p{Print}]": r"[\x20-\x7e]",
    r"\p{Print}": r"[\x20-\x7e]",
    r"\p{L}": r"\w",
    r"\p{N}": r"\w",
    r"\p{Z}": r"\s",
    r"\z": r"\Z",
    r"\uD800\uDC00-\uDBFF\uDFFF": r"\U00010000-\U0010FFFF",
}
"""Patterns are Java's; these are its words that Python does not know, as near as it has them, in this order. A pattern
with others is not checked: no operation that the kit calls has one."""
SHOWN = 80


@cache
def service_model(service: str) -> Any:
    """botocore's model of a service, by its name there."""
    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


def operation(service: str, name: str) -> OperationModel:
    """One operation of a service. Raises botocore's OperationNotFoundError."""
    return service_model(service).operation_model(name)


def problems(service: str, name: str, request: dict[str, Any]) -> list[str]:
    """What is wrong with a request of an operation, a line each: `path: what it must be`; none when it is right."""
    shape = operation(service, name).input_shape
    return list(shape_problems(request, shape, "")) if shape else []


def shape_problems(value: Any, shape: Any, path: str) -> Iterator[str]:
    """The same for one value of a shape."""
    check = CHECKS.get(shape.type_name)
    if check is not None:
        yield from check(value, shape, path)


def _structure(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _must(path, value, "be an object")
        return
    for name in shape.required_members:
        if value.get(name) is None:
            yield f"{_inside(path, name)}: is required"
    for name, member in value.items():
        if name not in shape.members:
            yield f"{_inside(path, name)}: is unknown; known are {', '.join(shape.members)}"
        elif member is not None:
            yield from shape_problems(member, shape.members[name], _inside(path, name))


def _list(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if not isinstance(value, (list, tuple)):
        yield _must(path, value, "be a list")
        return
    yield from _bounds(len(value), shape, path, "length")
    for number, each in enumerate(value):
        yield from shape_problems(each, shape.member, f"{path}[{number}]")


def _map(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _must(path, value, "be a map")
        return
    yield from _bounds(len(value), shape, path, "number of entries")
    for key, each in value.items():
        yield from shape_problems(key, shape.key, f"{path} (key {key!r})")
        yield from shape_problems(each, shape.value, _inside(path, key))


def _string(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield _must(path, value, "be a string")
        return
    yield from _bounds(len(value), shape, path, "length")
    if shape.enum and value not in shape.enum:
        few = f"one of {', '.join(shape.enum)}" if len(shape.enum) <= 10 else f"one of {len(shape.enum)} names"
        yield _must(path, value, f"be {few}")
    pattern = shape.metadata.get("pattern")
    compiled = compiled_pattern(pattern) if pattern else None
    if compiled and not compiled.fullmatch(value):
        yield _must(path, value, f"satisfy regular expression pattern {pattern}")


def _whole_number(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, int):
        yield _must(path, value, "be a whole number")
        return
    yield from _bounds(value, shape, path, "value")


def _number(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        yield _must(path, value, "be a number")
        return
    yield from _bounds(value, shape, path, "value")


def _boolean(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if not isinstance(value, bool):
        yield _must(path, value, "be true or false")


def _timestamp(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, datetime)):
        yield _must(path, value, "be a time")


def _blob(value: Any, shape: Shape, path: str) -> Iterator[str]:
    if isinstance(value, (bytes, bytearray, str)):
        yield from _bounds(len(value), shape, path, "length")


def _bounds(size: float, shape: Shape, path: str, what: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield f"{path}: {what} {size} must be at least {low}"
    if high is not None and size > high:
        yield f"{path}: {what} {size} must be at most {high}"


CHECKS = {
    "structure": _structure,
    "list": _list,
    "map": _map,
    "string": _string,
    "integer": _whole_number,
    "long": _whole_number,
    "float": _number,
    "double": _number,
    "boolean": _boolean,
    "timestamp": _timestamp,
    "blob": _blob,
}


@cache
def compiled_pattern(pattern: str) -> re.Pattern[str] | None:
    """A model's pattern as Python reads it, None for one that it cannot."""
    for java, python in JAVA_CLASSES.items():
        pattern = pattern.replace(java, python)
    try:
        return re.compile(pattern)
    except re.error:
        return None


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _must(path: str, value: Any, what: str) -> str:
    shown = repr(value) if len(repr(value)) <= SHOWN else f"{repr(value)[:SHOWN]}…"
    return f"{path}: {shown} must {what}"
