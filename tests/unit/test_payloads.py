"""The kit's own payloads are what their maker writes, and as long as they say."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from loadtest import make_payloads, workload

TEXTS = ("short_queries", "documents", "mixed")


@pytest.fixture(scope="module")
def tokenizer(minilm_weights: Path) -> Tokenizer:
    found = Tokenizer.from_file(str(minilm_weights / "tokenizer.json"))
    found.no_truncation()
    found.no_padding()
    return found


def bodies(name: str) -> list[dict[str, object]]:
    return [json.loads(each.body) for each in workload.load(workload.find(name))]


def tokens(name: str, tokenizer: Tokenizer) -> list[int]:
    """With [CLS] and [SEP], as the model sees them."""
    return [len(tokenizer.encode(str(body["inputs"])).ids) for body in bodies(name)]


def test_the_maker_writes_the_same_files_again(tmp_path: Path) -> None:
    make_payloads.main(tmp_path)
    written = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    assert len(written) == 4
    assert {path: (workload.PAYLOADS / path).read_bytes() for path in written} == written


def test_short_queries_have_8_to_16_tokens(tokenizer: Tokenizer) -> None:
    found = tokens("short_queries", tokenizer)
    assert len(found) >= 256
    assert min(found) >= 8
    assert max(found) <= 16


def test_documents_have_200_to_256_tokens(tokenizer: Tokenizer) -> None:
    found = tokens("documents", tokenizer)
    assert len(found) >= 128
    assert min(found) >= 200
    assert max(found) <= 256


def test_mixed_texts_have_a_long_tail(tokenizer: Tokenizer) -> None:
    found = tokens("mixed", tokenizer)
    assert len(found) >= 256
    middle = statistics.median(found)
    assert min(found) < 12
    assert 16 <= middle <= 48
    assert sum(each > 3 * middle for each in found) >= 0.05 * len(found)
    assert 200 <= max(found) <= 256


@pytest.mark.parametrize("name", ["short_queries", "documents"])
def test_no_text_comes_twice(name: str) -> None:
    found = [str(body) for body in bodies(name)]
    assert len(set(found)) == len(found)


def test_the_questions_for_retrieval_differ_and_ask_for_as_many_passages() -> None:
    found = bodies("rag")
    assert len({str(body["query"]) for body in found}) == len(found) >= 60
    assert {(body["k"], *body) for body in found} == {(5, "query", "k")}


@pytest.mark.parametrize("name", [*TEXTS, "rag"])
def test_payloads_stay_small(name: str) -> None:
    assert sum(len(each.body) for each in workload.load(workload.find(name))) < 200_000
