"""What a record says, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.answers import Answer
from deploy.mirror_record import OLDER_RECORD, RECORD, Copy, record_line
from deploy.mirror_report import read_record, rows, summarise
from model_configs.errors import Invalid


def line(ours: Any, theirs: Any, status: int | None = 200, ms: float = 10) -> dict[str, Any]:
    first = Answer(200, "application/json", json.dumps(ours).encode(), ms / 1e3)
    second = Answer(status, "application/json", json.dumps(theirs).encode(), 2 * ms / 1e3, "" if status else "refused")
    return record_line(Copy("k", "POST", "/p", {}, b""), first, second, bodies=False)


def test_nothing_compared_is_no_result() -> None:
    with pytest.raises(Invalid, match=r"no pair of answers was compared \(0 pairs, 7 left out\)"):
        summarise([{"time": "", "left_out": 3}, {"time": "", "left_out": 4}])


def test_figures() -> None:
    lines = [line([0.6, 0.8], [0.6, 0.8], ms=each) for each in range(10, 20)]
    lines += [line([0.6, 0.8], [0.6001, 0.7999]), line([0.6, 0.8], [0.8, 0.6])]
    lines += [line([{"label": "a", "score": 1}], [{"label": "b", "score": 1}]), line({"x": 1}, {"x": 1}, None)]
    lines += [{"time": "", "left_out": 2}]
    found = summarise(lines, 0.999)
    assert (found.pairs, found.compared, found.different, found.left_out) == (14, 14, 3, 2)
    assert found.share == pytest.approx(3 / 14)
    document = found.document
    assert document["status"] == {"200/200": 13, "200/none": 1}
    vectors = document["kinds"]["vectors"]
    assert (vectors["pairs"], vectors["cosine_min"]) == (12, pytest.approx(0.96))
    assert vectors["largest_difference"] == pytest.approx(0.2)
    assert document["kinds"]["labels"]["labels_agree_share"] == 0
    assert document["latency_ms"]["mirror"]["p50"] == pytest.approx(2 * document["latency_ms"]["primary"]["p50"])
    assert len(document["examples"]) == 3
    assert summarise(lines, 0.9).different == 2
    json.dumps(document)
    told = {row["mirror"]: row[""] for row in rows(found)}
    assert told["different"] == "3 (21.43%)"
    assert told["status, first/mirror: 200/none"] == 1
    assert "cosine min 0.96" in told["vectors"]


def test_too_large_ones_are_told_and_not_judged() -> None:
    large = record_line(
        Copy("k", "POST", "/p", {}, b""),
        Answer(200, "", b"", 0.1, "too many"),
        Answer(200, "", b"x", 0.1),
        bodies=False,
    )
    found = summarise([large, line([1.0], [1.0])])
    assert (found.pairs, found.compared, found.different) == (2, 1, 0)


def test_the_record_is_read_in_order_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / OLDER_RECORD).write_text('{"n": 1}\n{"n": 2}\n')
    (tmp_path / RECORD).write_text('{"n": 3}\n{"n": ')
    assert [each["n"] for each in read_record(tmp_path)] == [1, 2, 3]
    assert list(read_record(tmp_path / "none")) == []
