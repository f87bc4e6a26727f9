"""What bench_peers makes of what it measured: cells, ratios, tables, the plot, and peers that are missing."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archives import build
from loadtest import bench_peers, short_runs
from loadtest.benchmark import Row
from loadtest.peers import (
    answers,
    cells,
    environments,
    http_rows,
    in_process,
    models,
    onnx_files,
    pages,
    plot,
    processes,
    quality,
    servers,
    side_loop,
    sides,
    start,
    through_http,
)
from loadtest.peers.cells import Cell, Cells
from loadtest.peers.environments import Missing
from loadtest.peers.servers import COMPILED, INFINITY_INT8, KIT, KIT_INT8, LITSERVE, RECIPE, Running, Server, Servers
from loadtest.plan import Target
from loadtest.records import Record
from loadtest.short_runs import ShortRun
from loadtest.stats import Generator, summarise
from model_configs import ROOT
from model_configs.errors import Failed
from model_configs.loadtest import LoadTest

TARGET = Target(kind="predictions", url="http://127.0.0.1:1", model="minilm")


def by_name(rows: Sequence[Row]) -> dict[str, Row]:
    return {row.what: row for row in rows}


# Environments


def test_an_environment_that_is_whole_has_a_python(tmp_path: Path) -> None:
    python = tmp_path / "onnx" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    with pytest.raises(Missing, match="make bench-peers"):
        environments.python("onnx", tmp_path)
    (tmp_path / "onnx" / environments.LOG).write_text("Collecting\nERROR: No matching distribution found for x==1\n")
    with pytest.raises(Missing, match=r"not installed: ERROR: No matching distribution found for x==1"):
        environments.python("onnx", tmp_path)
    (tmp_path / "onnx" / environments.INSTALLED).touch()
    assert environments.python("onnx", tmp_path) == python


@pytest.mark.parametrize(
    ("log", "words"),
    [("", ""), ("a\n\n", "a"), ("first\nValueError: bad\nbye\n", "ValueError: bad"), (None, "")],
)
def test_last_words_are_the_last_error(tmp_path: Path, log: str | None, words: str) -> None:
    file = tmp_path / "log"
    if log is not None:
        file.write_text(log)
    assert environments.last_words(file) == words


def test_a_reason_names_no_hosts_and_no_folders_of_this_machine() -> None:
    words = f"ERROR: https://a.example/simple/x of host='a.example' in {ROOT}/.venv/peers"
    assert environments.anywhere(words) == "ERROR: … of … in .venv/peers"


@pytest.mark.parametrize("name", environments.NAMES)
def test_every_environment_is_pinned_and_has_the_kit_s_torch(name: str) -> None:
    lines = (ROOT / "loadtest" / "peers" / f"requirements-peers-{name}.txt").read_text().splitlines()
    packages = [line.partition(";")[0].strip() for line in lines if line and not line.startswith("#")]
    assert all("==" in each for each in packages)
    own = (ROOT / "requirements.txt").read_text().splitlines()
    assert next(line for line in own if line.startswith("torch==")) in packages
    assert name in (ROOT / "Makefile").read_text().partition("PEERS :=")[2].splitlines()[0].split()


# Sides


def test_a_side_s_first_call_is_not_timed() -> None:
    calls: list[int] = []
    ms = side_loop.timed(lambda: calls.append(1), 3)
    assert len(ms) == 3
    assert len(calls) == 4


def test_a_side_answers_line_by_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    told = [
        {"ids": [[1, 2]], "calls": 2},
        {"texts": ["a", "b", "c"], "at_a_time": 2, "calls": 1},
        {"texts": ["a", "bb"], "to": str(tmp_path / "v.npy")},
    ]
    monkeypatch.setattr("sys.stdin", [json.dumps(each) + "\n" for each in told])
    embedded: list[list[str]] = []

    def embed(texts: list[str]) -> Any:
        embedded.append(texts)
        return [[float(len(text))] for text in texts]

    side_loop.serve(["numpy"], 2, lambda ids: ids, embed)
    hello, forward, texts, vectors = map(json.loads, capsys.readouterr().out.splitlines())
    assert hello == {"versions": {"numpy": np.__version__}, "threads": 2}
    assert len(forward["ms"]) == 2
    assert len(texts["ms"]) == 1
    assert embedded == [["a", "b"], ["c"], ["a", "b"], ["c"], ["a", "bb"]]
    assert vectors == {"texts": 2}
    assert np.load(tmp_path / "v.npy").tolist() == [[1.0], [2.0]]


def test_a_command_that_fails_has_last_words(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    assert sides.ended_badly([sys.executable, "-c", "print(1)"], log, 30) == ""
    assert sides.ended_badly([sys.executable, "-c", "raise ValueError('no')"], log, 30) == "ValueError: no"
    assert "No such file" in sides.ended_badly([str(tmp_path / "nothing")], log, 30)


def test_variants_have_names_of_their_own() -> None:
    made = [models.variant(), models.variant("int8"), models.variant(mode="jit"), models.variant(mode="eager")]
    assert [each.model.name for each in made] == ["minilm", "minilm-int8", "minilm-jit", "minilm-eager"]
    assert models.variant("int8").handler.compile.precision == "int8"
    assert models.variant(mode="jit").handler.compile.mode == "jit"


# In process


def test_a_ratio_takes_the_faster_of_a_peer_s_graphs_and_stands_beside_its_target() -> None:
    plain, fused = sides.ONNX_FP32
    own = {"this kit": [4.0, 5.0, 6.0], sides.EAGER: [20.0], plain: [10.0, 10.0], fused: [8.0, 9.0, 1.0]}
    rows = by_name(in_process.ratios({"1×13": own}, {sides.KIT["int8"]: "no torchao", sides.KIT["bf16"]: "no bf16"}))
    assert rows["1×13: against eager"] == Row("1×13: against eager", 4.0, "×", "", 3.0)
    assert rows["1×13: against ONNX Runtime fp32"].value == 1.6
    assert rows["1×13: against ONNX Runtime fp32"].note == fused
    missing = rows["1×13: int8 against our fp32"]
    assert (missing.value, missing.note, missing.target) == (None, "no torchao", None)
    assert rows["1×13: bf16 against our fp32"].note == "no bf16"


def test_int8_has_its_target_at_batches_of_8_and_more() -> None:
    own = {"this kit": [3.0], "this kit, int8": [2.0]}
    rows = by_name(in_process.ratios({"8×45": own, "1×78": own}, {}))
    assert rows["8×45: int8 against our fp32"].target == 1.6
    assert rows["1×78: int8 against our fp32"].target is None
    assert rows["8×45: int8 against our fp32"].value == 1.5


def test_without_onnx_runtime_its_rows_say_why() -> None:
    missing = dict.fromkeys((*sides.ONNX_FP32, *sides.ONNX_INT8), "not installed: no network")
    rows = by_name(in_process.ratios({"1×13": {"this kit": [1.0], sides.EAGER: [2.0]}}, missing))
    row = rows["1×13: against ONNX Runtime fp32"]
    assert (row.value, row.note, row.target) == (None, "not installed: no network", 1.0)


def test_random_tokens_are_the_same_every_time() -> None:
    ids = in_process.random_ids(3, 5)
    assert ids == in_process.random_ids(3, 5)
    assert [len(row) for row in ids] == [5] * 3


def test_every_payload_is_a_text() -> None:
    for name in http_rows.WORKLOADS:
        assert all(isinstance(text, str) and text for text in in_process.texts_of(name))


# Quality


def test_cosines_are_of_directions() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    mean, least = quality.cosine_to(reference, np.array([[5.0, 0.0], [1.0, 1.0]], dtype=np.float32))
    assert least == pytest.approx(0.5**0.5)
    assert mean == pytest.approx((1 + 0.5**0.5) / 2)


def test_int8_is_held_against_its_targets_and_against_onnx_runtime_s() -> None:
    better, worse = sides.ONNX_INT8[1], sides.ONNX_INT8[0]
    cosines = {"this kit": (1.0, 1.0), "this kit, int8": (0.998, 0.99), worse: (0.98, 0.9), better: (0.99, 0.95)}
    rows = by_name(quality.cosine_rows(cosines, {"this kit, bf16": "this CPU has no bf16"}, "9 texts"))
    assert rows["cosine to float32, mean: this kit, int8"] == Row(
        "cosine to float32, mean: this kit, int8", 0.998, "", "9 texts", 0.99
    )
    assert rows["cosine to float32, lowest: this kit, int8"].target == 0.98
    assert rows["cosine to float32, mean: this kit, bf16"].note == "this CPU has no bf16"
    assert rows["int8, how much nearer to float32 than ONNX Runtime int8"].value == pytest.approx(5.0)


def test_a_loss_of_retrieval_is_of_our_own_fp32() -> None:
    rows = by_name(quality.search_rows({"this kit": 0.8, "this kit, int8": 0.796}, {}, "173 questions"))
    lost = rows["nDCG@10 lost: this kit, int8"]
    assert lost.value == pytest.approx(0.5)
    assert (lost.target, lost.at_most) == (1.0, True)
    assert rows["nDCG@10 lost: this kit, bf16"].value is None
    assert rows[f"nDCG@10: {sides.ONNX[onnx_files.PLAIN_INT8]}"].value is None


def test_sentences_are_whole_and_as_many_as_asked() -> None:
    found = quality.sentences(50)
    assert len(found) == 50
    assert len(set(found)) == 50
    assert all(len(each) >= quality.SHORTEST_SENTENCE for each in found)


def test_a_search_gives_sources_nearest_first() -> None:
    class Fake:
        def vectors(self, texts: Sequence[str]) -> Any:
            return np.array([{"a": [1, 0], "b": [0, 1], "c": [0.9, 0.1], "q": [1, 0.05]}[each] for each in texts])

    search = quality.searching(Fake(), ["a", "b", "c"], ["A", "B", "C"])  # type: ignore[arg-type]
    assert search(["q"], 2) == [["A", "C"]]


# Answers


def test_a_vector_is_found_whichever_way_a_server_speaks() -> None:
    vector = [0.6, 0.8]
    good: list[Any] = [vector, {"embedding": vector}, {"object": "list", "data": [{"embedding": vector}]}]
    for reply in good:
        assert answers.vector_of(json.dumps(reply).encode()) == vector
    bad: list[Any] = [{"data": []}, [], {"error": "x"}, "text", ["a"]]
    for reply in bad:
        with pytest.raises(ValueError, match="no vector"):
            answers.vector_of(json.dumps(reply).encode())


def test_a_wrong_vector_is_told() -> None:
    reply = json.dumps([0.6, 0.8]).encode()
    assert answers.wrong_vector(reply, [0.6, 0.8], "fp32") == ""
    assert "cosine 0.9600" in answers.wrong_vector(reply, [0.8, 0.6], "fp32")
    assert answers.wrong_vector(reply, [0.8, 0.6], "int8") == ""
    assert answers.wrong_vector(reply, [1.0], "fp32") == "2 numbers instead of 1"
    assert answers.wrong_vector(b"not JSON", [1.0], "fp32")


# Cells


def a_run(times_ms: Sequence[float], seconds: float = 2.0, failed: int = 0, closed: bool = True) -> ShortRun:
    records = [
        Record(
            place, 0, "measure", "x", place * seconds / len(times_ms), place * seconds / len(times_ms), ms, bytes=4000
        )
        for place, ms in enumerate(times_ms)
    ]
    records += [
        Record(900 + place, 0, "measure", "x", 0.1, 0.1, 1.0, error="refused", detail="503") for place in range(failed)
    ]
    return ShortRun(summarise(records, 0.0, seconds, {}, closed=closed), Generator(0.1, 2.5, 3.0, 0, 1, 0.1), records)


def test_a_cell_has_medians_of_turns_and_percentiles_of_all_answers() -> None:
    cell = cells.cell(KIT, "mixed", "8 clients", [a_run([10.0] * 40), a_run([20.0] * 60, failed=3)])
    assert cell.turns_per_s == [20.0, 30.0]
    assert cell.requests_per_s == 25.0
    assert (cell.p50_ms, cell.p95_ms) == (20.0, 20.0)
    assert (cell.requests, cell.failed, cell.reply_bytes, cell.lag_p99_ms) == (103, 3, 4000.0, 0.0)
    assert cell.why == "refused: 503"


def test_too_few_answers_have_no_p95_and_an_open_loop_tells_its_lag() -> None:
    cell = cells.cell(KIT, "mixed", "50 % of our best", [a_run([10.0] * 30, closed=False)], 15.0)
    assert (cell.p50_ms, cell.p95_ms, cell.lag_p99_ms) == (10.0, None, 2.5)


def test_a_run_in_which_nothing_came_back_is_a_cell_of_nothing() -> None:
    nothing = ShortRun(summarise([], 0.0, 1.0, {}, closed=True), Generator(0, 0, 0, 0, 1, None), [])
    cell = cells.cell(KIT, "mixed", "1 client", [nothing])
    assert (cell.requests_per_s, cell.p50_ms, cell.reply_bytes) == (0.0, None, 0.0)


def a_cell(server: str, workload: str, load: str, rate: float, p95: float | None = 50.0, **more: Any) -> Cell:
    given: dict[str, Any] = {"offered_per_s": None, "failed": 0, "lag_p99_ms": 0.0, **more}
    return Cell(
        server=server, workload=workload, load=load, requests_per_s=rate, turns_per_s=[rate], p50_ms=p95 and p95 / 2,
        p95_ms=p95, requests=100, reply_bytes=4000.0, **given,
    )  # fmt: skip


KNOWN = [
    Server(name, precision, f"settings of {name}", lambda: pytest.fail("not started"))  # type: ignore[arg-type]
    for name, precision in (
        (KIT, "fp32"),
        (KIT_INT8, "int8"),
        (RECIPE, "fp32"),
        (COMPILED, "fp32"),
        (LITSERVE, "fp32"),
        (INFINITY_INT8, "int8"),
    )
]
MISSING = {COMPILED: "it did not answer in 300 s", INFINITY_INT8: "not installed: no network"}


@pytest.fixture
def found() -> list[Cell]:
    rates = {KIT: 200.0, KIT_INT8: 400.0, RECIPE: 50.0, LITSERVE: 100.0}
    lows = {KIT: 40.0, KIT_INT8: 20.0, RECIPE: 800.0, LITSERVE: 80.0}
    made = [
        a_cell(name, workload, http_rows.load_name(clients), rate, lows[name])
        for name, rate in rates.items()
        for workload in http_rows.WORKLOADS
        for clients in http_rows.CLIENTS
    ]
    made += [
        a_cell(name, "mixed", "50% of our best", 100.0, 60.0, offered_per_s=100.0, failed=7 if name == RECIPE else 0)
        for name in rates
    ]
    return [
        *made,
        *(cells.inside(http_rows.IN_PROCESS[KIT], w, "32 clients", [240.0, 250.0], 64) for w in http_rows.WORKLOADS),
    ]


def test_the_recipe_is_compared_where_the_issue_says(found: list[Cell]) -> None:
    rows = by_name(http_rows.rows(Cells(found, MISSING), KNOWN, list(http_rows.WORKLOADS)))
    fp32 = rows["mixed, 32 clients: this kit against the article's recipe"]
    assert (fp32.value, fp32.target) == (4.0, 2.7)
    int8 = rows["short queries, 1 client, p50: this kit, int8 against the article's recipe"]
    assert (int8.value, int8.target) == (40.0, 26.0)
    compiled = rows["mixed, 32 clients: this kit against the article's recipe, compiled"]
    assert (compiled.value, compiled.note) == (None, "it did not answer in 300 s")


def test_the_best_other_server_is_of_the_same_precision_and_the_worst_cell_comes_first(found: list[Cell]) -> None:
    slow = [
        a_cell(LITSERVE, "documents", "8 clients", 180.0, 30.0)
        if (each.server, each.workload, each.load) == (LITSERVE, "documents", "8 clients")
        else each
        for each in found
    ]
    rows = by_name(http_rows.rows(Cells(slow, MISSING), KNOWN, list(http_rows.WORKLOADS)))
    lowest = rows["this kit against the best other server, lowest of all"]
    assert lowest.value == pytest.approx(200 / 180)
    assert lowest.note == f"documents, 8 clients; {LITSERVE}"
    assert lowest.target == 1.2
    assert rows["this kit, p95 against the same, lowest of all"].value == pytest.approx(0.75)
    assert rows["documents, 1 client: this kit against the best other"].value == 2.0
    assert rows["mixed, 8 clients, p95: this kit against the same"].value == 2.0


def test_without_another_server_of_int8_that_is_said(found: list[Cell]) -> None:
    rows = by_name(http_rows.rows(Cells(found, MISSING), KNOWN, list(http_rows.WORKLOADS)))
    lowest = rows["this kit, int8 against the best other server, lowest of all"]
    assert (lowest.value, lowest.note) == (None, "not installed: no network")


def test_http_is_held_against_the_embedder_without_it(found: list[Cell]) -> None:
    rows = by_name(http_rows.rows(Cells(found, MISSING), KNOWN, list(http_rows.WORKLOADS)))
    row = rows["mixed, 32 clients: this kit, of in process"]
    assert row.value == pytest.approx(100 * 200 / 245)
    assert (row.target, row.note) == (85.0, "200.0 of 245.0 texts/s")
    assert rows["mixed, 32 clients: this kit, int8, of in process"].value is None


def test_failures_stand_in_the_note() -> None:
    table = Cells([a_cell("a", "mixed", "x", 10.0), a_cell("b", "mixed", "x", 5.0, None, failed=2)], {})
    assert table.throughput("", "a", "b", "mixed", "x").note == "b: 2 of 100 failed"
    assert table.latency("", "a", "b", "mixed", "x", "p95").note == "too few answers for a p95"


# Servers and visits


class FakeRuns:
    """Answers by script: a server's rate, or an exception."""

    def __init__(self, rates: dict[str, float | Exception]) -> None:
        self.rates = rates
        self.asked: list[tuple[str, str]] = []

    def measure(self, target: Target, load: LoadTest) -> ShortRun:
        self.asked.append((target.model, load.arrivals if load.rate is None else f"{load.rate:g}"))
        rate = self.rates[target.model]
        if isinstance(rate, Exception):
            raise rate
        return a_run([10.0] * round(2 * rate), closed=load.rate is None)


