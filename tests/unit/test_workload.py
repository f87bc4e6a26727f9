"""What is sent: files and lines become requests, and a folder that holds something else says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest import workload
from loadtest.workload import Payload
from model_configs.errors import KitError


def payload(body: bytes, content_type: str = "text/plain") -> Payload:
    return Payload("a.txt", body, content_type, 1)


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("7.png", "image/png"),
        ("7.PNG", "image/png"),
        ("7.jpg", "image/jpeg"),
        ("7.jpeg", "image/jpeg"),
        ("7.webp", "image/webp"),
        ("7.txt", "text/plain"),
        ("7.npy", "application/x-npy"),
    ],
)
def test_a_file_is_sent_as_it_is_with_its_media_type(tmp_path: Path, name: str, content_type: str) -> None:
    (tmp_path / name).write_bytes(b"\x00not json\n")
    assert workload.load(tmp_path) == [Payload(name, b"\x00not json\n", content_type, 1)]


@pytest.mark.parametrize(
    ("document", "items"),
    [
        ({"inputs": "one"}, 1),
        ({"inputs": ["one", "two"]}, 2),
        ({"input": ["one", "two", "three"]}, 3),
        ({"query": ["not", "counted"]}, 1),
        (["inputs", "input"], 1),
        ("inputs", 1),
    ],
)
def test_a_json_request_counts_its_inputs(tmp_path: Path, document: object, items: int) -> None:
    body = json.dumps(document, indent=1).encode()
    (tmp_path / "a.json").write_bytes(body)
    assert workload.load(tmp_path) == [Payload("a.json", body, "application/json", items)]


def test_a_line_of_a_jsonl_file_is_a_request_with_its_lines_number(tmp_path: Path) -> None:
    lines = [f'{{"inputs": "{number}"}}' for number in range(12)]
    (tmp_path / "b.jsonl").write_text("\n" + "\r\n".join(lines) + "\n\n")
    (tmp_path / "a.txt").write_text("first by name")
    found = workload.load(tmp_path)
    assert [each.name for each in found] == ["a.txt", *(f"b.jsonl:{number}" for number in range(2, 14))]
    assert [each.body.decode() for each in found[1:]] == lines
    assert {(each.content_type, each.items) for each in found[1:]} == {("application/json", 1)}


@given(texts=st.lists(st.text(), min_size=1, max_size=5))
def test_a_line_holds_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("payloads")
    (folder / "q.jsonl").write_bytes(
        b"\n".join(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass") for text in texts)
    )
    assert [json.loads(each.body) for each in workload.load(folder)] == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("photo.gif", b"GIF", r"photo\.gif is no payload"),
        ("README", b"words", r"README is no payload"),
        ("a.json", b"{", r"a\.json is no JSON"),
        ("a.json", b"\xff", r"a\.json is no JSON"),
        ("a.jsonl", b'{}\n{"inputs": \n', r"a\.jsonl:2 is no JSON"),
    ],
)
def test_a_file_that_cannot_be_sent_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(KitError, match=message):
        workload.load(tmp_path)


def test_a_folder_in_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "more.txt").mkdir()
    with pytest.raises(KitError, match=r"more\.txt is no payload"):
        workload.load(tmp_path)


@pytest.mark.parametrize("files", [{}, {"empty.jsonl": "\n\n"}])
def test_a_folder_without_a_request_says_which_files_it_may_hold(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(KitError, match="holds no payloads") as caught:
        workload.load(tmp_path)
    assert ".jsonl" in caught.value.hint


def test_payloads_are_found_by_name_or_path(tmp_path: Path) -> None:
    assert workload.find("digits") == workload.PAYLOADS / "digits"
    assert workload.find(str(tmp_path)) == tmp_path
    with pytest.raises(KitError, match="no payloads 'digit'") as near:
        workload.find("digit")
    assert near.value.hint == "did you mean 'digits'?"
    with pytest.raises(KitError) as far:
        workload.find("qqqqqq")
    assert "digits" in far.value.hint
    assert "short_queries" in far.value.hint


def test_every_folder_of_the_kits_own_payloads_can_be_sent() -> None:
    for folder in workload.PAYLOADS.iterdir():
        assert workload.load(folder), folder.name


def test_the_sum_is_of_what_is_sent_and_not_of_its_name() -> None:
    one = payload(b"ab")
    assert workload.sha256([one]) == workload.sha256([Payload("other", b"ab", "text/plain", 9)])
    others = [[payload(b"a"), payload(b"b")], [payload(b"ab", "image/png")], [one, one], [payload(b"b"), payload(b"a")]]
    sums = {workload.sha256(each) for each in [[one], *others]}
    assert len(sums) == 5
