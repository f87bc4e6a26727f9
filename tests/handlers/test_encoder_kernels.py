"""The C++ encoder: the model's own vectors, the same bits in any company, on every kind of CPU that this one can be."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from servekit import fingerprint
from servekit.batching import PassLimits
from servekit.encoders import aot, artefacts, families, kernels, load_encoder
from servekit.encoders.eager import EagerEncoder
from servekit.encoders.kernels import KernelsEncoder
from servekit.encoders.module import EncoderSpec, encoder_spec
from servekit.settings import CompileSettings, EmbeddingSettings
from tests.fakes.tiny_model import FAMILIES, MAX_LENGTH, VOCABULARY, make_tiny_model
from tests.handlers.test_encoders import texts_of

LEVELS = [level for level in fingerprint.levels() if level in families.LEVEL_FLAGS]
INT8_LEVELS = [level for level in LEVELS if level in families.INT8_LEVELS]
WIDE = 128
LENGTHS = ((1,), (13,), (MAX_LENGTH,) * 4, (7, 3, 5), tuple(range(1, MAX_LENGTH + 1)), (3,) * 60)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A library for each kind of CPU that this one can be."""
    folder = tmp_path_factory.mktemp("libraries")
    found = {level: folder / f"{level}.so" for level in LEVELS}
    for level, library in found.items():
        kernels.build(library, level)
    return found


@pytest.fixture
def library(libraries: dict[str, Path]) -> Path:
    if not libraries:
        pytest.skip(f"the kernels are made for {', '.join(families.LEVEL_FLAGS)}, and this CPU is none of them")
    return next(iter(libraries.values()))


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def spec_of(model: Path, **compiling: Any) -> EncoderSpec:
    return encoder_spec("wide", model, EmbeddingSettings(compile=CompileSettings(**compiling)))


@pytest.mark.parametrize("level", LEVELS)
def test_every_kind_of_cpu_computes_the_model(
    wide_model: Path, libraries: dict[str, Path], level: str, threads: int
) -> None:
    spec = spec_of(wide_model)
    encoder, eager = KernelsEncoder(spec, libraries[level]), EagerEncoder(spec)
    for lengths in LENGTHS:
        texts = texts_of(*lengths)
        torch.testing.assert_close(encoder(texts), eager(texts), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_pooling(tmp_path: Path, library: Path, family: str, pooling: str) -> None:
    model = make_tiny_model(tmp_path, family=family, pooling=pooling, normalize=pooling == "mean", hidden=WIDE)
    spec = spec_of(model)
    assert families.unfit(spec, LEVELS[0]) == ""
    texts = texts_of(11, MAX_LENGTH, 1, 9)
    torch.testing.assert_close(KernelsEncoder(spec, library)(texts), EagerEncoder(spec)(texts), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("level", INT8_LEVELS)
def test_int8_is_close_to_float32(wide_model: Path, libraries: dict[str, Path], level: str, threads: int) -> None:
    spec = spec_of(wide_model)
    encoder, eager = KernelsEncoder(replace(spec, precision="int8"), libraries[level]), EagerEncoder(spec)
    for lengths in LENGTHS:
        texts = texts_of(*lengths)
        found, exact = encoder(texts), eager(texts)
        assert (found * exact).sum(1).min() > 0.99
        assert not torch.allclose(found, exact, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_text_has_the_same_bits_alone_and_in_any_company(wide_model: Path, library: Path, precision: str) -> None:
    if precision == "int8" and not INT8_LEVELS:
        pytest.skip("this CPU has no VNNI")
    encoder = KernelsEncoder(replace(spec_of(wide_model), precision=precision), library)
    before = torch.get_num_threads()

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(1, MAX_LENGTH), min_size=1, max_size=24), st.integers(1, 4), st.randoms())
    def holds(lengths: list[int], threads: int, random: Any) -> None:
        texts = texts_of(*lengths, seed=random.randrange(1000))
        torch.set_num_threads(1)
        alone = torch.cat([encoder([text]) for text in texts])
        torch.set_num_threads(threads)
        assert torch.equal(encoder(texts), alone)

    try:
        holds()
    finally:
        torch.set_num_threads(before)


def test_all_texts_go_in_one_pass_and_nothing_is_padded(wide_model: Path, library: Path) -> None:
    encoder = KernelsEncoder(spec_of(wide_model), library)
    assert encoder.plan([3, 30, 7], PassLimits(texts=8, tokens=10, padding=0.05)) == [[1, 2, 0]]
    assert [len(group) for group in encoder.plan([5] * 20, PassLimits(texts=8, tokens=10, padding=0.05))] == [8, 8, 4]
    assert encoder.slots([3, 30, 7]) == 40
    assert encoder.compilations() == 0


@pytest.mark.parametrize("texts", [[[len(VOCABULARY)]], [[4, -1]], [[4], [5] * 65]])
def test_what_the_model_has_no_row_for_is_refused(wide_model: Path, library: Path, texts: list[list[int]]) -> None:
    with pytest.raises(IndexError, match=f"the model has {len(VOCABULARY)} and 64"):
        KernelsEncoder(spec_of(wide_model), library)(texts)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model_type": "modernbert"}, "they do not know model_type 'modernbert'"),
        ({"hidden_act": "gelu_new"}, "they have no activation 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "it is no plain encoder with absolute positions"),
        ({"is_decoder": True}, "it is no plain encoder with absolute positions"),
        ({"num_attention_heads": 8}, "its head of 16 is no multiple of 32"),
        ({"intermediate_size": 200}, "its inner size of 200 is no multiple of 32"),
        ({"intermediate_size": None}, "config.json has no intermediate_size"),
        ({"max_position_embeddings": 16}, "it has 16 positions, too few for 32 tokens"),
    ],
)
def test_what_the_kernels_do_not_know_is_said(
    wide_model: Path, tmp_path: Path, changed: dict[str, Any], reason: str
) -> None:
    spec = spec_of(wide_model)
    config = json.loads((wide_model / "config.json").read_text()) | changed
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    assert families.unfit(replace(spec, model_dir=tmp_path), "avx512_vnni") == reason


