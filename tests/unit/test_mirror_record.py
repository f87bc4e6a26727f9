"""The mirror's parts: pairs that meet, a record that stays small, a spool that is emptied."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from deploy.answers import Answer
from deploy.mirror_record import (
    LONGEST_S,
    MOST_READ,
    RECORD,
    Copy,
    Pairs,
    Record,
    Spool,
    primary_answer,
    record_line,
)

RIGHT = Answer(200, "application/json", b"[[0.6, 0.8]]", 0.02)


def copy(key: str = "k", **headers: str) -> Copy:
    return Copy(key, "POST", "/invocations", headers, b'{"inputs": "secret"}')


def test_pairs_meet_whichever_comes_first() -> None:
    pairs = Pairs()
    for key in ("a", "b"):
        pairs.expect(copy(key), 0)
    assert pairs.primary("a", RIGHT) is None
    half = pairs.mirrored("a", RIGHT)
    assert half
    assert (half.copy.key, half.primary, half.mirror) == ("a", RIGHT, RIGHT)
    assert pairs.mirrored("b", RIGHT) is None
    assert pairs.primary("b", RIGHT)
    assert pairs.left_out == 0


def test_what_was_not_taken_is_left_out_and_not_kept() -> None:
    pairs = Pairs()
    assert pairs.primary("unknown", RIGHT) is None
    assert pairs.mirrored("unknown", RIGHT) is None
    assert pairs.left_out == 1
    pairs.expect(copy("late"), 0)
    pairs.give_up(LONGEST_S)
    assert pairs.left_out == 1
    pairs.give_up(LONGEST_S + 1)
    assert pairs.left_out == 2
    assert pairs.primary("late", RIGHT) is None


def answer_line(**changes: Any) -> bytes:
    body = base64.b64encode(b"hello").decode()
    told = {"id": "k", "status": 200, "content_type": "text/plain", "s": "0.250", "bytes": "5", "body": body}
    return json.dumps(told | changes).encode()


def test_what_nginx_writes() -> None:
    assert primary_answer(answer_line()) == ("k", Answer(200, "text/plain", b"hello", 0.25))
    # Two tries, of which one was not made; an answer that nginx did not keep; no answer at all.
    assert primary_answer(answer_line(s="0.100, 0.200 : -"))[1].seconds == pytest.approx(0.3)
    assert primary_answer(answer_line(body="", bytes="9000000"))[1].error == "9000000 bytes, too many to compare"
    assert primary_answer(answer_line(status=504, s="-", bytes="", body=""))[1] == Answer(504, "text/plain", b"", 0)


def test_differences_alone_hold_nothing_that_was_said() -> None:
    other = Answer(200, "application/json", b"[[0.8, 0.6]]", 0.5)
    line = record_line(copy(**{"X-Request-Id": "mine"}), RIGHT, other, bodies=False)
    text = json.dumps(line)
    assert "secret" not in text
    assert "0.6" not in text.replace(str(line["difference"]), "")
    assert line["id"] == "mine"
    assert line["difference"]["cosine"] == pytest.approx(0.96)
    assert (line["primary"]["ms"], line["mirror"]["ms"]) == (20, 500)
    assert line["primary"]["sha256"] != line["mirror"]["sha256"]


def test_bodies_where_they_are_wanted() -> None:
    line = record_line(copy(), RIGHT, RIGHT, bodies=True)
    assert base64.b64decode(line["request"]) == b'{"inputs": "secret"}'
    assert base64.b64decode(line["mirror"]["body"]) == RIGHT.body


def test_what_is_too_large_is_not_compared() -> None:
    large = Answer(200, "", b"", 0.1, "9 bytes, too many to compare")
    for pair in ((large, RIGHT), (RIGHT, large)):
        line = record_line(copy(), *pair, bodies=False)
        assert (line["compared"], line["difference"]) == (False, {"what": "9 bytes, too many to compare"})
    # One that gave no answer did differ.
    assert record_line(copy(), RIGHT, Answer(None, error="refused"), bodies=False)["compared"]


def test_a_record_stays_within_its_bytes(tmp_path: Path) -> None:
    record = Record(tmp_path / "mirror", 10_000)
    for number in range(1000):
        record.add({"number": number})
    record.add({"too large": "x" * 6000})
    sizes = [path.stat().st_size for path in (tmp_path / "mirror").iterdir()]
    assert len(sizes) == 2
    assert sum(sizes) <= 10_000
    last = (tmp_path / "mirror" / RECORD).read_text().splitlines()[-1]
    assert json.loads(last) == {"number": 999}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "mirror").iterdir()} == {0o600}
    again = Record(tmp_path / "mirror", 10_000)  # goes on where it was
    again.add({"number": 1000})
    assert (tmp_path / "mirror" / RECORD).read_text().splitlines()[-2] == last


def test_a_spool_is_read_once_and_emptied(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("of a former process\n")
    spool = Spool(path)
    with path.open("ab", buffering=0) as nginx:
        nginx.write(b"one\ntwo\nthr")
        assert spool.lines() == [b"one", b"two"]
        nginx.write(b"ee\n")
        assert spool.lines() == [b"three"]
        assert spool.lines() == []
        assert path.stat().st_size == 0
        nginx.write(b"four\n")
        assert spool.lines() == [b"four"]
        large = b"x" * (MOST_READ + 1)
        nginx.write(large + b"\n")
        assert spool.lines() == [large]
        assert path.stat().st_size == 0
    assert path.stat().st_mode & 0o777 == 0o600