SCALE = through_http.Scale(
    turns=2, warmup_s=0.0, closed_s=1.0, one_client_s=1.0, open_s=1.0, settle_s=0.1, idle_s=0.0,
    workloads=("mixed",), shares=(0.5,),
)  # fmt: skip


def running(name: str) -> Running:
    return Running(Target(kind="predictions", url="http://127.0.0.1:1", model=name), 1, 1.0)


def test_servers_are_visited_by_turns_and_the_open_loop_s_rate_is_a_share_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(short_runs, "ask_once", lambda target, load: 1.0)
    runs = FakeRuns({KIT: 40.0, RECIPE: 10.0})
    bench = through_http.Bench(SCALE, Servers({name: running(name) for name in (KIT, RECIPE)}), {}, runs)  # type: ignore[arg-type]
    bench.closed("mixed", 0)
    assert [name for name, _ in runs.asked] == [KIT] * 3 + [RECIPE] * 3 + [RECIPE] * 3 + [KIT] * 3
    runs.asked.clear()
    bench.open("mixed", 0)
    assert runs.asked[0] == (KIT, "20")
    assert {rate for _, rate in runs.asked} == {"20"}
    table = Cells(bench.cells, {})
    assert {(each.server, each.load) for each in bench.cells} == {
        (name, load) for name in (KIT, RECIPE) for load in ("1 client", "8 clients", "32 clients", "50% of our best")
    }
    own = table.get(KIT, "mixed", "32 clients")
    assert own is not None
    assert own.requests_per_s == 40.0


