"""The lab's arithmetic stands alone: neither Locust, whose import patches the process, nor numpy is under it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_configs import HANDLERS_DIR, ROOT

CORE = ("arrivals", "percentiles", "records", "stats", "verdict")
ROOTS = {"loadtest": ROOT, "model_configs": ROOT, "servekit": HANDLERS_DIR}
HEAVY = ("locust", "numpy", "gevent", "torch")


def file_of(module: str) -> Path | None:
    """The file of one of the kit's modules; None of another one, or of a name inside a module."""
    root = ROOTS.get(module.split(".")[0])
    if root is None:
        return None
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it; of `from a import b` both a and a.b, of which b may be a name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reached(module: str) -> set[str]:
    """All modules that importing one may import, those of other packages by name alone."""
    found: set[str] = set()
    left = [module]
    while left:
        name = left.pop()
        parts = name.split(".")
        for whole in (".".join(parts[: count + 1]) for count in range(len(parts))):
            if whole not in found:
                found.add(whole)
                file = file_of(whole)
                left.extend(imported(file) if file else ())
    return found


@pytest.mark.parametrize("name", CORE)
def test_the_arithmetic_imports_neither_locust_nor_numpy_not_even_on_the_way(name: str) -> None:
    found = reached(f"loadtest.{name}")
    assert file_of(f"loadtest.{name}")
    assert not found & set(HEAVY)


@pytest.mark.parametrize("name", ["arrivals", "percentiles", "records", "stats"])
def test_figures_need_the_standard_library_alone(name: str) -> None:
    tops = {module.split(".")[0] for module in reached(f"loadtest.{name}")}
    assert tops - {"loadtest"} <= sys.stdlib_module_names


def test_the_walk_finds_what_is_imported_on_the_way() -> None:
    assert {"loadtest.percentiles", "loadtest.records"} <= reached("loadtest.stats")
    assert {"servekit.strict", "pydantic"} <= reached("loadtest.verdict")
    assert "locust" in reached("loadtest.locustfile")


@pytest.mark.parametrize("name", CORE)
def test_a_fresh_interpreter_does_not_load_them_either(name: str) -> None:
    program = f"import sys, loadtest.{name}; print([each for each in {HEAVY} if each in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == "[]"
