"""Where the server says the time went: TorchServe's counters, read before and after the measured phase.

What the counters cover, in TorchServe 0.12.0 (RestJob.java, BatchAggregator.java, InferenceRequestHandler.java):
- ts_inference_requests_total is counted when a request arrives, one that the full queue refuses too;
- ts_queue_latency_microseconds runs from there until a worker takes the batch, so maxBatchDelay is in it;
- ts_inference_latency_microseconds runs from there until the worker's answer (a stream's last), so the queue is in it;
- both, and the histogram QueueTime, get a value for each request that a worker answered, and for no other;
- PredictionTime gets one for each call of the handler (service.py).
Under continuous batching a request is "taken" anew in every round, so that the queue's counter ends with the last one
(ContinuousBatching.java): there the worker's own histogram of its requests' times, servekit_request_seconds, is read.
Knows nothing of reports, and of load only the records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from deploy.http_client import Unreachable
from deploy.local import Server
from loadtest.records import Record
from loadtest.run import ServerSide
from servekit.metrics import SERVED

SAMPLE = re.compile(r"^(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})?\s+(?P<value>\S+)(?:\s+\d+)?$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
QUEUE_SHARE, HANDLER_SHARE, NETWORK_SHARE, CLIENT_SHARE = 0.3, 0.7, 0.4, 0.1
"""Of the mean latency, from which on a part is worth a word."""
FULL, EMPTY = 0.8, 0.5
"""Of batchSize."""


@dataclass(frozen=True)
class Samples:
    """One model's counters at one moment, since the server's start."""

    requests: float
    """That arrived."""
    requests_of_all: float
    """Of every model of the server."""
    answered_by_all: float
    """That a worker of any model answered: QueueTime has no label for the model."""
    latency_us: float
    """From arrival to the worker's answer, of the answered ones together."""
    queue_us: float
    """From arrival to being taken by a worker, of the answered ones together."""
    calls: float | None
    """Calls of the handler; None when PredictionTime is no histogram, which keeps only the last."""
    failed: float
    """Answers with a 5xx of the whole server."""
    served: float = 0.0
    """Text generations that have ended in a worker."""
    served_us: float = 0.0
    """From the worker's first sight of them to their end, together."""


def scrape(server: Server, model: str) -> Samples:
    """A server's counters now. Raises Unreachable."""
    reply = server.metrics().get("/metrics")
    if reply.status != 200:
        raise Unreachable(f"GET /metrics: {reply.status} {reply.body[:200].decode(errors='replace')}")
    return samples(reply.body.decode(), model)


def samples(text: str, model: str) -> Samples:
    """A model's counters out of Prometheus text; what is not there yet has not been counted, and is 0."""
    found = list(parse(text))

    def total(name: str, **labels: str) -> float:
        # Over versions: a request that names none is counted under "default".
        return sum(value for key, own, value in found if key == name and labels.items() <= own.items())

    has_calls = any(key == "PredictionTime_count" for key, _, _ in found)
    is_gauge = any(key == "PredictionTime" for key, _, _ in found)
    return Samples(
        requests=total("ts_inference_requests_total", model_name=model),
        requests_of_all=total("ts_inference_requests_total"),
        answered_by_all=total("QueueTime_count"),
        latency_us=total("ts_inference_latency_microseconds", model_name=model),
        queue_us=total("ts_queue_latency_microseconds", model_name=model),
        calls=total("PredictionTime_count", ModelName=model) if has_calls or not is_gauge else None,
        failed=total("Requests5XX"),
        served=total(f"{SERVED.name}_count", ModelName=model),
        served_us=1e6 * total(f"{SERVED.name}_sum", ModelName=model),
    )