def test_a_server_that_fails_under_load_is_missing_and_the_others_go_on() -> None:
    runs = FakeRuns({KIT: 40.0, RECIPE: Failed("http://x: connection: refused")})
    there = Servers({name: running(name) for name in (KIT, RECIPE)})
    bench = through_http.Bench(SCALE, there, {}, runs)  # type: ignore[arg-type]
    bench.closed("mixed", 0)
    assert there.missing == {RECIPE: "failed under load: … connection: refused"}
    assert {each.server for each in bench.cells} == {KIT}
    assert [name for name, _ in runs.asked].count(RECIPE) == 1


def test_a_restless_server_runs_only_while_it_is_measured() -> None:
    up: list[str] = []

    @contextmanager
    def start_it() -> Any:
        up.append("up")
        yield servers.Began(Target(kind="predictions", url="http://127.0.0.1:1", model=LITSERVE), 1)
        up.append("down")

    runs = FakeRuns({KIT: 40.0, LITSERVE: 20.0})
    restless = Server(LITSERVE, "fp32", "", start_it, restless=True)
    there = Servers({KIT: running(KIT)}, asleep={LITSERVE: restless})
    bench = through_http.Bench(SCALE, there, {}, runs)  # type: ignore[arg-type]
    bench.closed("mixed", 0)
    assert up == ["up", "down"] * 2
    assert {each.server for each in bench.cells} == {KIT, LITSERVE}


