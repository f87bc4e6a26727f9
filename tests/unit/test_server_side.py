"""server_side.py: TorchServe's counters, as a real server printed them, and what they say of a run."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.http_client import Client, Response, Unreachable
from deploy.local import Server
from loadtest.records import Record
from loadtest.run import ServerSide
from loadtest.server_side import Samples, advice, parse, samples, scrape, split

# Of TorchServe 0.12.0 with our metrics.yaml: one request named the version, 30 did not.
REAL = """\
# HELP PredictionTime Torchserve prometheus histogram metric with unit: ms
# TYPE PredictionTime histogram
PredictionTime_bucket{ModelName="digits",Level="Model",Hostname="vm",le="10.0",} 16.0
PredictionTime_bucket{ModelName="digits",Level="Model",Hostname="vm",le="+Inf",} 20.0
PredictionTime_count{ModelName="digits",Level="Model",Hostname="vm",} 20.0
PredictionTime_sum{ModelName="digits",Level="Model",Hostname="vm",} 132.08
# TYPE Requests5XX counter
Requests5XX{Level="Host",Hostname="vm",} 2042.0
ts_inference_requests_total{model_name="digits",model_version="1.0",hostname="vm",} 1.0
ts_inference_requests_total{model_name="digits",model_version="default",hostname="vm",} 30.0
ts_inference_requests_total{model_name="minilm",model_version="default",hostname="vm",} 5.0
ts_inference_latency_microseconds{model_name="digits",model_version="1.0",hostname="vm",} 16259.767
ts_inference_latency_microseconds{model_name="digits",model_version="default",hostname="vm",} 376253.63200000004
ts_queue_latency_microseconds{model_name="digits",model_version="1.0",hostname="vm",} 1679.25
ts_queue_latency_microseconds{model_name="digits",model_version="default",hostname="vm",} 5.5684961999E4
servekit_request_seconds_count{ModelName="digits",Level="Model",Hostname="vm",} 4.0
servekit_request_seconds_sum{ModelName="digits",Level="Model",Hostname="vm",} 0.5
QueueTime_count{Level="Host",Hostname="vm",} 31.0
QueueTime_sum{Level="Host",Hostname="vm",} 44.0
"""
NOTHING = Samples(0, 0, 0, 0, 0, 0, 0)


def record(e2e_ms: float, *, lag_ms: float = 0, error: str | None = None) -> Record:
    return Record(0, 0, "measure", "x", intended_s=1, sent_s=1 + lag_ms / 1e3, e2e_ms=e2e_ms, error=error)


def test_a_models_counters_are_summed_over_its_versions() -> None:
    found = astuple(samples(REAL, "digits"))
    assert found == pytest.approx((31, 36, 31, 392_513.399, 57_364.211961, 20, 2042, 4, 500_000))


def test_a_metric_that_nothing_was_counted_for_is_zero() -> None:
    assert samples("", "digits") == NOTHING


def test_a_gauge_does_not_count_calls() -> None:
    assert samples('PredictionTime{ModelName="digits",Level="Model",} 11.25\n', "digits").calls is None


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        ("up 1", ("up", {}, 1.0)),
        ('a{b="c"} 2 1700000000', ("a", {"b": "c"}, 2.0)),
        ('a{b="}",c="x y",} +Inf', ("a", {"b": "}", "c": "x y"}, float("inf"))),
        ('a:b{c="say \\"hi\\""} 1e3', ("a:b", {"c": 'say \\"hi\\"'}, 1000.0)),
    ],
)
def test_lines_of_the_text_format_are_read(line: str, sample: object) -> None:
    assert list(parse(f"# HELP a words\n{line}\n\n")) == [sample]


def test_the_mean_latency_is_split_in_four() -> None:
    after = Samples(100, 100, 100, latency_us=1_200_000, queue_us=500_000, calls=25, failed=0)
    found = split(NOTHING, after, [record(15, lag_ms=1)] * 100, closed=False, batch_size=8)
    assert found
    assert astuple(found) == pytest.approx((1, 3, 5, 7, 100, 25, 4, 8, 0))


def test_what_was_counted_before_does_not_count() -> None:
    before = Samples(31, 31, 31, latency_us=392_513, queue_us=57_364, calls=20, failed=3)
    after = Samples(41, 41, 41, latency_us=492_513, queue_us=77_364, calls=25, failed=3)
    found = split(before, after, [record(12)] * 10, closed=False)
    assert found
    assert (found.requests, found.batches, found.batch_mean, found.refused) == (10, 5, 2, 0)
    assert (found.queue_ms, found.handler_ms) == pytest.approx((2, 8))


def test_refused_requests_were_in_no_queue() -> None:
    """TorchServe counts a refused request as one that arrived, and its time nowhere."""
    after = Samples(100, 100, 40, latency_us=400_000, queue_us=80_000, calls=10, failed=60)
    records = [record(12)] * 40 + [record(1, error="refused")] * 60
    found = split(NOTHING, after, records, closed=False)
    assert found
    assert (found.queue_ms, found.handler_ms, found.network_ms) == pytest.approx((2, 8, 2))
    assert (found.requests, found.refused, found.batch_mean) == (100, 60, 4)


def test_other_models_of_the_server_do_not_count() -> None:
    after = Samples(10, 510, 510, latency_us=100_000, queue_us=20_000, calls=10, failed=0)
    found = split(NOTHING, after, [record(12)] * 10, closed=False)
    assert found
    assert (found.queue_ms, found.handler_ms, found.batch_mean) == (2, 8, 1)


def test_a_closed_loop_has_no_client_queue() -> None:
    after = Samples(10, 10, 10, latency_us=100_000, queue_us=20_000, calls=10, failed=0)
    found = split(NOTHING, after, [record(12, lag_ms=500)] * 10, closed=True)
    assert found
    assert (found.client_queue_ms, found.network_ms) == pytest.approx((0, 2))


def test_steps_of_a_generation_are_no_batches() -> None:
    after = Samples(10, 10, 10, latency_us=100_000, queue_us=99_000, calls=900, failed=0, served=9, served_us=72_000)
    found = split(NOTHING, after, [record(12)] * 10, closed=False, continuous=True)
    assert found
    assert (found.batches, found.batch_mean) == (None, None)
    # A request is taken from the queue in each round: its counter's 9.9 ms are the generation's.
    assert (found.queue_ms, found.handler_ms, found.network_ms) == (2, 8, 2)


@pytest.mark.parametrize(
    ("before", "after", "records"),
    [
        (NOTHING, NOTHING, [record(1)]),
        (Samples(9, 9, 9, 9, 9, 9, 9), Samples(2, 2, 2, 2, 2, 2, 2), [record(1)]),
        (NOTHING, Samples(5, 5, 5, 5, 5, 5, 5), [record(1, error="timeout")]),
    ],
    ids=["nothing was asked", "the server was started anew", "nothing was answered well"],
)
def test_there_is_no_split_when(before: Samples, after: Samples, records: list[Record]) -> None:
    assert split(before, after, records, closed=False) is None


LATENCIES = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=20)


@given(LATENCIES, st.floats(0, 2), st.floats(0, 1))
def test_no_part_is_negative_and_together_they_are_the_whole(e2e_ms: list[float], told: float, queued: float) -> None:
    """told: the server's share of the latency; at the edges of the phase it may be more than the client's."""
    count, inside_us = len(e2e_ms), 1e3 * told * sum(e2e_ms)
    after = Samples(count, count, count, inside_us, queued * inside_us, count, 0)
    found = split(NOTHING, after, [record(each, lag_ms=2) for each in e2e_ms], closed=False)
    assert found
    parts = (found.client_queue_ms, found.network_ms, found.queue_ms, found.handler_ms)
    assert min(parts) >= -1e-9
    assert sum(parts) == pytest.approx(2 + fmean(e2e_ms) * max(1, told), rel=1e-6)


FULL = ServerSide(0.1, 1, 10, 10, requests=1000, batches=130, batch_mean=7.7, batch_size=8, refused=0)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (FULL, ["workers are saturated"]),
        (replace(FULL, batch_mean=1.2), ["maxBatchDelay holds requests back"]),
        (replace(FULL, batch_mean=5.0), ["a maxBatchDelay that is shorter than a call"]),
        (replace(FULL, batch_mean=None, batches=None), ["TorchServe's queue (10.0 ms): more workers"]),
        (replace(FULL, queue_ms=0.2, refused=42), ["42 requests got a 5xx", "88 % of the latency is the worker's"]),
        (replace(FULL, queue_ms=0.2, handler_ms=1), ["43 % of the latency is network"]),
        (replace(FULL, client_queue_ms=500), ["96 % of the latency is the generator's, before sending"]),
        (replace(FULL, queue_ms=2, handler_ms=6, network_ms=3), []),
        (ServerSide(0, 0, 0, 0, 0, None, None, None, 0), []),
    ],
)
def test_advice_follows_from_the_split(found: ServerSide, words: list[str]) -> None:
    lines = advice(found)
    assert len(lines) == len(words), lines
    for line, expected in zip(lines, words, strict=True):
        assert expected in line


@pytest.mark.parametrize("status", [200, 401])
def test_a_server_is_asked_for_its_metrics(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def get(self: Client, path: str) -> Response:
        asked.append(self.base_url + path)
        return Response(status, REAL.encode() if status == 200 else b"no token", {})

    monkeypatch.setattr(Server, "token", lambda self, kind: "secret")
    monkeypatch.setattr(Client, "get", get)
    server = Server(1, 18880, True, Path("/run"), Path("/scratch"), ())
    if status == 200:
        assert scrape(server, "digits").requests == 31
    else:
        with pytest.raises(Unreachable, match="401 no token"):
            scrape(server, "digits")
    assert asked == ["http://127.0.0.1:18882/metrics"]
