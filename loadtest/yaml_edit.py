"""Other values for some keys of a YAML text, with every comment, blank line and spelling around them kept.

PyYAML's nodes say where each value stands in the text, so that only those characters are replaced; a key that is not
there goes to the end of its section. Knows nothing of what the keys mean; the caller checks what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

STEP = 2
"""Spaces a new level is indented by."""


def edited(text: str, changes: Mapping[str, Any]) -> str:
    """The text with these key paths set. Raises ValueError for a path through something that is no section.

    changes: by path, as "torchserve.batchSize"; values are scalars or sequences of them.
    """
    for path, value in changes.items():
        text = _set(text, path.split("."), flow(value))
    return text


def flow(value: Any) -> str:
    """A value as it stands in one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("\n...\n").rstrip("\n")


def _set(text: str, path: Sequence[str], value: str) -> str:
    root = yaml.compose(text, yaml.SafeLoader)
    if root is None:
        return text + _new_lines(path, value, 0)
    node: yaml.Node = root
    for depth, part in enumerate(path):
        if not isinstance(node, yaml.MappingNode):
            raise ValueError(f"{'.'.join(path[:depth])} is no section")
        below = next((child for name, child in node.value if name.value == part), None)
        if below is None:
            return _insert(text, node, path[depth:], value)
        if depth + 1 < len(path) and _is_nothing(below):
            place = below.start_mark.index
            return text[:place] + _inline(path[depth + 1 :], value) + text[place:]
        node = below
    before = text[: node.start_mark.index]
    space = " " if before.endswith(":") else ""  # of a key with nothing behind it
    return before + space + value + text[_end(node) :]


def _insert(text: str, section: yaml.MappingNode, path: Sequence[str], value: str) -> str:
    if section.flow_style:
        place = section.end_mark.index - 1
        comma = ", " if section.value else ""
        inner = value if len(path) == 1 else _inline(path[1:], value).strip()
        return f"{text[:place].rstrip()}{comma}{flow(path[0])}: {inner}{text[place:]}"
    line_end = text.find("\n", _end(section))
    place = len(text) if line_end < 0 else line_end + 1
    before = text[:place] if text[:place].endswith("\n") else text[:place] + "\n"
    return before + _new_lines(path, value, section.start_mark.column) + text[place:]


def _new_lines(path: Sequence[str], value: str, indent: int) -> str:
    lines = [f"{' ' * (indent + STEP * depth)}{flow(part)}:" for depth, part in enumerate(path)]
    return "\n".join(lines) + f" {value}\n"


def _inline(path: Sequence[str], value: str) -> str:
    for part in reversed(path):
        value = f"{{{flow(part)}: {value}}}"
    return f" {value}"


def _end(node: yaml.Node) -> int:
    """Where a value's last character stands. A block's own end mark is at the next thing after it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _is_nothing(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null" and not node.value