def test_a_server_that_cannot_be_had_is_missing_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ended: list[str] = []

    @contextmanager
    def good() -> Any:
        yield servers.Began(TARGET, 7, 2.0)
        ended.append("good")

    @contextmanager
    def wrong() -> Any:
        try:
            yield servers.Began(TARGET, 8)
        finally:
            ended.append("wrong")

    def absent() -> Any:
        raise Missing("not installed: no network")

    golden = type("Golden", (), {"body": {"inputs": ["x"]}, "expected": [[1.0]]})()
    monkeypatch.setattr(build, "build", lambda config, store: type("Archive", (), {"path": tmp_path})())
    monkeypatch.setattr(servers, "read_golden", lambda path: golden)
    replies = iter([(200, b"[1.0]"), (200, b"[-1.0]"), (503, b"busy")])
    monkeypatch.setattr(processes, "post", lambda target, text: next(replies))
    known = [Server("good", "fp32", "", good), Server("wrong", "fp32", "", wrong), Server("busy", "fp32", "", wrong)]
    with servers.started([*known, Server("absent", "fp32", "", absent)]) as there:
        assert there.running == {"good": Running(TARGET, 7, 2.0)}
        assert ended == ["wrong", "wrong"]
        assert there.missing["absent"] == "not installed: no network"
        assert there.missing["wrong"].startswith("it answers wrong: cosine -1.0000")
        assert there.missing["busy"] == "it answers wrong: status 503: b'busy'"
    assert ended[-1] == "good"


