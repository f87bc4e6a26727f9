"""Streaming clients of a text generation server, and what their records add up to.

TTFT counts from the time that the timetable says to the first chunk with text, so that a client that is late does not
make the server look faster (coordinated omission). Knows nothing of how a server is started.
"""

from __future__ import annotations

import http.client
import json
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

PROMPT_TEXT = "The with statement is used to wrap "


@dataclass(frozen=True)
class Endpoint:
    """Where requests go. token: sent as a bearer token when given."""

    port: int
    path: str
    token: str | None = None


@dataclass(frozen=True)
class Planned:
    """One request of a timetable. start_s: from the beginning; tokens: exactly so many new ones."""

    start_s: float
    prompt_ids: tuple[int, ...]
    tokens: int


@dataclass(frozen=True)
class Answer:
    """One request's record, on time.perf_counter's clock. tokens: new ones that came.

    intended_s, sent_s: when it was to be sent and was. first_s: the first text, None when none came.
    ended_s: the last byte, or when the client gave up. problem: "" when all tokens that were asked for came.
    """

    intended_s: float
    sent_s: float
    first_s: float | None
    ended_s: float
    tokens: int
    problem: str = ""

    @property
    def ttft_s(self) -> float:
        """Of a request without any text, how long its client waited in vain: it would have been at least that."""
        return (self.ended_s if self.first_s is None else self.first_s) - self.intended_s

    def is_good(self, slo_s: float) -> bool:
        """Whether it was answered in full and began in time."""
        return not self.problem and self.ttft_s <= slo_s


Ask = Callable[[Endpoint, Planned, float, float], Answer]
"""Sends one request at once and reads its answer; the times are when it was intended and when to give up."""


def log_uniform(shortest: int, longest: int, count: int, seed: int) -> list[int]:
    """Lengths whose logarithm is uniform: as many between 8 and 16 as between 128 and 256."""
    chooser = random.Random(seed)
    low, high = math.log(shortest), math.log(longest + 1)
    return [min(longest, int(math.exp(chooser.uniform(low, high)))) for _ in range(count)]


def goodput(answers: Sequence[Answer], slo_s: float, duration_s: float) -> float:
    """Requests a second that were answered in full and began within slo_s, over the time in which requests came."""
    return sum(answer.is_good(slo_s) for answer in answers) / duration_s


def tokens_per_s(answers: Sequence[Answer]) -> float:
    """From the first request sent to the last byte of all."""
    seconds = max(answer.ended_s for answer in answers) - min(answer.sent_s for answer in answers)
    return sum(answer.tokens for answer in answers) / seconds


def ask(endpoint: Endpoint, planned: Planned, intended_s: float, deadline_s: float) -> Answer:
    """Send one request at once and read its stream. deadline_s: when to give up, on perf_counter's clock."""
    body = {
        "prompt": planned.prompt_ids, "max_tokens": planned.tokens, "temperature": 0, "ignore_eos": True,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    first_s, tokens, problem = None, 0, ""
    sent_s = time.perf_counter()
    try:
        for line in lines_of(endpoint, body, deadline_s):
            event = json.loads(line[len("data:") :]) if line.startswith(b"data: {") else {}
            if "error" in event:
                problem = str(event["error"])
            elif first_s is None and any(choice.get("text") for choice in event.get("choices", ())):
                first_s = time.perf_counter()
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
    except (OSError, http.client.HTTPException, Refused) as error:
        problem = f"{type(error).__name__}: {error}"
    ended_s = time.perf_counter()
    if not problem and tokens != planned.tokens:
        problem = f"{tokens} of {planned.tokens} tokens"
    return Answer(intended_s, sent_s, first_s, ended_s, tokens, problem)


class Refused(Exception):
    """An answer that is not 200."""


def lines_of(endpoint: Endpoint, body: object, deadline_s: float) -> Iterable[bytes]:
    """POST a JSON body; the answer's lines as they come. Raises Refused, and OSError, TimeoutError at the deadline."""
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=_left(deadline_s))
    headers = {"Content-Type": "application/json"}
    if endpoint.token:
        headers["Authorization"] = f"Bearer {endpoint.token}"
    try:
        connection.request("POST", endpoint.path, json.dumps(body).encode(), headers)
        wire = connection.sock
        reply = connection.getresponse()
        if reply.status != 200:
            raise Refused(f"{reply.status}: {reply.read(300)!r}")
        while line := reply.readline():
            yield line
            wire.settimeout(_left(deadline_s))
    finally:
        connection.close()


def ask_stock(endpoint: Endpoint, planned: Planned, intended_s: float, deadline_s: float) -> Answer:
    """`ask` for stock_llama_handler.py, which takes text and answers pieces of it with no end mark."""
    text = (PROMPT_TEXT * (len(planned.prompt_ids) // len(PROMPT_TEXT) + 1))[: len(planned.prompt_ids)]
    first_s, pieces, problem = None, 0, ""
    sent_s = time.perf_counter()
    try:
        for line in lines_of(endpoint, {"prompt": text, "max_new_tokens": planned.tokens}, deadline_s):
            pieces += line.count(b'"text"')
            if pieces and first_s is None:
                first_s = time.perf_counter()
    except (OSError, http.client.HTTPException, Refused) as error:
        problem = f"{type(error).__name__}: {error}"
    # A piece is what one or two tokens made certain.
    if not problem and pieces < planned.tokens // 2:
        problem = f"{pieces} pieces of text for {planned.tokens} tokens"
    return Answer(intended_s, sent_s, first_s, time.perf_counter(), 0 if problem else planned.tokens, problem)


def closed_loop(
    endpoint: Endpoint, requests: Sequence[Planned], clients: int, timeout_s: float, ask: Ask = ask
) -> list[Answer]:
    """`clients` threads, each sending the next request when its last is answered. Raises Refused when one failed."""
    deadline_s = time.perf_counter() + timeout_s

    def send(planned: Planned) -> Answer:
        return ask(endpoint, planned, time.perf_counter(), deadline_s)

    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(send, requests))
    if wrong := [answer.problem for answer in answers if answer.problem]:
        raise Refused(f"{len(wrong)} of {len(answers)} requests failed, the first: {wrong[0]}")
    return answers


def open_loop(endpoint: Endpoint, timetable: Sequence[Planned], give_up_s: float) -> list[Answer]:
    """Send every request at its time whatever became of the others; all end give_up_s after the beginning.

    A thread for each waits for its time from the start: a pool that runs out would hold requests back.
    """
    started_s = time.perf_counter() + 0.2
    answers: list[Answer | None] = [None] * len(timetable)

    def send(place: int) -> None:
        planned = timetable[place]
        intended_s = started_s + planned.start_s
        time.sleep(max(0.0, intended_s - time.perf_counter()))
        answers[place] = ask(endpoint, planned, intended_s, started_s + give_up_s)

    threads = [threading.Thread(target=send, args=(place,), daemon=True) for place in range(len(timetable))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answer for answer in answers if answer]


def _left(deadline_s: float) -> float:
    """Seconds up to a deadline, never none: a socket's timeout of 0 means not to block."""
    return max(0.01, deadline_s - time.perf_counter())
