"""The house's floors: an import only ever goes down, and a worker has nothing but servekit."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from model_configs import HANDLERS_DIR, ROOT
from servekit.settings import HANDLER_SETTINGS

FLOOR = {"printing": 0, "servekit": 0, "model_configs": 1, "archives": 2, "deploy": 2, "loadtest": 3, "kit": 4}
FOLDERS = {"handlers": 0, **FLOOR}
SOURCES = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "store" not in path.parts]


def imported(path: Path) -> set[str]:
    """The top-level names that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize(
    "path", [*SOURCES, ROOT / "kit.py", ROOT / "printing.py"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_only_go_down(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    for name in imported(path) & set(FLOOR):
        same = name == own or (own == "handlers" and name == "servekit")
        assert same or FLOOR[name] < FOLDERS[own], f"{own} must not import {name}"


def test_every_handler_has_settings() -> None:
    assert {path.name for path in HANDLERS_DIR.glob("*.py")} == set(HANDLER_SETTINGS)


@pytest.mark.parametrize("path", sorted(HANDLERS_DIR.glob("*.py")), ids=lambda path: path.name)
def test_a_handler_file_defines_one_class(path: Path) -> None:
    """TorchServe refuses a file with two, dataclasses included."""
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    assert len(classes) == 1
