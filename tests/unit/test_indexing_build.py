"""An index as a whole, by an encoder that counts words: incremental, killed at every pass, found again, golden."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from archives import indexing
from archives.indexing.build import CANDIDATES, Built, build_index, golden_candidates, golden_request
from archives.indexing.nearest import make_index
from archives.indexing.versions import building, current
from model_configs import ROOT
from model_configs.errors import Failed, KitError
from model_configs.schema import AnyModelConfig, Index, load_model
from servekit.golden import GOLDEN_FILE, Golden
from servekit.retrieval import index as serving
from servekit.retrieval.passages import Passage
from servekit.vectors import Vectors, normalised

D = 256
PASS_TEXTS = 4
ENCODER = {"model_sha256": "m", "pooling": "mean"}


def vectors_of(texts: Sequence[str]) -> Vectors:
    """A bag of words: texts that share words lie near."""
    vectors = np.zeros((len(texts), D), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            vectors[row, int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % D] += 1
    return vectors


class Words:
    """embed, pass by pass, the longest texts first as the real one does; what it was asked for, and where it dies."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.texts: list[str] = []
        self.dies_at = dies_at

    def __call__(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        for number, start in enumerate(range(0, len(order), PASS_TEXTS)):
            if number == self.dies_at:
                os._exit(9)
            places = order[start : start + PASS_TEXTS]
            chosen = [texts[place] for place in places]
            self.texts += chosen
            yield places, vectors_of(chosen)


def config(**given: Any) -> AnyModelConfig:
    return load_model("pydoc-rag").model_copy(update={"index": Index(**{"chunk_size": 60, **given})})


def write_docs(folder: Path, count: int = 12) -> Path:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        words = [f"w{number}x{place}" for place in range(30)]
        (folder / f"d{number:02}.md").write_text(f"# Title {number}\n\n{' '.join(words)}\n")
    return folder


def build(folder: Path, *sources: Path | str, embed: Words | None = None, **given: Any) -> Built:
    options: dict[str, Any] = {"config": config(), "say": print, "spec_fingerprint": ENCODER, "kind": None, **given}
    return build_index(
        options["config"],
        [str(source) for source in sources],
        depth=2,
        embed=embed or Words(),
        spec_fingerprint=options["spec_fingerprint"],
        dimension=D,
        folder=folder,
        kind=options["kind"],
        say=options["say"],
        progress=options.get("progress", lambda done, of: None),
    )


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    return write_docs(tmp_path / "docs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "indexes" / "pydoc-rag"


def test_an_index_is_what_the_handler_loads(docs: Path, folder: Path) -> None:
    built = build(folder, docs)
    assert built.folder == current(folder) == folder / built.folder.name
    assert sorted(path.name for path in built.folder.iterdir()) == [
        GOLDEN_FILE,
        "index.json",
        "passages.jsonl",
        "vectors.faiss",
    ]
    index = serving.Index(built.folder, ENCODER)
    assert index.info == built.info
    assert (index.info.kind, index.info.recall, index.info.dimension) == ("flat", 1.0, D)
    assert index.info.splitter == {"chunk_size": 60, "chunk_overlap": 0}
    text = (docs / "d03.md").read_text()
    assert index.info.documents["d03.md"] == hashlib.sha256(text.encode()).hexdigest()
    assert len(index.info.documents) == 12
    passages = index.passages
    assert [(each.source, each.start) for each in passages] == sorted((each.source, each.start) for each in passages)
    assert all((docs / p.source).read_text()[p.start :].startswith(p.text) for p in passages)
    (hits,) = index.search(vectors_of(["w3x1 w3x2 w3x3 w3x4"]), [1])
    assert passages[hits[0].place].source == "d03.md"
    for passage, (hit,) in zip(
        passages, index.search(vectors_of([p.text for p in passages]), [1] * len(passages)), strict=True
    ):
        assert passages[hit.place].text == passage.text
        assert hit.score == pytest.approx(1, abs=1e-5)


def test_passages_stand_in_order_of_source_and_start(tmp_path: Path, folder: Path) -> None:
    for name in ("b/z.txt", "b.txt", "a.txt"):
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(" ".join(f"{name}{place}" for place in range(40)))
    built = build(folder, tmp_path / "docs" / "b", tmp_path / "docs")
    found = [Passage(**json.loads(line)) for line in (built.folder / "passages.jsonl").read_bytes().splitlines()]
    assert list(dict.fromkeys(each.source for each in found)) == ["a.txt", "b.txt", "b/z.txt", "z.txt"]
    starts = [each.start for each in found if each.source == "z.txt"]
    assert starts == sorted(starts)
    assert len(starts) > 3


def test_any_letters_come_back_from_the_files(tmp_path: Path, folder: Path) -> None:
    text = '漢字 é \u2028 line separator \x85 next\u200b \U0001f600 "quotes" \\ \x1c'
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    built = build(folder, tmp_path / "a.txt")
    assert [each.text for each in serving.Index(built.folder, ENCODER).passages] == [text.strip()]
    assert "漢字".encode() in (built.folder / "passages.jsonl").read_bytes()


def test_what_has_not_changed_is_not_embedded_again(docs: Path, folder: Path) -> None:
    first = Words()
    built = build(folder, docs, embed=first)
    assert built.embedded == built.info.passages
    assert len(first.texts) == len(set(first.texts))
    again = Words()
    same = build(folder, docs, embed=again)
    assert (same.folder, same.embedded, again.texts) == (built.folder, 0, [])

    path = docs / "d05.md"
    path.write_text(path.read_text().replace("w5x0", "changed"))
    third = Words()
    changed = build(folder, docs, embed=third)
    assert changed.folder != built.folder
    assert changed.embedded == 1
    assert all("changed" in text for text in third.texts)
    assert current(folder) == changed.folder
    assert built.folder.is_dir()  # the one before


def test_a_title_alone_is_a_new_version_and_nothing_to_embed(docs: Path, folder: Path, tmp_path: Path) -> None:
    (docs / "page.html").write_text("<title>Old</title><p>words of a page</p>")
    old = build(folder, docs)
    (docs / "page.html").write_text("<title>New</title><p>words of a page</p>")
    new = build(folder, docs)
    assert (new.folder != old.folder, new.embedded) == (True, 0)


def test_equal_texts_are_embedded_once_and_stand_everywhere(tmp_path: Path, folder: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("the same words")
    words = Words()
    built = build(folder, *(tmp_path / f"{name}.txt" for name in "abc"), embed=words)
    assert (words.texts, built.embedded, built.info.passages) == (["the same words"], 1, 3)
    golden = Golden.parse(
        (built.folder / GOLDEN_FILE).read_bytes()
    )  # no query is beyond doubt; there is one all the same
    assert golden.body["query"] == ["the same words"]
    (hits,) = serving.Index(built.folder, ENCODER).search(vectors_of(["the same words"]), [1])
    assert golden.expected == [{"source": f"{'abc'[hits[0].place]}.txt", "start": 0}]


def test_another_encoder_has_vectors_of_its_own(docs: Path, folder: Path) -> None:
    build(folder, docs)
    words = Words()
    other = build(folder, docs, embed=words, spec_fingerprint={**ENCODER, "pooling": "cls"})
    assert other.embedded == other.info.passages
    with pytest.raises(serving.IndexMismatch, match="pooling"):
        serving.Index(other.folder, ENCODER)
    assert build(folder, docs).embedded == 0  # back again
    build(folder, docs, spec_fingerprint={**ENCODER, "pooling": "max"})
    assert len(list((folder / ".vectors").iterdir())) == 2


def test_vectors_of_texts_that_are_gone_are_forgotten_when_they_are_most(docs: Path, folder: Path) -> None:
    built = build(folder, docs)
    (file,) = folder.glob(".vectors/*/*")
    size = file.stat().st_size
    (docs / "d00.md").unlink()
    build(folder, docs)
    assert file.stat().st_size >= size  # one of twelve is no reason
    for number in range(1, 10):
        (docs / f"d{number:02}.md").unlink()
    few = build(folder, docs)
    assert file.stat().st_size < size / 2
    assert few.embedded == 0
    write_docs(docs)
    assert 0 < build(folder, docs).embedded < built.info.passages


def test_progress_counts_what_is_to_embed(docs: Path, folder: Path) -> None:
    steps: list[tuple[int, int]] = []
    words = Words()
    build(folder, docs, embed=words, progress=lambda done, of: steps.append((done, of)))
    count = len(words.texts)
    assert steps[0] == (0, count)
    assert steps[-1] == (count, count)
    assert [done for done, _ in steps] == [*range(0, count, PASS_TEXTS), count]
    steps.clear()
    build(folder, docs, progress=lambda done, of: steps.append((done, of)))
    assert steps == [(0, 0)]


def test_a_row_and_a_document_tell_of_it(docs: Path, folder: Path) -> None:
    built = build(folder, docs, kind="hnsw")
    row, document = built.row(), built.document()
    assert (row["model"], row["kind"], row["documents"], row["recall@10"]) == ("pydoc-rag", "hnsw", 12, "1.000")
    assert json.loads(json.dumps(document)) == document
    assert document["passages"] == document["embedded"] == built.info.passages > 12
    assert document["size_bytes"] == sum(path.stat().st_size for path in built.folder.iterdir())
    assert document["seconds"] > 0
    assert (document["recall_at_10"], document["folder"]) == (built.info.recall, str(built.folder))


def test_the_kind_is_the_caller_s_or_the_yaml_s_or_goes_with_the_number(docs: Path, folder: Path) -> None:
    assert build(folder, docs).info.kind == "flat"
    assert build(folder, docs, config=config(kind="ivf")).info.kind == "ivf"
    built = build(folder, docs, config=config(kind="ivf"), kind="hnsw")
    assert built.info.kind == "hnsw"
    assert 0.9 < (built.info.recall or 0) <= 1
    index = serving.Index(built.folder, ENCODER)
    (hits,) = index.search(vectors_of(["w3x1 w3x2 w3x3 w3x4"]), [1])
    assert index.passages[hits[0].place].source == "d03.md"


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_the_golden_request_is_answered_by_the_index(docs: Path, folder: Path, kind: str) -> None:
    built = build(folder, docs, kind=kind)
    golden = Golden.parse((built.folder / GOLDEN_FILE).read_bytes())
    queries: Any = golden.body["query"]
    assert golden.body == {"query": queries, "k": 1, "prompt": False}
    assert (golden.kind, golden.tolerance, len(queries)) == ("passages", 0.0, 3)
    index = serving.Index(built.folder, ENCODER)
    found = [index.passages[hits[0].place] for hits in index.search(vectors_of(queries), [1] * 3)]
    assert golden.expected == [{"source": each.source, "start": each.start} for each in found]
    assert all(each.text.startswith(query) for each, query in zip(found, queries, strict=True))
    assert len({each["source"] for each in golden.expected}) == 3
    reply = [{"passages": [{"source": each.source, "start": each.start}]} for each in found]
    assert golden.verdict(json.dumps(reply).encode()) == ""
    assert "expected the passage" in golden.verdict(json.dumps(reply[::-1]).encode())


def test_golden_queries_leave_passages_out_that_others_are_as_near_to() -> None:
    texts = ["same words here", "alone one", "same words here", "alone two", "same words here"]
    passages = [Passage(f"{number}", "", 0, text) for number, text in enumerate(texts)]
    vectors = normalised(vectors_of(texts))
    asked = golden_candidates(passages)
    golden = golden_request(passages, vectors, asked, vectors_of(asked), make_index(vectors, "flat", 1))
    assert golden.body["query"] == ["alone one", "alone two"]
    assert golden.expected == [{"source": "1", "start": 0}, {"source": "3", "start": 0}]


def test_golden_queries_leave_passages_out_that_an_approximate_index_misses() -> None:
    texts = ["one a", "two b", "three c", "four d"]
    passages = [Passage(text, "", 0, text) for text in texts]
    vectors = normalised(vectors_of(texts))
    partly = faiss.IndexIDMap(faiss.IndexFlatIP(D))
    partly.add_with_ids(vectors[[0, 3]], np.array([0, 3]))
    golden = golden_request(passages, vectors, texts, vectors, partly)
    assert golden.body["query"] == ["one a", "four d"]
    assert [each["source"] for each in golden.expected] == ["one a", "four d"]


def test_golden_queries_are_no_passages_that_were_embedded(docs: Path, folder: Path) -> None:
    words = Words()
    built = build(folder, docs, embed=words, config=config(chunk_size=1000, kind="flat"))
    assert built.info.passages == 12
    assert len(words.texts) > 12  # a query is the beginning of a passage, and a text of its own
    assert built.embedded == 12


def test_golden_queries_are_beginnings_from_all_over_the_index() -> None:
    passages = [Passage("s", "", number, f"{number} " + "w" * 300) for number in range(1000)]
    found = golden_candidates(passages)
    assert len(found) == CANDIDATES
    assert found[0] == "0 " + "w" * 198
    assert found[-1].startswith("999 ")
    assert golden_candidates(passages[:1]) == ["0 " + "w" * 198]
    rules = [Passage("s", "", 0, "=" * 300 + " word"), Passage("s", "", 400, "words")]
    assert golden_candidates(rules) == ["words"]
    assert golden_candidates(rules[:1]) == ["=" * 200]


def test_nothing_to_index_is_an_error_and_changes_nothing(docs: Path, folder: Path, tmp_path: Path) -> None:
    built = build(folder, docs)
    (tmp_path / "rules.md").write_text("=====\n\n-----\n")
    for sources in ((), (tmp_path / "rules.md",)):
        with pytest.raises(KitError, match="pydoc-rag: there is no text to index"):
            build(folder, *sources)
    with pytest.raises(KitError, match="does not exist"):
        build(folder, docs, tmp_path / "nowhere")
    assert current(folder) == built.folder
    assert not list(folder.glob(".building-*"))


def test_an_encoder_that_gives_no_numbers_is_told_of(docs: Path, folder: Path) -> None:
    class Broken(Words):
        def __call__(self, texts: Sequence[str]) -> Iterator[tuple[list[int], Vectors]]:
            for places, vectors in super().__call__(texts):
                vectors[0, 0] = np.nan
                yield places, vectors

    with pytest.raises(Failed, match="gives no numbers"):
        build(folder, docs, embed=Broken())
    assert current(folder) is None
    assert build(folder, docs).embedded > 0  # nothing of it was kept


def test_two_builds_at_once_are_one_too_many(docs: Path, folder: Path) -> None:
    words = Words()
    with building(folder, "pydoc-rag"), pytest.raises(KitError, match="being built by another process"):
        build(folder, docs, embed=words)
    assert words.texts == []


def test_an_archive_takes_the_current_version(docs: Path, tmp_path: Path) -> None:
    with pytest.raises(KitError, match="pydoc-rag has no index") as caught:
        indexing.required(config(), tmp_path)
    assert caught.value.hint == "kit.py index pydoc-rag"
    built = build(indexing.index_folder(config(), tmp_path), docs)
    assert indexing.required(config(), tmp_path) == built.folder


def test_a_build_that_is_killed_goes_on_where_it_was(docs: Path, folder: Path, tmp_path: Path) -> None:
    """Killed in one process after another, each time at some pass, until one comes to its end."""
    old = build(folder, docs)
    changed = write_docs(tmp_path / "changed", 20)
    log = tmp_path / "log"
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(changed), str(folder), str(log)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    runs = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(runs) > 3
    assert all(run["status"] == 9 and run["current"] == old.folder.name for run in runs)
    assert all(run["readable"] for run in runs)

    words = Words()
    built = build(folder, changed, embed=words)
    missing = runs[0]["missing"]
    # Of each run but the pass that it died in is kept, so all that is left is what no run came to.
    assert len(words.texts) == missing - PASS_TEXTS * sum(run["dies_at"] for run in runs)
    assert 0 < built.embedded <= len(words.texts) < missing
    assert current(folder) == built.folder
    assert not list(folder.glob(".building-*"))
    whole = build(tmp_path / "elsewhere", changed)
    assert whole.folder.name == built.folder.name
    for name in ("vectors.faiss", "golden.json", "passages.jsonl"):
        assert (whole.folder / name).read_bytes() == (built.folder / name).read_bytes()


KILLED = """
import json, os, random, sys
from pathlib import Path
from archives.indexing.versions import current
from servekit.retrieval import index as serving
from tests.unit.test_indexing_build import ENCODER, PASS_TEXTS, Words, build

docs, folder, log = map(Path, sys.argv[1:])
random.seed(0)
steps = []
left = None
while left is None or left > 4 * PASS_TEXTS:
    dies_at = random.randrange(3)
    read, write = os.pipe()
    child = os.fork()  # far quicker than an interpreter for each
    if child == 0:
        tell = lambda done, of: os.write(write, b"%d\\n" % of) if done == 0 else None
        build(folder, docs, embed=Words(dies_at), progress=tell)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        missing = int(told.read())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = missing - PASS_TEXTS * dies_at
    found = current(folder)
    lines = (found / "passages.jsonl").read_bytes().splitlines()
    readable = len(lines) == serving.read_info(found).passages
    with log.open("a") as file:
        file.write(json.dumps({"missing": missing, "dies_at": dies_at, "status": status, "current": found.name, "readable": readable}) + "\\n")
"""
