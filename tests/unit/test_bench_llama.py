"""What bench_llama computes from records, and that its GGUF files hold the model that transformers computes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loadtest import bench_llama, llama_clients, llama_steps
from loadtest.bench_llama import Row
from loadtest.llama_clients import Answer, Endpoint, Planned, goodput, log_uniform
from loadtest.llama_cpp_peer import gguf_name, interleaved
from loadtest.llama_model import TINY, word, write_model
from servekit.engines.llama import rotate


def test_lengths_are_as_many_in_each_doubling() -> None:
    lengths = log_uniform(8, 256, 20_000, seed=0)
    assert min(lengths) == 8
    assert max(lengths) == 256
    shares = [sum(low <= each < 2 * low for each in lengths) / len(lengths) for low in (8, 16, 32, 64, 128)]
    assert shares == pytest.approx([0.2] * 5, abs=0.012)


def test_goodput_counts_whole_answers_that_began_in_time_from_when_they_were_due() -> None:
    answers = [
        Answer(10.0, 10.0, 10.4, 12.0, 8),  # good
        Answer(10.0, 10.3, 10.6, 12.0, 8),  # sent late: its client waited 0.6 s all the same
        Answer(10.0, 10.0, 10.1, 12.0, 3, "3 of 8 tokens"),
        Answer(10.0, 10.0, None, 30.0, 0, "TimeoutError"),
    ]
    assert [answer.ttft_s for answer in answers] == pytest.approx([0.4, 0.6, 0.1, 20.0])
    assert goodput(answers, 0.5, 4.0) == 0.25
    assert goodput(answers, 0.7, 4.0) == 0.5


def test_tokens_a_second_are_over_the_time_of_all() -> None:
    answers = [Answer(0, 1.0, 1.1, 2.0, 30), Answer(0, 1.5, 1.6, 3.0, 10)]
    assert llama_clients.tokens_per_s(answers) == 20.0


class _Server(BaseHTTPRequestHandler):
    """Two events of text, then usage; to a request for 9 tokens 503, for 5 one token less."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["max_tokens"] == 9:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        came = 4 if body["max_tokens"] == 5 else body["max_tokens"]
        events = [{"choices": [{"text": "a"}]}, {"choices": [{"text": ""}]}, {"usage": {"completion_tokens": came}}]
        for event in (*map(json.dumps, events), "[DONE]"):
            line = f"data: {event}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Endpoint(server.server_port, "/")
    server.shutdown()
    thread.join()
    server.server_close()


def test_open_loop_sends_each_request_at_its_time_whatever_became_of_the_others(endpoint: Endpoint) -> None:
    timetable = [Planned(0.0, (1,), 7), Planned(0.02, (1,), 9), Planned(0.04, (1,), 5)]
    whole, refused, short = llama_clients.open_loop(endpoint, timetable, give_up_s=5.0)
    assert (whole.problem, whole.tokens) == ("", 7)
    assert refused.problem.startswith("Refused: 503")
    assert refused.first_s is None
    assert short.problem == "4 of 5 tokens"
    starts = [answer.intended_s - whole.intended_s for answer in (whole, refused, short)]
    assert starts == pytest.approx([0.0, 0.02, 0.04])
    assert all(answer.sent_s >= answer.intended_s for answer in (whole, refused, short))


def test_a_closed_loop_with_a_failed_request_is_no_measurement(endpoint: Endpoint) -> None:
    assert len(llama_clients.closed_loop(endpoint, [Planned(0, (1,), 7)] * 3, 2, 5.0)) == 3
    with pytest.raises(llama_clients.Refused, match="1 of 2 requests failed, the first: Refused: 503"):
        llama_clients.closed_loop(endpoint, [Planned(0, (1,), 7), Planned(0, (1,), 9)], 2, 5.0)