def parse(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every sample in Prometheus' text format. Labels keep their backslashes."""
    for match in SAMPLE.finditer(text):
        yield match["name"], dict(LABEL.findall(match["labels"] or "")), float(match["value"])


def split(
    before: Samples,
    after: Samples,
    records: Sequence[Record],
    *,
    closed: bool,
    batch_size: int | None = None,
    continuous: bool = False,
) -> ServerSide | None:
    """The measured phase's mean latency in four parts; None when nothing was answered or the server was started anew.

    records: of the measured phase. closed: without intended times, so without a client queue. continuous: calls of
    the handler are steps of a generation, not batches; what the rounds themselves cost is part of the queue's time.
    The server counts what it answered between the two readings, the client what was intended between them: at a rate
    that holds these are the same requests but for the edges. Where they are not, and the server's parts come out
    longer than the whole, network_ms is 0 and not negative.
    """
    good = [record for record in records if record.error is None]
    requests = after.requests - before.requests
    alone = after.requests_of_all - before.requests_of_all == requests
    answered = after.answered_by_all - before.answered_by_all if alone else requests
    served = after.served - before.served
    calls = None if continuous or after.calls is None or before.calls is None else after.calls - before.calls
    if not good or requests < 0 or answered <= 0 or (continuous and served <= 0):
        return None
    client_ms = 0.0 if closed else fmean(record.lag_ms for record in good)
    server_ms = (after.latency_us - before.latency_us) / answered / 1e3
    if continuous:
        handler_ms = min(server_ms, (after.served_us - before.served_us) / served / 1e3)
    else:
        handler_ms = server_ms - (after.queue_us - before.queue_us) / answered / 1e3
    whole_ms = client_ms + fmean(record.e2e_ms for record in good)
    return ServerSide(
        client_queue_ms=client_ms,
        network_ms=max(0.0, whole_ms - client_ms - server_ms),
        queue_ms=server_ms - handler_ms,
        handler_ms=handler_ms,
        requests=round(requests),
        batches=round(calls) if calls else None,
        batch_mean=answered / calls if calls else None,
        batch_size=batch_size,
        refused=round(after.failed - before.failed),
    )


def advice(found: ServerSide) -> list[str]:
    """What the split says about TorchServe's settings, in sentences; often nothing."""
    whole_ms = found.client_queue_ms + found.network_ms + found.queue_ms + found.handler_ms
    if whole_ms <= 0:
        return []
    return [*_about_refusals(found), *_about_the_queue(found, whole_ms), *_about_the_rest(found, whole_ms)]


def _about_refusals(found: ServerSide) -> Iterator[str]:
    if found.refused:
        yield (
            f"{found.refused:,} requests got a 5xx. If these are 503s, TorchServe's queue was full: jobQueueSize (100 "
            "when not set) absorbs bursts, but a longer queue only delays what the workers cannot keep up with."
        )


def _about_the_queue(found: ServerSide, whole_ms: float) -> Iterator[str]:
    if found.queue_ms < QUEUE_SHARE * whole_ms:
        return
    waits = f"{_share(found.queue_ms, whole_ms)} TorchServe's queue ({found.queue_ms:.1f} ms)"
    if found.batch_mean is None or found.batch_size is None:
        yield f"{waits}: more workers, or a larger batchSize."
        return
    calls = f"calls hold {found.batch_mean:.1f} of {found.batch_size} requests"
    if found.batch_mean >= FULL * found.batch_size:
        yield f"{waits} and {calls}: the workers are saturated. More workers, a larger batchSize, or a faster model."
    elif found.batch_mean < EMPTY * found.batch_size:
        yield (
            f"{waits} though {calls}: maxBatchDelay holds requests back for others that do not come, so lower it; if "
            "it is short already, they wait for a busy worker, and more workers help."
        )
    else:
        yield f"{waits} while {calls}: try more workers, and a maxBatchDelay that is shorter than a call."


def _about_the_rest(found: ServerSide, whole_ms: float) -> Iterator[str]:
    if found.handler_ms >= HANDLER_SHARE * whole_ms:
        yield (
            f"{_share(found.handler_ms, whole_ms)} the worker's: threads, a compiled or quantised model and smaller "
            "batches help here, the queue's settings do not."
        )
    if found.network_ms >= NETWORK_SHARE * whole_ms:
        yield (
            f"{_share(found.network_ms, whole_ms)} network and frontend: the bodies' sizes, logging, and CPUs that the "
            "generator, the frontend and the workers may share."
        )
    if found.client_queue_ms >= CLIENT_SHARE * whole_ms:
        yield (
            f"{_share(found.client_queue_ms, whole_ms)} the generator's, before sending: all of its users were "
            "waiting for answers, or it is too slow."
        )


def _share(part_ms: float, whole_ms: float) -> str:
    return f"{100 * part_ms / whole_ms:.0f} % of the latency is"
