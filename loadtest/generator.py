"""One generator process's part of a run: its requests at their times, each written down as a line.

Users are only a pool: each takes the next request of the timetable, waits for its time, sends it, and takes the next.
When all of them wait for answers, requests are late, and that is counted. Works in threads and in Locust's greenlets.
Knows nothing of Locust.
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import psutil

from loadtest import arrivals, dialects, workload
from loadtest.clients import Answer, Client
from loadtest.dialects import Call
from loadtest.plan import Plan
from loadtest.records import Phase, Record
from model_configs.errors import KitError

START_FILE = "start.json"
"""When the run begins, in Unix time; the whole generator's first process writes it."""
Done = Callable[[Call, Record], None]


def calls(plan: Plan) -> list[Call]:
    """Every payload's request. Raises KitError for one that the target has no form for."""
    found = workload.load(Path(plan.payloads))
    try:
        return [dialects.call(plan.target, plan.load, payload) for payload in found]
    except ValueError as error:
        raise KitError(f"payloads {plan.payloads}: {error}", "another --target, or other payloads") from None


class Shift:
    """One process's part."""

    def __init__(self, plan: Plan, worker: int, workers: int, start_at: float, done: Done) -> None:
        """start_at: Unix time of the run's beginning, the same for all workers. done: told of every request's end."""
        self._plan = plan
        self._calls = calls(plan)
        self._worker = worker
        self._done = done
        # The monotonic clock from here on: the wall clock may be set while we measure.
        self._began_s = time.perf_counter() + (start_at - time.time())
        self._jobs: Iterator[tuple[int, float]] = iter(
            () if plan.closed else arrivals.share(plan.timetable(), worker, workers)
        )
        self._numbers = itertools.count(worker, workers)
        # Which payload a request sends depends on its place alone, not on who sends it.
        self._order = list(range(len(self._calls)))
        random.Random(plan.load.seed).shuffle(self._order)
        folder = Path(plan.folder)
        folder.mkdir(parents=True, exist_ok=True)  # on a host of its own
        self._file: TextIO = (folder / f"requests.{worker}.jsonl").open("w")
        self._note = folder / f"worker.{worker}.json"
        self._process = psutil.Process()
        self.finished = 0
        """Requests that have ended."""

    def work(self, client: Client) -> None:
        """What one user does, from the beginning to the end of the run."""
        if self._plan.closed:
            self._ask_in_turn(client)
        else:
            self._keep_to_the_timetable(client)

    def watch_the_cpu(self) -> None:
        """Sleep through the run and note which share of a core this process used in the measured phase."""
        load = self._plan.load
        _sleep_until(self._began_s + load.warmup_s)
        cpu_s, wall_s = self._cpu_s(), time.perf_counter()
        _sleep_until(self._began_s + self._plan.total_s)
        share = (self._cpu_s() - cpu_s) / (time.perf_counter() - wall_s)
        self._note.write_text(json.dumps({"worker": self._worker, "cpu_share": round(share, 4)}) + "\n")

    def close(self) -> None:
        """No more requests: write what is not written yet."""
        self._file.close()

    def _keep_to_the_timetable(self, client: Client) -> None:
        for seq, intended_s in self._jobs:
            waited = self._now_s() > intended_s
            _sleep_until(self._began_s + intended_s)
            self._ask(client, seq, self._plan.phase_at(intended_s), intended_s, waited)

    def _ask_in_turn(self, client: Client) -> None:
        _sleep_until(self._began_s)
        while (now_s := self._now_s()) < self._plan.total_s:
            self._ask(client, next(self._numbers), self._plan.phase_at(now_s), None, False)
            time.sleep(self._plan.load.think_time_s)

    def _ask(self, client: Client, seq: int, phase: Phase, intended_s: float | None, waited: bool) -> None:
        call = self._calls[self._order[seq % len(self._order)]]
        began_s = time.perf_counter()
        try:
            answer = client.send(call, self._plan.load.timeout_s)
        except BaseException as end:
            if isinstance(end, Exception):
                raise
            # The run is broken off: whoever waits for an answer has none.
            ended_s = time.perf_counter()
            answer = Answer(began_s, ended_s, error="timeout", detail="the run was broken off")
            self._write(record_of(answer, call, seq, self._worker, phase, intended_s, waited, self._began_s), call)
            raise
        self._write(record_of(answer, call, seq, self._worker, phase, intended_s, waited, self._began_s), call)

    def _write(self, record: Record, call: Call) -> None:
        self._file.write(record.line() + "\n")
        self.finished += 1
        self._done(call, record)

    def _now_s(self) -> float:
        return time.perf_counter() - self._began_s

    def _cpu_s(self) -> float:
        times = self._process.cpu_times()
        return times.user + times.system


def record_of(
    answer: Answer,
    call: Call,
    seq: int,
    worker: int,
    phase: Phase,
    intended_s: float | None,
    waited: bool,
    began_s: float,
) -> Record:
    """An answer's line. intended_s: None in a closed loop, where a request is sent when its user is free."""
    sent_s = answer.sent_s - began_s
    stream = answer.stream
    tokens_out, source = answer.tokens_out, "server" if answer.tokens_out is not None else None
    if stream is not None and tokens_out is None and stream.chunks:
        tokens_out, source = stream.chunks, "chunks"
    return Record(
        seq=seq,
        worker=worker,
        phase=phase,
        payload=call.payload,
        intended_s=sent_s if intended_s is None else intended_s,
        sent_s=sent_s,
        e2e_ms=1e3 * (answer.ended_s - answer.sent_s),
        waited=waited,
        ttfb_ms=_ms(answer.headers_s, answer.sent_s),
        ttft_ms=_ms(stream.first_s if stream else None, answer.sent_s),
        gaps_ms=tuple(stream.gaps_ms) if stream else (),
        tokens_in=answer.tokens_in,
        tokens_out=tokens_out,
        tokens_source=source,  # type: ignore[arg-type]
        items=call.items,
        bytes=answer.bytes,
        status=answer.status,
        error=answer.error,
        detail=answer.detail,
    )


def _ms(time_s: float | None, since_s: float) -> float | None:
    return None if time_s is None else 1e3 * (time_s - since_s)


def _sleep_until(time_s: float) -> None:
    """On time.perf_counter's clock."""
    if (left_s := time_s - time.perf_counter()) > 0:
        time.sleep(left_s)