def test_the_issue_s_peers_are_all_there() -> None:
    known = servers.all_servers()
    assert {each.name for each in known} == set(servers.PORTS)
    assert sorted(each.precision for each in known) == ["fp32"] * 6 + ["int8"] * 2
    assert "batchSize 32, maxBatchDelay 1" in known[0].settings


def test_an_error_of_many_lines_becomes_one() -> None:
    assert servers.in_a_line("a worker died:\n  Traceback\nValueError: x\n") == "a worker died: … ValueError: x"
    assert servers.in_a_line("one") == "one"


# Start and memory


def test_starts_and_memory_stand_beside_their_targets() -> None:
    starts = {
        start.EAGER_WORKER: [start.Start(5.0, 600.0)] * 3,
        start.AOT: [start.Start(4.0, 500.0), start.Start(6.0, 500.0), start.Start(4.5, 520.0)],
        start.AOT_INT8: [start.Start(4.0, 400.0)],
        start.JIT: [start.Start(90.0, 900.0)],
    }
    rows = by_name(start.rows(starts, 500.0))
    share = rows["start with artefacts, of the eager worker's"]
    assert (share.value, share.target, share.at_most) == (0.9, 1.3, True)
    assert rows["start with artefacts, against compiling at start"].value == 20.0
    memory = rows[f"memory with artefacts, of {sides.EAGER}"]
    assert (memory.value, memory.target, memory.at_most) == (1.0, 1.2, True)
    assert rows["start: with artefacts"].note == "3 starts, from 4.0 to 6.0"
    del starts[start.JIT]
    assert by_name(start.rows(starts, 500.0))["start with artefacts, against compiling at start"].value is None


