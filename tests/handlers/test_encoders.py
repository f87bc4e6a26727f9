"""The three modes compute the same, and each says when it cannot be had."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo

from servekit import fingerprint
from servekit.batching import PassLimits
from servekit.embedder import TextEmbedder
from servekit.encoders import Encoder, aot, artefacts, jit, load_encoder
from servekit.encoders.eager import EagerEncoder
from servekit.encoders.module import EncoderSpec, PooledEncoder, encoder_spec, load_module
from servekit.encoders.packed import PackedEncoder, first_position
from servekit.encoders.rows import Ids, pack, pad
from servekit.errors import UnusableArtefact
from servekit.settings import CompileSettings, EmbeddingSettings
from tests.fakes.tiny_model import MAX_LENGTH, VOCABULARY, make_tiny_model

LEVEL = fingerprint.levels()[0]
SMALL = CompileSettings(mode="jit", batch_buckets=(1,), length_buckets=(8,))


def spec_of(model: Path, **settings: Any) -> EncoderSpec:
    return encoder_spec("tiny", model, EmbeddingSettings(max_batch_texts=4, **settings))


def texts_of(*lengths: int, seed: int = 0) -> list[list[int]]:
    """Random token ids of texts of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, len(VOCABULARY), (length,), generator=generator).tolist() for length in lengths]


