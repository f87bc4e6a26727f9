"""What benchmarks share: turns, figures with targets, and documents of which a part is measured anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtest import benchmark
from loadtest.benchmark import Benchmark, Document, Found, Row, in_turns, reached, rotated, shown, until, wanted
from loadtest.line_process import LineProcess
from model_configs.errors import Failed


def test_turns_alternate_and_may_begin_with_another_one_each_time() -> None:
    calls: list[str] = []
    names = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    in_turns(names, 2)
    assert "".join(calls) == "abcabc"
    calls.clear()
    in_turns(names, 3, rotate=True, first=1)
    assert "".join(calls) == "bcacababc"


def test_nothing_rotates_to_nothing() -> None:
    assert rotated([], 3) == []


def test_values_are_gathered_until_the_time_is_over_and_each_was_called_often_enough() -> None:
    times = iter([0.0, 0.4, 0.8, 1.2])
    calls = {"a": lambda: [1.0, 2.0], "b": lambda: [3.0]}
    assert until(calls, 1.0, 1, clock=lambda: next(times)) == {"a": [1.0, 2.0] * 3, "b": [3.0] * 3}
    assert until(calls, 0.0, 2, clock=lambda: 0.0) == {"a": [1.0, 2.0] * 2, "b": [3.0] * 2}


@pytest.mark.parametrize(
    ("row", "figure", "target", "met"),
    [
        (Row("", 2.5, "×", "", 3.0), "2.50×", "≥ 3×", "no"),
        (Row("", 3.0, "×", "", 3.0), "3.00×", "≥ 3×", "yes"),
        (Row("", 1.31, "×", "", 1.3, at_most=True), "1.31×", "≤ 1.3×", "no"),
        (Row("", 85.04, "%", "", 85.0), "85.0%", "≥ 85%", "yes"),
        (Row("", 12.3, "s", "", 20.0, at_most=True), "12.3 s", "≤ 20 s", "yes"),
        (Row("", None, "×", "why", 3.0), "–", "≥ 3×", "–"),
        (Row("", 7, ""), "7", "", ""),
    ],
)
def test_a_figure_stands_beside_its_target(row: Row, figure: str, target: str, met: str) -> None:
    assert (shown(row), wanted(row), reached(row)) == (figure, target, met)


def a_benchmark(work: Path, figures: dict[str, float]) -> Benchmark[float]:
    def part(name: str) -> Any:
        return lambda scale: Found([Row(name, scale * figures[name], "×")], {"more": name})

    def write(document: Document, folder: Path) -> None:
        (folder / "some.md").write_text(" ".join(document["parts"]))

    return Benchmark(
        "some", {name: part(name) for name in figures}, 1.0, 0.5, work, write, lambda document: "",
        lambda row: [row.what, shown(row)], ("what", "measured"),
    )  # fmt: skip


def test_a_part_that_is_measured_again_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    a_benchmark(tmp_path, {"a": 1.0, "b": 2.0}).measure(["a", "b"], 1.0, tmp_path)
    document = a_benchmark(tmp_path, {"a": 5.0, "b": 9.0}).measure(["a"], 1.0, tmp_path)
    assert json.loads((tmp_path / "some.json").read_text()) == document
    assert [(row.what, row.value) for row in benchmark.all_rows(document, "ab")] == [("a", 5.0), ("b", 2.0)]
    assert document["parts"]["a"]["more"] == "a"
    assert (tmp_path / "some.md").read_text() == "a b"


def test_the_command_measures_what_it_is_told_and_ends_with_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "copy.json"
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", "--only", "b", "--json", str(target)])
    a_benchmark(tmp_path, {"a": 1.0, "b": 2.0}).main("words")
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(last["parts"]) == ["b"]
    assert last["parts"]["b"]["rows"][0]["value"] == 1.0
    assert json.loads(target.read_text()) == json.loads((tmp_path / "quick" / "some.json").read_text()) == last


PROGRAM = """
import json, sys
print(json.dumps({"hello": 1}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "end" in asked:
        print("it went wrong", file=sys.stderr)
        sys.exit(3)
    print(json.dumps({"twice": 2 * asked["number"]}), flush=True)
"""


def test_a_process_is_told_lines_and_its_last_words_are_shown(tmp_path: Path) -> None:
    with LineProcess("it", [sys.executable, "-c", PROGRAM], tmp_path / "logs" / "it.log") as process:
        assert process.hello == {"hello": 1}
        assert process.told({"number": 4}) == {"twice": 8}
        assert process.pid > 0
        with pytest.raises(Failed, match="it ended with 3:\nit went wrong"):
            process.told({"end": True})


def test_a_process_that_does_not_begin_has_failed(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="never: no such thing"):
        LineProcess("it", [sys.executable, "-c", "raise SystemExit('never: no such thing')"], tmp_path / "it.log")