# Pages


@pytest.fixture
def document(found: list[Cell]) -> dict[str, Any]:
    rows = {
        "in_process": [Row("1×13: this kit", 4.0, "ms"), Row("1×13: against eager", 4.0, "×", "", 3.0)],
        "quality": [Row("nDCG@10 lost: this kit, int8", 0.2, "%", "", 1.0, at_most=True)],
        "start": [Row("start: eager", 5.0, "s"), Row("start with artefacts, of the eager worker's", 1.5, "×", "", 1.3, at_most=True)],
        "http": http_rows.rows(Cells(found, MISSING), KNOWN, list(http_rows.WORKLOADS)),
    }  # fmt: skip
    uses = {"start_s": {KIT: 5.04}, "idle_percent": {KIT: 0.2}, "memory_mib": {KIT: 700.0}}
    more: dict[str, dict[str, Any]] = {
        "in_process": {"ms": {"1×13": {KIT: 4.0}}, "missing": {sides.ONNX_FP32[0]: "not installed: no network"}},
        "http": {
            "cells": [asdict(each) for each in found],
            "servers": [through_http.describe(each, MISSING.get(each.name, ""), uses, found) for each in KNOWN],
            "missing": MISSING,
        },
    }
    return {
        "parts": {
            part: {
                "measured_on": "this machine",
                "seconds": 90.0,
                "rows": [asdict(row) for row in own],
                **more.get(part, {}),
            }
            for part, own in rows.items()
        }
    }