def test_other_cpus_and_precisions_are_inductors(wide_model: Path) -> None:
    spec = spec_of(wide_model)
    assert families.unfit(spec, "neon") == "they are not made for neon"
    assert families.unfit(replace(spec, precision="int8"), "avx2") == "they have no int8 for avx2"
    assert families.unfit(replace(spec, precision="bf16"), "amx") == "they have no bf16 for amx"
    assert "code of its own" in families.unfit(replace(spec, trust_remote_code=True), "amx")
    assert artefacts.unfit(replace(spec, backend="inductor"), "amx") == "the YAML asks for Inductor's"
    assert [artefacts.unfit(spec, level) for level in families.LEVEL_FLAGS] == [""] * 4


def test_an_archive_holds_kernels_for_cpus_that_this_one_is_not(wide_model: Path, tmp_path: Path) -> None:
    spec = spec_of(wide_model)
    for level in families.LEVEL_FLAGS:
        (tmp_path / level).mkdir()
        artefacts.build(spec, tmp_path / level, level)
        assert (tmp_path / level / fingerprint.LIBRARY_FILE).read_bytes()[:4] == b"\x7fELF"
    found = artefacts.find(spec, tmp_path)
    assert found == tmp_path / fingerprint.levels()[0]
    encoder = load_encoder(spec, CompileSettings(require_artifacts=True), tmp_path)
    assert encoder.mode == "kernels"
    texts = texts_of(9, 4)
    torch.testing.assert_close(encoder(texts), EagerEncoder(spec)(texts), atol=1e-6, rtol=1e-5)


def test_building_again_gives_the_same_library(library: Path, tmp_path: Path) -> None:
    kernels.build(tmp_path / "again.so", LEVELS[0])
    assert (tmp_path / "again.so").read_bytes() == library.read_bytes()


def test_kernels_that_answer_otherwise_are_not_shipped(
    wide_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(kernels, "POOLINGS", {"mean": 2})
    monkeypatch.setattr(aot, "build", lambda spec, package, level: {"made": package.write_bytes(b"by Inductor")})
    with caplog.at_level(logging.WARNING, logger="servekit"):
        artefacts.build(spec_of(wide_model), tmp_path, LEVELS[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json", "encoder.pt2"]
    assert "the kernels answer otherwise than the model" in caplog.text


def test_the_compilers_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(RuntimeError, match=r"false cannot build kernels\.cpp"):
        kernels.build(tmp_path / "encoder.so", "avx2")
