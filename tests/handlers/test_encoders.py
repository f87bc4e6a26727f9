"""The three modes compute the same, and each says when it cannot be had."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo

from servekit.encoders import Encoder, aot, jit, load_encoder
from servekit.encoders.eager import EagerEncoder
from servekit.encoders.module import EncoderSpec, encoder_spec
from servekit.settings import CompileSettings, EmbeddingSettings
from tests.fakes.tiny_model import MAX_LENGTH, VOCABULARY, make_tiny_model

SMALL = CompileSettings(mode="jit", batch_buckets=(1,), length_buckets=(8,))


def spec_of(model: Path, **settings: Any) -> EncoderSpec:
    return encoder_spec("tiny", model, EmbeddingSettings(max_batch_texts=4, **settings))


def batch(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded random ids, each row of another length, the first one full."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, len(VOCABULARY), (rows, columns), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, max(1, columns - row) :] = 0
    return ids * mask, mask


@pytest.fixture(scope="session")
def tiny_artefact(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artefact")
    aot.build(spec_of(tiny_model), folder)
    return folder


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (1, 13), (4, MAX_LENGTH), (3, 7)])
def test_aot_takes_any_batch_and_length(tiny_model: Path, tiny_artefact: Path, rows: int, columns: int) -> None:
    spec = spec_of(tiny_model)
    assert aot.mismatch(spec, tiny_artefact) == ""
    encoder = aot.AotEncoder(tiny_artefact)
    assert encoder.padded_shape(rows, columns) == (rows, columns)
    ids, mask = batch(rows, columns)
    torch.testing.assert_close(encoder(ids, mask), EagerEncoder(spec)(ids, mask), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_padding_changes_no_pooling(tmp_path: Path, pooling: str) -> None:
    spec = spec_of(make_tiny_model(tmp_path, pooling=pooling))
    encoder = EagerEncoder(spec)
    ids, mask = batch(1, 6)
    padded = [torch.nn.functional.pad(tensor, (0, 5)) for tensor in (ids, mask)]
    torch.testing.assert_close(encoder(ids, mask), encoder(*padded), atol=1e-6, rtol=1e-5)


def test_jit_compiles_its_buckets_and_nothing_after(tiny_model: Path) -> None:
    spec = spec_of(tiny_model)
    encoder = jit.JitEncoder(spec, SMALL)
    eager = EagerEncoder(spec)
    shapes = encoder.warmup_shapes([])
    assert shapes == [(1, 8), (1, 32), (4, 8), (4, 32)]
    torch._dynamo.utils.counters.clear()
    for rows, columns in shapes:
        encoder(*batch(rows, columns))
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled == len(shapes)
    for rows, columns in ((1, 5), (2, 8), (3, 30), (4, 32)):
        shape = encoder.padded_shape(rows, columns)
        ids, mask = batch(*shape, seed=rows)
        torch.testing.assert_close(encoder(ids, mask), eager(ids, mask), atol=1e-5, rtol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


def test_jit_keeps_its_gains(tiny_model: Path) -> None:
    """Frozen weights are what makes torch.compile worth it on a CPU, and inference_mode what makes freezing happen."""
    jit.JitEncoder(spec_of(tiny_model), SMALL)
    assert torch._inductor.config.freezing
    assert torch._inductor.config.cpp.weight_prepack


def load(spec: EncoderSpec, mode: str, artefact: Path, caplog: pytest.LogCaptureFixture) -> tuple[Encoder, list[str]]:
    with caplog.at_level(logging.INFO, logger="servekit"):
        encoder = load_encoder(spec, SMALL.model_copy(update={"mode": mode}), artefact)
    return encoder, caplog.messages


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("torch", "2.12.0", "torch: built for 2.12.0, here 2.13.0"),
        ("isa", "aarch64 neon", "isa: built for aarch64 neon, here "),
        ("model_sha256", "0" * 64, "model_sha256: built for 000"),
        ("settings", '["cls", true, 32, 4]', 'settings: built for ["cls"'),
    ],
)
def test_an_artefact_that_does_not_fit_falls_back_to_jit(
    tiny_model: Path,
    tiny_artefact: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    key: str,
    value: str,
    reason: str,
) -> None:
    found = json.loads((tiny_artefact / aot.FINGERPRINT_FILE).read_text())
    (tmp_path / aot.FINGERPRINT_FILE).write_text(json.dumps({**found, key: value}))
    (tmp_path / aot.PACKAGE_FILE).write_bytes(b"must not be read")
    encoder, messages = load(spec_of(tiny_model), "aot", tmp_path, caplog)
    assert encoder.mode == "jit"
    assert len(messages) == 1
    assert reason in messages[0]


def test_no_artefact_falls_back_to_jit(tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder, messages = load(spec_of(tiny_model), "aot", tmp_path, caplog)
    assert encoder.mode == "jit"
    assert messages == ["tiny: ahead-of-time artefact not used (there is no encoder.pt2 in the archive); "
                        "compiling in the worker instead"]  # fmt: skip


def test_no_compiler_falls_back_to_eager(tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        encoder, messages = load(spec_of(tiny_model), "aot", tmp_path, caplog)
    assert encoder.mode == "eager"
    assert len(messages) == 2
    assert "no C++ compiler" in messages[1]


def test_a_matching_artefact_is_used_without_a_word(
    tiny_model: Path, tiny_artefact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, messages = load(spec_of(tiny_model), "aot", tiny_artefact, caplog)
    assert (encoder.mode, messages) == ("aot", [])


@pytest.mark.slow
def test_mpnet_compiles_ahead_of_time_too(tmp_path: Path) -> None:
    """The architecture of all-mpnet-base-v2, with its relative positions, at random weights."""
    spec = spec_of(make_tiny_model(tmp_path / "model", family="mpnet"))
    aot.build(spec, tmp_path)
    ids, mask = batch(3, 11)
    torch.testing.assert_close(aot.AotEncoder(tmp_path)(ids, mask), EagerEncoder(spec)(ids, mask), atol=1e-5, rtol=1e-4)


def test_settings_win_over_the_models_files(tiny_model: Path) -> None:
    spec = spec_of(tiny_model, pooling="cls", normalize=False, max_length=16)
    assert (spec.pooling, spec.normalize, spec.max_length) == ("cls", False, 16)
    spec = spec_of(tiny_model)
    assert (spec.pooling, spec.normalize, spec.max_length) == ("mean", True, 32)
