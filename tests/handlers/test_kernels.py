"""The CPU's kernels against the same model in PyTorch, for every kind of weight, row count and instruction set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from servekit.engines import kernels, llama
from tests.fakes.tiny_llama import make_config

POSITIONS = 48
KINDS = {"f32": (torch.float32, False), "bf16": (torch.bfloat16, False), "int8": (torch.float32, True)}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kernels")
    kernels.build(folder)
    return folder


def make_model(kind: str, slots: int = 9, **changes: Any) -> llama.Llama:
    torch.manual_seed(1)
    weights, int8 = KINDS[kind]
    model = LlamaForCausalLM(make_config(**changes)).to(weights).eval()
    made = llama.from_transformers(model, torch.float32, int8=int8, positions=POSITIONS, device=torch.device("cpu"))
    made.make_cache(slots, POSITIONS)
    return made


@torch.inference_mode()
def agree(model: llama.Llama, folder: Path, threads: int, rows: int) -> None:
    """Some steps of rows at different positions, each against the same rows computed one by one in PyTorch."""
    other = llama.Llama(model.shape, model.embedding, model.layers, model.norm, model.head, (model.cos, model.sin))
    other.make_cache(rows, POSITIONS)
    step = kernels.Step(model, folder, threads, rows)
    generator = torch.Generator().manual_seed(rows)
    lengths = torch.randint(1, 20, (rows,), generator=generator).tolist()
    for slot, length in enumerate(lengths):
        ids = torch.randint(0, model.shape.vocab, (1, length), generator=generator)
        for each in (model, other):
            each(ids, torch.arange(length)[None], torch.tensor([slot]), length)
    for further in range(3):
        last = torch.randint(0, model.shape.vocab, (rows,), generator=generator).tolist()
        positions = [length + further for length in lengths]
        logits = step(last, list(range(rows)), positions).clone()
        alone = step(last[:1], [0], positions[:1])  # writes the same key and value once more
        assert torch.equal(alone[0], logits[0])
        for slot in range(rows):
            place = torch.tensor([[positions[slot]]])
            hidden = other(torch.tensor([[last[slot]]]), place, torch.tensor([slot]), positions[slot] + 1)
            torch.testing.assert_close(logits[slot], other.logits(hidden[0, 0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_pytorchs(library: Path, kind: str, rows: int) -> None:
    agree(make_model(kind), library, 2, rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "head_dim": 32},
        {"tie_word_embeddings": False},
        {"attention_bias": True, "mlp_bias": True},
        {"vocab_size": 261},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    ],
    ids=str,
)
def test_other_shapes_too(library: Path, changes: dict[str, Any]) -> None:
    for kind in ("f32", "int8"):
        agree(make_model(kind, **changes), library, 3, 2)


@pytest.mark.slow
@pytest.mark.parametrize("march", ["x86-64", "x86-64-v3"])
def test_other_instruction_sets_give_the_same(tmp_path: Path, march: str) -> None:
    kernels.build(tmp_path, march)
    for kind in KINDS:
        agree(make_model(kind), tmp_path, 2, 3)


def test_more_rows_than_one_call_takes(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MOST_ROWS", 4)
    agree(make_model("f32"), library, 1, 9)


def test_what_does_not_fit_is_said(library: Path, tmp_path: Path) -> None:
    assert kernels.unfit(make_model("f32", hidden_size=72, num_attention_heads=3, num_key_value_heads=3)) == (
        "a size of 72 is no multiple of 16"
    )
    assert kernels.mismatch(library) == ""
    assert kernels.mismatch(tmp_path) == "there is no kernels.so in the archive"
    (library / "kernels.json").rename(tmp_path / "kernels.json")
    (tmp_path / "kernels.so").write_bytes((library / "kernels.so").read_bytes())
    (tmp_path / "kernels.json").write_text((tmp_path / "kernels.json").read_text().replace("-O3", "-O2"))
    assert "-O2" in kernels.mismatch(tmp_path)
