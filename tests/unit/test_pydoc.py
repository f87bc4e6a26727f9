"""pydoc-llama: its text, its tokenizer, a training that takes a second, and what is shipped."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from archives.pydoc.muon import Muon, orthogonal
from archives.pydoc.text import SHORT_PARAGRAPH, Corpus, corpus, paragraphs
from archives.pydoc.tokenizer import BEGIN, END, question_and_answer, save_tokenizer, train_tokenizer
from archives.pydoc.train import HELD_SHARE, Recipe, Report, _share, held_out_loss, train
from model_configs import ROOT
from model_configs.schema import load_model

SHIPPED = ROOT / "archives" / "shipped" / "pydoc-llama"
TINY = Recipe(
    vocabulary=400, hidden=32, layers=2, heads=2, kv_heads=1, feed_forward=64, longest=64, window=64, batch=4
)  # fmt: skip


@pytest.fixture(scope="module")
def text() -> Corpus:
    return corpus()


@pytest.fixture(scope="module")
def tokenizer(text: Corpus) -> Tokenizer:
    return train_tokenizer([section.text for section in text.train], 1024)


@pytest.fixture(scope="module")
def small(text: Corpus) -> Corpus:
    return Corpus(text.train[:12], text.held_out[:2])


@pytest.fixture(scope="module")
def trained(small: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("pydoc") / "model"
    return out, train(out, seed=3, steps=40, recipe=TINY, text=small)


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_the_text_is_the_same_in_every_process(text: Corpus) -> None:
    program = "from archives.pydoc.text import corpus; print(corpus().sha256)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.strip() == text.sha256


def test_no_paragraph_of_any_length_is_in_both_splits_or_twice(text: Corpus) -> None:
    learnt, kept_back = (
        [plain for section in part for plain in map(_plain, section.body) if len(plain) > SHORT_PARAGRAPH]
        for part in (text.train, text.held_out)
    )
    assert len(learnt) > 1000
    assert len(kept_back) > 50
    assert len({*learnt, *kept_back}) == len(learnt) + len(kept_back)


def test_about_six_per_cent_are_held_out(text: Corpus) -> None:
    learnt, kept_back = (sum(len(section.text) for section in part) for part in (text.train, text.held_out))
    assert 0.05 < kept_back / (learnt + kept_back) < 0.15


def test_wrapped_lines_are_joined_and_code_and_lists_are_not() -> None:
    wrapped = (
        'The execution of the "with" statement with one “item” proceeds as\nfollows:  it uses a reference-counting '
        "scheme."
    )
    code = "   with EXPRESSION as TARGET:\n       SUITE\n   pass"
    items = "1. The context expression (the expression given in the with_item) is\n   evaluated to obtain a manager.\n2. Next"
    hyphen = "**CPython implementation detail:** CPython currently uses a reference-\ncounting scheme."
    assert list(paragraphs("\n\n".join((wrapped, code, items, hyphen)))) == [
        'The execution of the "with" statement with one “item” proceeds as follows: it uses a reference-counting scheme.',
        code,
        "1. The context expression (the expression given in the with_item) is evaluated to obtain a manager.\n2. Next",
        "**CPython implementation detail:** CPython currently uses a reference-counting scheme.",
    ]


def test_tables_are_left_out_and_grammar_loses_its_columns() -> None:
    table = "+------+------+\n| a    | b    |\n+------+------+"
    assert list(paragraphs(f"{table}\n\n   with_stmt          ::= a\n   x ::= b")) == ["   with_stmt ::= a\n   x ::= b"]


def test_a_topic_that_repeats_another_adds_nothing() -> None:
    statement = "The with statement\n******************\n\n" + "A long sentence about context managers. " * 4
    other = "\n\n\nThe pass statement\n==================\n\n" + "Another long sentence about nothing at all. " * 4
    source = {"compound": statement + other, "with": statement}
    found = corpus(source)
    assert sorted(section.title for section in (*found.train, *found.held_out)) == [
        "The pass statement",
        "The with statement",
    ]


@given(st.text())
def test_every_text_comes_back_from_its_tokens(tokenizer: Tokenizer, said: str) -> None:
    ids = tokenizer.encode(said, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == said


def test_transformers_reads_the_tokenizer_as_it_was_made(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path, longest=512)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    read = transformers.AutoTokenizer.from_pretrained(tmp_path)
    said = '   The "with" statement\n\n       naïve – 変数 = 1234'
    assert read(said)["input_ids"] == tokenizer.encode(said).ids
    assert read.decode(read(said)["input_ids"], skip_special_tokens=True) == said
    assert (read.bos_token_id, read.eos_token_id, read.pad_token_id) == (0, 1, 2)


def test_a_chat_is_written_as_it_was_learnt(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path, longest=512)
    read = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "What is a tuple?"}]
    asked = read.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert asked + " A sequence." == BEGIN + question_and_answer("What is a tuple?", "A sequence.")
    answered = [*turns, {"role": "assistant", "content": "A sequence."}]
    assert read.apply_chat_template(answered, tokenize=False) == f"{asked} A sequence.{END}\n"


@given(st.sampled_from([(8, 24), (24, 8), (16, 16)]), st.integers(0, 1000))
def test_muon_moves_a_matrix_alike_in_all_its_directions(shape: tuple[int, int], seed: int) -> None:
    matrices = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    # What is nearly singular stays so: five iterations bring 0.03 of the norm and more near to one.
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    matrices = left @ torch.diag_embed(values.clamp(min=0.05 * values.amax())) @ right
    moved = torch.linalg.svdvals(orthogonal(matrices))
    assert moved.shape == (2, min(shape))
    assert 0.4 < moved.min() <= moved.max() < 1.4


def test_muon_refuses_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match="matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def test_a_short_training_lowers_the_loss(trained: tuple[Path, Report], small: Corpus, tmp_path: Path) -> None:
    _, report = trained
    untrained = train(tmp_path, seed=3, steps=1, recipe=TINY, text=small)
    assert report.train_nats < untrained.train_nats - 0.5
    assert report.held_out.nats < untrained.held_out.nats - 0.5


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    trained: tuple[Path, Report], small: Corpus, tmp_path: Path
) -> None:
    out, _ = trained
    for seed in (3, 4):
        train(tmp_path / str(seed), seed=seed, steps=40, recipe=TINY, text=small)
    assert weights(tmp_path / "3") == weights(out) != weights(tmp_path / "4")


def test_where_there_is_no_time_the_rates_fall_at_once(small: Corpus, tmp_path: Path) -> None:
    said: list[str] = []
    report = train(tmp_path, minutes=0.0, say=said.append, recipe=TINY, text=small)
    assert report.steps == 2
    assert said == ["time for 2 steps"]


@given(st.integers(1, 3000))
def test_steps_that_time_has_found_give_the_same_rates_when_they_are_named(held: int) -> None:
    steps = math.ceil(held / HELD_SHARE)
    assert [_share(step, steps) for step in range(held)] == [_share(step, None) for step in range(held)]
    assert 0 < _share(steps - 1, steps) <= _share(held, steps) <= 1


def test_what_was_measured_is_what_was_written(trained: tuple[Path, Report], small: Corpus) -> None:
    out, report = trained
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    found = held_out_loss(model, Tokenizer.from_file(str(out / "tokenizer.json")), small.held_out)
    assert found.nats == pytest.approx(report.held_out.nats, rel=1e-5)
    assert json.loads((out / "training.json").read_text()) == json.loads(json.dumps(report.document()))


def test_a_longer_text_is_measured_in_pieces(trained: tuple[Path, Report], small: Corpus) -> None:
    """Every token but the first is predicted once, wherever the pieces end."""
    out, _ = trained
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    torch.nn.init.zeros_(model.model.embed_tokens.weight)
    model.tie_weights()
    found = held_out_loss(model, tokenizer, small.held_out)
    assert found.perplexity == pytest.approx(tokenizer.get_vocab_size(), rel=1e-4)
    tokens = sum(len(tokenizer.encode(section.text).ids) for section in small.held_out)
    in_bytes = sum(len(section.text.encode()) for section in small.held_out)
    assert found.bits_per_byte == pytest.approx(tokens * torch.tensor(400.0).log2().item() / in_bytes, rel=1e-4)


def test_what_is_shipped_is_small_and_holds_no_pickle() -> None:
    files = {path.name: path.stat().st_size for path in SHIPPED.iterdir()}
    assert set(files) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    }
    assert sum(files.values()) <= 4_000_000
    assert load_model("pydoc-llama").model.assets.path == str(SHIPPED.relative_to(ROOT))


def test_what_is_shipped_is_computed_in_float32_and_was_trained_by_the_recipe_of_today() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(SHIPPED)
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    noted = json.loads((SHIPPED / "training.json").read_text())
    assert Recipe(**noted["recipe"]) == Recipe()
    assert sum(parameter.numel() for parameter in model.parameters()) == noted["parameters"]


def test_what_is_shipped_is_as_good_as_its_training_says(text: Corpus) -> None:
    noted = json.loads((SHIPPED / "training.json").read_text())
    if noted["text_sha256"] != text.sha256:
        pytest.skip(f"trained on the topics of Python {noted['python']}; this Python's are others")
    model = transformers.AutoModelForCausalLM.from_pretrained(SHIPPED)
    found = held_out_loss(model, Tokenizer.from_file(str(SHIPPED / "tokenizer.json")), text.held_out)
    assert found.perplexity == pytest.approx(noted["held_out"]["perplexity"], rel=0.01)


def test_what_is_shipped_knows_python() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(SHIPPED)
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHIPPED)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the with statement?"}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = asked["input_ids"] if hasattr(asked, "keys") else asked
    answer = model.generate(ids, max_new_tokens=60, do_sample=False)[0, ids.shape[1] :]
    said = tokenizer.decode(answer, skip_special_tokens=True)
    assert "context manager" in said


def _plain(paragraph: str) -> str:
    return " ".join(paragraph.split())
