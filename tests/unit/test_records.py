"""A record is a line and comes back as it was; shards and the merged file hold the same records."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import records
from loadtest.records import ERRORS, MERGED, Phase, Record

SECONDS = st.floats(0, 1e5).map(lambda value: round(value, 6))
MILLISECONDS = st.floats(0, 1e6).map(lambda value: round(value, 3))
COUNTS = st.integers(0, 1 << 40)
RECORDS = st.builds(
    Record,
    seq=COUNTS,
    worker=st.integers(0, 99),
    phase=st.sampled_from(get_args(Phase)),
    payload=st.text(),
    intended_s=SECONDS,
    sent_s=SECONDS,
    e2e_ms=MILLISECONDS,
    waited=st.booleans(),
    ttfb_ms=st.none() | MILLISECONDS,
    ttft_ms=st.none() | MILLISECONDS,
    gaps_ms=st.lists(MILLISECONDS, max_size=5).map(tuple),
    tokens_in=st.none() | COUNTS,
    tokens_out=st.none() | COUNTS,
    tokens_source=st.none() | st.sampled_from(["server", "chunks"]),
    items=COUNTS,
    bytes=COUNTS,
    status=st.none() | st.integers(100, 599),
    error=st.none() | st.sampled_from(sorted(ERRORS)),
    detail=st.none() | st.text(),
)


def record(seq: int, intended_s: float = 0.0, **values: Any) -> Record:
    given: dict[str, Any] = {"worker": 0, "phase": "measure", "payload": "p", "sent_s": intended_s, "e2e_ms": 1.0}
    return Record(seq=seq, intended_s=intended_s, **{**given, **values})


def write_shard(folder: Path, worker: int, lines: list[Record]) -> None:
    (folder / f"requests.{worker}.jsonl").write_text("".join(each.line() + "\n" for each in lines))


@given(found=RECORDS)
def test_a_record_comes_back_from_its_line(found: Record) -> None:
    line = found.line()
    assert "\n" not in line
    assert records.parse(line) == found


def test_a_line_holds_columns_that_have_a_value_and_rounds_times_to_microseconds() -> None:
    found = record(3, 1.23456789, sent_s=1.23456712, e2e_ms=4.56789, gaps_ms=(0.0004, 1.0006))
    assert json.loads(found.line()) == {
        "seq": 3, "worker": 0, "phase": "measure", "payload": "p", "intended_s": 1.234568, "sent_s": 1.234567,
        "e2e_ms": 4.568, "waited": False, "gaps_ms": [0.0, 1.001], "items": 1, "bytes": 0,
    }  # fmt: skip


def test_scheduled_times_count_from_the_intended_one() -> None:
    found = record(0, 2.0, sent_s=2.5, e2e_ms=100.0, ttft_ms=40.0)
    assert found.lag_ms == pytest.approx(500)
    assert found.e2e_sched_ms == pytest.approx(600)
    assert found.ttft_sched_ms == pytest.approx(540)
    assert found.ended_s == pytest.approx(2.6)
    assert record(0).ttft_sched_ms is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ttft_ms": 5.0, "gaps_ms": (10.0, 20.0, 30.0), "tokens_out": 4}, 20.0),
        ({"ttft_ms": 5.0, "gaps_ms": (30.0, 30.0), "tokens_out": 4}, 20.0),  # 4 tokens in 3 chunks
        ({"ttft_ms": 5.0, "gaps_ms": (), "tokens_out": 1}, None),
        ({"ttft_ms": 5.0, "gaps_ms": (10.0,), "tokens_out": None}, None),
        ({"ttft_ms": None, "tokens_out": 4}, None),
    ],
)
def test_time_per_output_token_leaves_out_the_first_one(values: dict[str, Any], expected: float | None) -> None:
    assert record(0, **values).tpot_ms == expected


@pytest.mark.parametrize("line", ["{", '{"seq": 1}', '{"nonsense": 1}', "[]", "7"])
def test_a_line_that_is_no_record_is_an_error(line: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        records.parse(line)


@given(found=st.lists(RECORDS, max_size=12), workers=st.integers(1, 4))
def test_shards_merge_into_one_file_that_reads_the_same(
    found: list[Record], workers: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run")
    found = [dataclasses.replace(each, seq=place) for place, each in enumerate(found)]
    for worker in range(workers):
        write_shard(folder, worker, found[worker::workers])
    expected = sorted(found, key=lambda each: (each.intended_s, each.seq))
    assert records.read(folder) == expected
    records.merge(folder, expected)
    assert [path.name for path in folder.iterdir()] == [MERGED]
    assert records.read(folder) == expected


def test_the_merged_file_is_the_same_whenever_it_is_written(tmp_path: Path) -> None:
    records.merge(tmp_path, [record(0), record(1, 0.5)])
    once = (tmp_path / MERGED).read_bytes()
    records.merge(tmp_path, [record(0), record(1, 0.5)])
    assert (tmp_path / MERGED).read_bytes() == once
    assert gzip.decompress(once).decode().splitlines() == [record(0).line(), record(1, 0.5).line()]


def test_a_folder_without_records_has_none(tmp_path: Path) -> None:
    assert records.read(tmp_path) == []


def test_half_a_line_of_a_worker_that_was_killed_is_left_out(tmp_path: Path) -> None:
    whole = Record(0, 0, "measure", "p", 0.0, 0.0, 5.0)
    (tmp_path / "requests.0.jsonl").write_text(f"{whole.line()}\n{whole.line()[:20]}")
    assert records.read(tmp_path) == [whole]


def test_shards_that_a_crash_left_beside_the_merged_file_are_not_counted_twice(tmp_path: Path) -> None:
    whole = Record(0, 0, "measure", "p", 0.0, 0.0, 5.0)
    records.merge(tmp_path, [whole])
    (tmp_path / "requests.0.jsonl").write_text(f"{whole.line()}\n")
    assert records.read(tmp_path) == [whole]
