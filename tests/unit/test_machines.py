"""One archive for several kinds of CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archives import assets, build, machines
from model_configs.archive_files import ARTEFACTS_FOLDER, SUFFIXES
from model_configs.errors import KitError
from model_configs.schema import AnyModelConfig, load_model
from servekit import fingerprint

FITTING = {"torch": "2.13.0", "model_sha256": "a", "settings": "[]", "kernels": "k"}


def prepared(folder: Path, **levels: dict[str, str]) -> Path:
    """A folder as assets.prepare makes it."""
    for level, described in levels.items():
        (folder / level).mkdir(parents=True)
        (folder / level / fingerprint.PACKAGE_FILE).write_bytes(level.encode())
        (folder / level / fingerprint.FINGERPRINT_FILE).write_text(json.dumps({**described, "cpu": level}))
    return folder


@pytest.fixture(params=["mar", "no-archive", "tgz"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Another machine's archive with artefacts for avx2 and neon."""
    made = prepared(tmp_path / "made", avx2=FITTING, neon=FITTING)
    entries: build.Entries = {
        f"{ARTEFACTS_FOLDER}/{path.relative_to(made).as_posix()}": path for path in made.rglob("*") if path.is_file()
    }
    target = tmp_path / f"other{SUFFIXES[request.param]}"
    build.package(entries, dict.fromkeys(entries, "x"), target, request.param)
    return target


def test_what_is_not_here_is_taken(archive: Path, tmp_path: Path) -> None:
    own = prepared(tmp_path / "own", avx2=FITTING)
    (own / "avx2" / fingerprint.PACKAGE_FILE).write_bytes(b"own")
    assert machines.adopt(archive, own) == ["neon"]
    assert (own / "avx2" / fingerprint.PACKAGE_FILE).read_bytes() == b"own"
    assert (own / "neon" / fingerprint.PACKAGE_FILE).read_bytes() == b"neon"
    with pytest.raises(KitError, match="has no artefacts that are not here already"):
        machines.adopt(archive, own)


@pytest.mark.parametrize("key", machines.SAME)
def test_artefacts_of_something_else_are_refused(archive: Path, tmp_path: Path, key: str) -> None:
    own = prepared(tmp_path / "own", amx={**FITTING, key: "other"})
    with pytest.raises(KitError, match=f"{key} is .*, here other"):
        machines.adopt(archive, own)
    assert [folder.name for folder in own.iterdir()] == ["amx"]


def test_a_model_without_artefacts_takes_none(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="no artefacts of its own"):
        machines.adopt(archive, tmp_path / "own")


def test_the_command_lines_cpus_are_the_settings(minilm: AnyModelConfig) -> None:
    assert machines.compiled_for(minilm, []) is minilm
    config = machines.compiled_for(minilm, ["avx2", "avx512", "avx2"])
    assert config.handler.compile.machines == ("avx2", "avx512")
    assert json.loads(config.handler.model_dump_json(exclude_unset=True))["compile"]["machines"] == ["avx2", "avx512"]


def test_a_cpu_that_nobody_knows(minilm: AnyModelConfig) -> None:
    with pytest.raises(KitError, match="--compile-for avx1024 is none of amx, avx512_vnni, avx512, avx2, sve, neon"):
        machines.compiled_for(minilm, ["avx1024"])


def test_only_encoders_are_compiled_for_others() -> None:
    with pytest.raises(KitError, match="digits: --compile-for is for encoders"):
        machines.compiled_for(load_model("digits"), ["avx2"])


@pytest.mark.parametrize(("levels", "here"), [(["avx512", "avx2"], "avx512"), ([], "none that is known")])
def test_what_cannot_be_compiled_here_is_said(
    minilm: AnyModelConfig,
    minilm_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    levels: list[str],
    here: str,
) -> None:
    monkeypatch.setattr(fingerprint, "levels", lambda: levels)
    with pytest.raises(KitError) as raised:
        assets.prepare(machines.compiled_for(minilm, ["avx2", "neon", "sve"]), minilm_weights, tmp_path)
    said = f"for neon nothing can be compiled here: this CPU is {here}, and for the kernels, they are not made for neon"
    assert str(raised.value) == f"minilm: {said}"
    assert "--artifacts-from" in raised.value.hint
