"""What bench_rag computes from what was measured, and how it is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest import bench_rag, rag_sides
from loadtest.bench_rag import COMPILED, EAGER, KIT, KIT_INT8, STOCK, STOCK_BATCHED
from loadtest.benchmark import Row, rows_of, shown
from loadtest.rag_sides import Asked, Indexed
from model_configs.errors import KitError


def values(rows: Sequence[Row]) -> dict[str, float | int | None]:
    return {row.what: row.value for row in rows}


def test_indexing_is_judged_by_the_median_turn_so_that_compiling_once_does_not_count() -> None:
    indexed = {
        EAGER: [Indexed(600, 20.0, 0), Indexed(600, 30.0, 0), Indexed(600, 24.0, 0)],
        KIT: [Indexed(620, 15.5, 0), Indexed(620, 12.4, 0), Indexed(620, 20.0, 0)],
        COMPILED: [Indexed(600, 60.0, 2), Indexed(600, 20.0, 2), Indexed(600, 20.0, 2)],
        KIT_INT8: [Indexed(620, 6.2, 0)] * 3,
    }
    rows = bench_rag.indexing_rows(indexed, "langchain 1")
    found = values(rows)
    assert found[f"indexing, {EAGER}"] == 25.0
    assert found[f"indexing, {KIT}"] == 40.0
    assert found["indexing, against the article's script"] == 1.6
    assert found["indexing, against it under torch.compile"] == pytest.approx(40 / 30)
    assert found["indexing, int8 against the article's script"] == 4.0
    notes = {row.what: row.note for row in rows}
    assert notes[f"indexing, {EAGER}"] == "600 texts; langchain 1"
    assert notes[f"indexing, {KIT}"] == "620 texts"
    assert notes[f"indexing, {COMPILED}"] == "600 texts; 60 s the first time, compiling"


def test_a_query_s_ratio_is_one_of_medians_over_all_turns() -> None:
    asked = {
        EAGER: [Asked([10.0, 12.0], [], 0), Asked([14.0, 99.0], [], 0)],
        KIT: [Asked([2.0, 2.0], [], 0), Asked([2.0, 50.0], [], 0)],
        COMPILED: [Asked([6.0, 6.0], [], 0)] * 2,
        KIT_INT8: [Asked([1.0, 1.0], [], 0)] * 2,
    }
    rows = bench_rag.query_rows("one question", asked)
    found = values(rows)
    assert found[f"one question: {EAGER}"] == 13.0
    assert found["one question: against the article's script"] == 6.5
    assert found["one question: against it under torch.compile"] == 3.0
    assert found["one question: int8 against the article's script"] == 13.0
    assert rows[0].note == "quartiles 10.50 to 77.75, 4 queries"


def test_graphs_are_told_apart_by_what_they_were_compiled_for() -> None:
    indexed = {COMPILED: [Indexed(1, 1.0, 2), Indexed(1, 1.0, 3)], KIT: [Indexed(1, 1.0, 0)]}
    asked = {COMPILED: [Asked([], [], 4), Asked([], [], 5)], KIT: [Asked([], [], 0)]}
    theirs, ours = bench_rag.graph_rows(indexed, asked)
    assert (theirs.value, theirs.note) == (5, "3 for the documents, 2 more for queries")
    assert (ours.value, ours.note) == (0, "0 for the documents, 0 more for queries")


def test_overlap_is_the_share_of_the_reference_s_passages_whatever_their_white_space() -> None:
    reference = [["a  b", "c"], ["d", "e"]]
    assert bench_rag.overlap(reference, [["c", "a b"], ["e\n", "d"]]) == 1.0
    assert bench_rag.overlap(reference, [["a b", "x"], ["e", "f"]]) == 0.5
    assert bench_rag.overlap(reference, [["d", "e"], ["a b", "c"]]) == 0.0


def run(rate: float, p50: float, p95: float | None) -> Any:
    shares = {name: SimpleNamespace(value=value) for name, value in (("p50", p50), ("p95", p95))}
    latencies = {"e2e_ms": SimpleNamespace(percentiles=shares)}
    return SimpleNamespace(summary=SimpleNamespace(answered_per_s=rate, requests=10, latencies=latencies))


def test_servers_are_judged_by_the_median_of_their_turns() -> None:
    runs = {
        STOCK: [run(20.0, 800.0, 900.0), run(30.0, 500.0, 600.0), run(25.0, 600.0, None)],
        KIT: [run(250.0, 60.0, 90.0)] * 3,
        STOCK_BATCHED: [run(50.0, 300.0, 400.0)] * 3,
    }
    rows = bench_rag.http_rows(runs)
    found = values(rows)
    assert found[f"16 clients: {STOCK}"] == 25.0
    assert found[f"16 clients, p50: {STOCK}"] == 600.0
    assert found[f"16 clients, p95: {STOCK}"] == 750.0
    assert found["16 clients: against the article's pipeline"] == 10.0
    assert found["16 clients: against it, a batch in one call"] == 5.0
    assert rows[0].note == "30; turns from 20.0 to 30.0"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (Row("", 6.543, "×"), "6.54×"),
        (Row("", 3.14159, "ms"), "3.14 ms"),
        (Row("", 87.65, "%"), "87.7%"),
        (Row("", 1234.56, "texts/s"), "1234.6 texts/s"),
        (Row("", 0.81234, ""), "0.812"),
        (Row("", 0, ""), "0"),
    ],
)
def test_a_figure_has_the_digits_it_deserves(row: Row, expected: str) -> None:
    assert shown(row) == expected


ROWS = {
    "script": [Row("one question: this kit", 2.5, "ms", "why"), Row("one question: against the article's script", 5.0, "×")],
    "http": [Row("16 clients: against the article's pipeline", 9.0, "×")],
    "quality": [Row("recall@5, fp32, flat", 90.0, "%", "146 questions"), Row("nDCG@10, fp32, flat", 0.8, "")],
}  # fmt: skip


@pytest.fixture
def document() -> dict[str, Any]:
    return {
        "parts": {
            part: {"passport": {}, "measured_on": "this machine", "seconds": 1.0, "rows": [asdict(row) for row in rows]}
            for part, rows in ROWS.items()
        }
    }


def test_a_document_comes_back_as_rows_and_is_written(document: dict[str, Any], tmp_path: Path) -> None:
    bench_rag.write(document, tmp_path)
    read = json.loads(json.dumps(document))
    assert {part: rows_of(read, part) for part in ROWS} == ROWS
    text = (tmp_path / "rag.md").read_text()
    assert text.count("| one question: against the article's script | 5.00× |") == 2
    assert text.count("| one question: this kit | 2.50 ms | why |") == 1
    assert text.index("## script") < text.index("## http") < text.index("## quality")
    assert (tmp_path / "rag.png").stat().st_size > 1000


def test_a_document_of_some_parts_can_be_written(document: dict[str, Any], tmp_path: Path) -> None:
    del document["parts"]["http"]
    bench_rag.write(document, tmp_path)
    assert "## http" not in (tmp_path / "rag.md").read_text()


def test_the_readme_has_the_ratios_and_the_recall(document: dict[str, Any]) -> None:
    assert bench_rag.readme(document).splitlines()[2:] == [
        "| one question: against the article's script | 5.00× |",
        "| 16 clients: against the article's pipeline | 9.00× |",
        "| recall@5, fp32, flat | 90.0% |",
    ]


def test_without_langchain_it_is_said_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(KitError) as raised:
        rag_sides.python(tmp_path)
    assert str(tmp_path) in str(raised.value)
    assert raised.value.hint == "make bench-rag, which installs it first"