def test_the_page_has_figures_beside_targets_and_says_why_a_peer_is_missing(
    document: dict[str, Any], tmp_path: Path
) -> None:
    pages.writer(bench_peers.PARTS)(document, tmp_path)
    text = (tmp_path / "peers.md").read_text()
    assert "| 1×13: against eager | 4.00× | ≥ 3× | yes |  |" in text
    assert "| start with artefacts, of the eager worker's | 1.50× | ≤ 1.3× | no |  |" in text
    assert f"| {sides.ONNX_FP32[0]} | not measured: not installed: no network |" in text
    assert f"settings of {COMPILED}; **not measured: it did not answer in 300 s**" in text
    assert f"| {COMPILED} | not measured: it did not answer in 300 s |  |  |" in text
    assert f"| {KIT} | fp32 | settings of {KIT} | 5.0 | 0.2 | 700.0 | 4000 |" in text
    assert f"| {RECIPE} | 50.0; 400.0, 800.0 | 50.0; 400.0, 800.0 | 50.0; 400.0, 800.0 |" in text
    assert f"| {RECIPE} | 30.0, 60.0, 7% failed |" in text
    assert "| server | 50% of our best, 100/s |" in text
    assert "| in process | – | – | 245.0 |" in text
    order = [text.index(f"## {part}") for part in ("in process", "quality", "start", "http")]
    assert order == sorted(order)
    assert (tmp_path / "peers.png").stat().st_size > 1000


def test_a_page_of_one_part_can_be_written(document: dict[str, Any], tmp_path: Path) -> None:
    document["parts"] = {"quality": document["parts"]["quality"]}
    pages.writer(bench_peers.PARTS)(document, tmp_path)
    assert "## quality" in (tmp_path / "peers.md").read_text()
    assert not (tmp_path / "peers.png").exists()


def test_the_readme_has_figures_and_targets(document: dict[str, Any]) -> None:
    text = pages.readme(document)
    assert "| 1×13: against eager | 4.00× | ≥ 3× |" in text
    assert "| mixed, 32 clients: this kit against the article's recipe | 4.00× | ≥ 2.7× |" in text
    assert "docs/benchmarks/peers.md" in text


def test_the_plot_leaves_out_what_has_no_p95(found: list[Cell]) -> None:
    changed = [*found, a_cell("x", "mixed", "1 client", 5.0, None), a_cell("x", "mixed", "8 clients", 6.0, 70.0)]
    closed, opened = plot.points(changed, "x", "mixed")
    assert closed == ([6.0], [70.0])
    assert opened == ([], [])


def test_names_in_the_readme_are_names_of_rows(found: list[Cell]) -> None:
    own = {sides.EAGER: [4.0], "this kit": [1.0], "this kit, int8": [0.5], sides.ONNX_FP32[0]: [1.0]}
    shapes = {"1×13": own, "32×65": own, in_process.WHOLE: own}
    starts = {name: [start.Start(1.0, 1.0)] for name in (start.EAGER_WORKER, start.AOT, start.AOT_INT8, start.JIT)}
    rows = [
        *in_process.ratios(shapes, {}),
        *quality.cosine_rows({}, {}, ""),
        *quality.search_rows({}, {}, ""),
        *start.rows(starts, 1.0),
        *http_rows.rows(Cells(found, {}), KNOWN, list(http_rows.WORKLOADS)),
    ]
    assert set(pages.IN_README) <= {row.what for row in rows}
