"""Every mode, and every step down, in TorchServe's own worker, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archives import build
from archives.verify import verify
from archives.worker import Request, Worker, WorkerDied
from model_configs.archive_files import read_golden
from model_configs.schema import AnyModelConfig, Assets
from servekit import fingerprint
from servekit.settings import EmbeddingSettings

LEVEL = fingerprint.levels()[0]
SETTINGS: dict[str, Any] = {"max_batch_texts": 4, "warmup": {"batch_sizes": [1, 4], "lengths": [8]}}
BUCKETS = {"batch_buckets": [4], "length_buckets": [8]}  # with the largest of each, two shapes to compile


def tiny_config(base: AnyModelConfig, weights: Path, mode: str) -> AnyModelConfig:
    settings = EmbeddingSettings.model_validate({**SETTINGS, "compile": {"mode": mode, **BUCKETS}})
    model = base.model.model_copy(update={"name": "tiny", "assets": Assets(path=str(weights)), "format": "no-archive"})
    return base.model_copy(update={"model": model, "handler": settings})


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture
def store(tmp_path: Path, prepared: Path) -> Path:
    """A store of its own for each test, so that archives may be changed; what is compiled is compiled once."""
    (tmp_path / ".prepared").symlink_to(prepared)
    return tmp_path


@pytest.mark.parametrize("mode", ["aot", pytest.param("jit", marks=pytest.mark.slow), "eager"])
def test_every_mode_loads_and_answers_right(minilm: AnyModelConfig, tiny_model: Path, store: Path, mode: str) -> None:
    archive = build.build(tiny_config(minilm, tiny_model, mode), store)
    assert (archive.path / "artefacts" / LEVEL / "encoder.pt2").exists() == (mode == "aot")
    result = verify(archive.path)
    assert f"tiny: {mode} encoder" in result.worker_log[-1]


def test_compiling_again_gives_the_same_archive(
    minilm: AnyModelConfig, tiny_model: Path, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = tiny_config(minilm, tiny_model, "aot")
    first = build.build(config, store)
    assert build.build(config, tmp_path_factory.mktemp("again")).sha256 == first.sha256


def test_without_compiler_and_artefact_a_worker_runs_eager(
    minilm: AnyModelConfig, tiny_model: Path, store: Path
) -> None:
    """A machine with no compiler, and an artefact that was built for another one."""
    archive = build.build(tiny_config(minilm, tiny_model, "aot"), store)
    (archive.path / "artefacts" / LEVEL).rename(archive.path / "artefacts" / "riscv64")
    golden = read_golden(archive.path)
    with Worker(archive.path, environment={"PATH": str(store), "CXX": "no-such-compiler"}) as worker:
        worker.load("tiny")
        (reply,) = worker.predict([Request(b"the fox")])
    said = [line for line in worker.output if line.startswith("tiny: ")]
    assert "cpu: built for riscv64, here " in said[0]
    assert "no C++ compiler" in said[1]
    assert "tiny: eager encoder" in said[-1]
    assert (reply.status, len(golden.expected)) == (200, 3)


def test_a_worker_that_needs_artefacts_does_not_start_without(
    minilm: AnyModelConfig, tiny_model: Path, store: Path
) -> None:
    config = tiny_config(minilm, tiny_model, "aot")
    compile_settings = config.handler.compile.model_copy(update={"require_artifacts": True})
    config = config.model_copy(update={"handler": config.handler.model_copy(update={"compile": compile_settings})})
    archive = build.build(config, store)
    assert "aot encoder" in verify(archive.path).worker_log[-1]
    (archive.path / "artefacts" / LEVEL).rename(archive.path / "artefacts" / "riscv64")
    with Worker(archive.path) as worker, pytest.raises(WorkerDied, match="require_artifacts: cpu: built for riscv64"):
        worker.load("tiny")