@given(heads=st.integers(1, 4), half=st.integers(1, 6), seed=st.integers(0, 99))
def test_turning_neighbours_of_interleaved_rows_is_transformers_rotation(heads: int, half: int, seed: int) -> None:
    """llama.cpp's rotation of even and odd rows, on GGUF's order, gives what transformers' does, in GGUF's order."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(heads * 2 * half, 5, generator=generator, dtype=torch.float64)
    x = torch.randn(5, generator=generator, dtype=torch.float64)
    angles = torch.rand(half, generator=generator, dtype=torch.float64)
    cos, sin = angles.cos(), angles.sin()
    ours = rotate((weight @ x).view(1, 1, heads, 2 * half), cos, sin).flatten()
    pairs = (torch.from_numpy(interleaved(weight.numpy(), heads)) @ x).view(heads, half, 2)
    even, odd = pairs.unbind(-1)
    theirs = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten()
    torch.testing.assert_close(theirs, torch.from_numpy(interleaved(ours.numpy(), heads)))


def test_interleaving_moves_rows_and_loses_none() -> None:
    rows = torch.arange(12.0)[:, None].numpy()
    assert interleaved(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_every_tensor_of_a_llama_has_a_name_in_gguf(tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = write_model(tmp_path, TINY)
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = sorted(map(gguf_name, file.keys()))
    layer = ["attn_k", "attn_norm", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_norm", "ffn_up"]
    blocks = [f"blk.{number}.{part}.weight" for number in range(2) for part in layer]
    assert names == sorted([*blocks, "output_norm.weight", "token_embd.weight"])
    with pytest.raises(KeyError):
        gguf_name("model.layers.0.self_attn.rotary_emb.weight")


def test_each_token_of_the_random_model_has_a_text_of_its_own(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path, TINY))
    assert len(tokenizer) == TINY["vocab_size"]
    texts = [tokenizer.decode([token]) for token in range(258, len(tokenizer))]
    assert len(set(texts)) == len(texts)
    assert all(text.startswith(" ") and len(text) >= 4 for text in texts)
    assert tokenizer("The with")["input_ids"] == [tokenizer.convert_tokens_to_ids(c) for c in "TheĠwith"]
    assert len({word(number) for number in range(30_000)}) == 30_000


def test_the_bandwidth_is_the_best_ways_median() -> None:
    times = {"read by sum": [10.0, 12.0, 11.0], "read by dot": [9.0, 30.0, 20.0], "fp32, batch 1": [1.0]}
    gb_s, how = llama_steps.bandwidth_gb_s(times, 550_000_000)
    assert gb_s == pytest.approx(50.0)
    assert how == "read by sum"


def test_every_one_has_as_many_turns_and_the_first_does_not_count() -> None:
    calls: list[str] = []

    def call(name: str) -> list[float]:
        calls.append(name)
        return [float(len(calls))]

    figures = llama_steps.in_turns({"a": lambda: call("a"), "b": lambda: call("b")}, turns=2)
    assert calls == ["a", "b"] * 3
    assert figures == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


ROWS = [
    Row("fast", 4.2, "×", 3.5, "why"),
    Row("slow", 40.0, "%", 55.0),
    Row("missing", None, "×", 1.0, "not installed: no cmake"),
    Row("plain", 1234.5, "tokens/s"),
]


def test_rows_become_a_table_that_says_what_was_reached() -> None:
    assert [bench_llama.cells(row) for row in ROWS] == [
        ["fast", "4.20×", "≥ 3.5×", "yes", "why"],
        ["slow", "40.0%", "≥ 55%", "no", ""],
        ["missing", "–", "≥ 1×", "–", "not installed: no cmake"],
        ["plain", "1234 tokens/s", "", "", ""],
    ]


def test_a_document_comes_back_as_rows_and_is_written_in_three_forms(tmp_path: Path) -> None:
    part = {"passport": {}, "measured_on": "this machine", "seconds": 1.0, "rows": [asdict(row) for row in ROWS]}
    document = {"model": "a model", "parts": {"stock": part}}
    bench_llama.write(document, tmp_path)
    assert bench_llama.rows_of(json.loads((tmp_path / "llama.json").read_text()), "stock") == ROWS
    text = (tmp_path / "llama.md").read_text()
    assert text.count("| fast | 4.20× | ≥ 3.5× | yes |") == 2
    assert text.count("| plain | 1234 tokens/s |") == 1
    assert (tmp_path / "llama.png").stat().st_size > 1000


def test_figures_of_a_machine_with_a_gpu_outlive_a_run_without_one() -> None:
    nothing = [Row("cuda", None, "×", 2.4, "no CUDA device was at hand")]
    before = {"rows": [asdict(Row("cuda", 3.0, "×", 2.4))]}
    assert bench_llama.keeps(before, nothing)
    assert not bench_llama.keeps(before, [Row("cuda", 2.0, "×", 2.4)])
    assert not bench_llama.keeps({"rows": [asdict(row) for row in nothing]}, nothing)
    assert not bench_llama.keeps(None, nothing)


def test_without_a_trained_model_int8s_quality_says_why_it_is_missing(tmp_path: Path) -> None:
    rows = bench_llama.int8_rows(tmp_path, tmp_path, 4)
    assert {row.value for row in rows} == {None}
    assert all("pydoc-llama" in row.note for row in rows)


def test_int8s_quality_is_that_of_the_same_texts(tmp_path: Path) -> None:
    folder = write_model(tmp_path, TINY)
    texts = [list(range(20, 52)), list(range(300, 340))]
    found = llama_steps.int8_quality(folder, folder, texts, answer_tokens=4)
    model = llama_steps.load_transformers(folder)
    with torch.inference_mode():
        losses = [float(model(torch.tensor([ids]), labels=torch.tensor([ids])).loss) * (len(ids) - 1) for ids in texts]
    assert found.tokens == 31 + 39
    assert found.perplexity == pytest.approx(torch.tensor(sum(losses) / 70).exp().item(), rel=1e-4)
    assert found.narrow_perplexity == pytest.approx(found.perplexity, rel=0.2)
    assert 0.8 < found.same_best <= 1.0
    assert 0.0 <= found.same_answers <= 1.0


def test_batching_is_judged_by_medians_over_its_runs() -> None:
    def run(ttft_s: float, count: int = 4) -> list[Answer]:
        return [Answer(0.0, 0.0, ttft_s, 9.0, 8)] * count

    answers = {"continuous": [run(0.1), run(0.2), run(9.0)], "micro-batches": [run(0.4, 1), run(2.0), run(4.0)]}
    rows = {row.what: row for row in bench_llama.batching_rows(answers, duration_s=2.0)}
    assert rows["goodput, continuous"].value == 2.0
    assert rows["goodput, micro-batches"].value == 0.0
    of_goodput = rows["goodput, continuous against micro-batches"]
    assert of_goodput.value == 4.0  # one request in 2 s in place of none
    assert of_goodput.note.startswith("at least")
    assert rows["p95 TTFT, micro-batches against continuous"].value == pytest.approx(10.0)


def test_a_generator_that_lags_makes_no_valid_figure() -> None:
    late = [Answer(0.0, 0.3, 0.4, 9.0, 8)] * 4
    rows = bench_llama.batching_rows({"continuous": [late], "micro-batches": [late]}, duration_s=2.0)
    judged = [row for row in rows if row.target]
    assert [row.value for row in judged] == [None, None]
    assert {row.note for row in judged} == {"not valid: the generator was late by 300 ms (p99)"}