@pytest.fixture(scope="session")
def tiny_artefact(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of artefacts, with one in it: for this machine."""
    return built(spec_of(tiny_model), tmp_path_factory.mktemp("artefacts"))


def built(spec: EncoderSpec, root: Path) -> Path:
    folder = root / LEVEL
    folder.mkdir()
    artefacts.build(spec, folder, LEVEL)
    return root


@pytest.mark.parametrize("lengths", [(2,), (13,), (MAX_LENGTH,) * 4, (7, 3, 5), (1,), (MAX_LENGTH, 1, 2, 1)])
def test_aot_takes_any_batch_and_length(tiny_model: Path, tiny_artefact: Path, lengths: tuple[int, ...]) -> None:
    spec = spec_of(tiny_model)
    found = artefacts.find(spec, tiny_artefact)
    assert found == tiny_artefact / LEVEL
    encoder = aot.AotEncoder(found)
    texts = texts_of(*lengths)
    torch.testing.assert_close(encoder(texts), EagerEncoder(spec)(texts), atol=1e-5, rtol=1e-4)


def test_aot_computes_nothing_on_padding(tiny_artefact: Path) -> None:
    encoder = aot.AotEncoder(tiny_artefact / LEVEL)
    assert encoder.slots([9, 2, 4]) == 15
    assert encoder.plan([9, 2, 4], PassLimits(texts=8, tokens=100, padding=0.05)) == [[0, 2, 1]]
    assert encoder.plan([9, 2, 4], PassLimits(texts=8, tokens=13, padding=0.05)) == [[0, 2], [1]]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_packed_texts_never_see_each_other(tmp_path: Path, pooling: str, family: str) -> None:
    spec = spec_of(make_tiny_model(tmp_path, pooling=pooling, family=family))
    module = load_module(spec)
    alone = [module(*pad([text], spec.pad_id))[0] for text in texts_of(5, 30, 1, 11)]
    packed = PackedEncoder(module)
    vectors = packed(*pack(texts_of(5, 30, 1, 11), first_position(packed.encoder)))
    torch.testing.assert_close(vectors, torch.stack(alone), atol=1e-5, rtol=1e-4)


def test_a_model_with_attention_of_its_own_is_padded(tmp_path: Path) -> None:
    spec = spec_of(make_tiny_model(tmp_path, family="mpnet"))
    with pytest.raises(TypeError, match="MPNetModel cannot be packed"):
        PackedEncoder(load_module(spec))
    module, layout = aot.module_and_layout(spec)
    assert (layout["packed"], layout["pad_id"]) == (False, spec.pad_id)
    assert isinstance(module, PooledEncoder)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_padding_changes_no_pooling(tmp_path: Path, pooling: str) -> None:
    spec = spec_of(make_tiny_model(tmp_path, pooling=pooling))
    encoder = EagerEncoder(spec)
    short, long = texts_of(6, 11)
    torch.testing.assert_close(encoder([short])[0], encoder([short, long])[0], atol=1e-6, rtol=1e-5)


def test_jit_compiles_its_buckets_and_nothing_after(tiny_model: Path) -> None:
    spec = spec_of(tiny_model)
    torch._dynamo.utils.counters.clear()
    encoder = jit.JitEncoder(spec, SMALL)
    eager = EagerEncoder(spec)
    shapes = encoder.warmup_shapes([])
    assert shapes == [(1, 8), (1, 32), (4, 8), (4, 32)]
    assert encoder.compilations() == 0
    for rows, columns in shapes:
        encoder(texts_of(*[columns] * rows))
    assert encoder.compilations() == len(shapes)
    for lengths in ((5,), (8, 3), (30, 30, 7), (32, 1, 1, 1)):
        texts = texts_of(*lengths, seed=len(lengths))
        torch.testing.assert_close(encoder(texts), eager(texts), atol=1e-5, rtol=1e-4)
    assert encoder.compilations() == len(shapes)
    assert encoder.slots((8, 3)) == 4 * 8


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
        ("cpu", "neon", "cpu: built for neon, here "),
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
    found = json.loads((tiny_artefact / LEVEL / fingerprint.FINGERPRINT_FILE).read_text())
    (tmp_path / LEVEL).mkdir()
    (tmp_path / LEVEL / fingerprint.FINGERPRINT_FILE).write_text(json.dumps({**found, key: value}))
    (tmp_path / LEVEL / fingerprint.PACKAGE_FILE).write_bytes(b"must not be read")
    encoder, messages = load(spec_of(tiny_model), "aot", tmp_path, caplog)
    assert encoder.mode == "jit"
    assert len(messages) == 1
    assert reason in messages[0]
    required = CompileSettings(require_artifacts=True)
    with pytest.raises(UnusableArtefact, match="tiny: handler.compile.require_artifacts: ") as raised:
        load_encoder(spec_of(tiny_model), required, tmp_path)
    assert reason in str(raised.value)


def test_an_artefact_for_another_cpu_is_not_loaded(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = next(level for level in fingerprint.LEVELS if level not in fingerprint.levels())
    (tmp_path / other).mkdir()
    for name in (fingerprint.PACKAGE_FILE, fingerprint.LIBRARY_FILE, fingerprint.FINGERPRINT_FILE):
        (tmp_path / other / name).write_bytes(b"must not be read")
    encoder, messages = load(spec_of(tiny_model), "aot", tmp_path, caplog)
    assert encoder.mode == "jit"
    assert f"cpu: built for {other}, here {LEVEL}" in messages[0]


def test_the_best_of_several_artefacts_is_taken(
    tiny_model: Path,
    tiny_artefact: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = spec_of(tiny_model)
    for level in ("avx2", LEVEL):
        shutil.copytree(tiny_artefact / LEVEL, tmp_path / level)
        found = json.loads((tmp_path / level / fingerprint.FINGERPRINT_FILE).read_text())
        (tmp_path / level / fingerprint.FINGERPRINT_FILE).write_text(json.dumps({**found, "cpu": level}))
    monkeypatch.setattr(fingerprint, "levels", lambda: [LEVEL, "avx2"])
    assert artefacts.find(spec, tmp_path) == tmp_path / LEVEL
    monkeypatch.setattr(fingerprint, "levels", lambda: ["avx2"])
    assert artefacts.find(spec, tmp_path) == tmp_path / "avx2"
    monkeypatch.setattr(fingerprint, "levels", lambda: ["amx", "avx2"])
    with caplog.at_level(logging.INFO, logger="servekit"):
        assert artefacts.find(spec, tmp_path) == tmp_path / "avx2"
    assert caplog.messages == ["tiny: the artefact is for avx2, this CPU is amx: slower than need be"]


def test_no_artefact_falls_back_to_jit(tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder, messages = load(spec_of(tiny_model), "aot", tmp_path, caplog)
    assert encoder.mode == "jit"
    assert messages == [f"tiny: ahead-of-time artefact not used (cpu: none in the archive, here {LEVEL}); "
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
    encoder = aot.AotEncoder(built(spec, tmp_path) / LEVEL)
    texts = texts_of(11, 4, 9)
    torch.testing.assert_close(encoder(texts), EagerEncoder(spec)(texts), atol=1e-5, rtol=1e-4)
    assert encoder.slots([11, 4, 9]) == 33


@pytest.mark.slow
def test_bf16_is_close_to_float32(tiny_model: Path, tmp_path: Path) -> None:
    narrow = spec_of(tiny_model, compile=CompileSettings(precision="bf16"))
    encoder = aot.AotEncoder(built(narrow, tmp_path) / LEVEL)
    texts = texts_of(11, 4, 9)
    found, exact = encoder(texts), EagerEncoder(spec_of(tiny_model))(texts)
    assert (found * exact).sum(1).min() > 0.999
    assert not torch.allclose(found, exact, atol=1e-6)


def test_settings_win_over_the_models_files(tiny_model: Path) -> None:
    spec = spec_of(tiny_model, pooling="cls", normalize=False, max_length=16)
    assert (spec.pooling, spec.normalize, spec.max_length) == ("cls", False, 16)
    spec = spec_of(tiny_model)
    assert (spec.pooling, spec.normalize, spec.max_length) == ("mean", True, 32)


def test_warm_up_runs_no_more_than_a_pass_may_hold(tiny_model: Path, tmp_path: Path) -> None:
    """A pass of 32 texts of 256 tokens would take memory that no request ever asks for."""
    settings = EmbeddingSettings.model_validate(
        {
            "compile": {"mode": "eager"},
            "warmup": {"batch_sizes": [1, 8], "lengths": [8, MAX_LENGTH]},
            "max_pass_tokens": 64,
        }
    )
    embedder = TextEmbedder("tiny", tiny_model, settings, tmp_path)
    shapes = []
    encode = embedder.encoder

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(encode, name)

        def __call__(self, texts: Ids) -> torch.Tensor:
            shapes.append((len(texts), len(texts[0])))
            return encode(texts)

    embedder.encoder = Watched()
    assert embedder.warm_up() > 0
    assert shapes[:-1] == [(1, 8), (1, MAX_LENGTH), (8, 8), (2, MAX_LENGTH)]
    assert shapes[-1] in ((8, 8), (2, MAX_LENGTH))
