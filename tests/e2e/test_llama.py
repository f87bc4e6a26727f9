"""The demo language model as users meet it: curl -N, OpenAI's client, the streaming article's iterator, and floods."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from model_configs import ROOT
from model_configs.schema import load_model
from tests.e2e.conftest import Started, kit, serving
from tests.fakes.token_iterator import TokenIterator

PORT = 18580
PROMPT = "The with statement is used to"
CONFIG = load_model("pydoc-llama")


@pytest.fixture(scope="module")
def llama() -> Iterator[Started]:
    with serving("pydoc-llama", PORT) as server:
        yield server


@pytest.fixture
def openai(llama: Started) -> Iterator[OpenAI]:
    base = f"{llama.url}/predictions/pydoc-llama/1.0/v1"
    with OpenAI(base_url=base, api_key=llama.token or "", max_retries=0) as client:
        yield client


@pytest.fixture(autouse=True)
def same_worker(llama: Started) -> Iterator[None]:
    """Whatever a test does, the worker lives on."""
    before = workers(llama)
    yield
    assert workers(llama) == before


def workers(llama: Started) -> list[int]:
    reply = llama.server.management().get("/models/pydoc-llama")
    return [worker["pid"] for worker in json.loads(reply.body)[0]["workers"]]


def post(llama: Started, body: Any, **options: Any) -> requests.Response:
    return requests.post(
        f"{llama.url}/predictions/pydoc-llama", json=body, headers=llama.headers, timeout=60, **options
    )


def tgi(prompt: str = PROMPT, *, stream: bool = False, **parameters: Any) -> dict[str, Any]:
    return {"inputs": prompt, "parameters": {"max_new_tokens": 30, **parameters}, "stream": stream}


def metric(llama: Started, name: str) -> float:
    text = llama.server.metrics().get("/metrics").body.decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


def answer(llama: Started) -> str:
    text: str = post(llama, tgi()).json()[0]["generated_text"]
    return text


def test_the_printed_curl_lines_stream(llama: Started) -> None:
    lines = [line for line in llama.output.splitlines() if line.startswith("curl ")]
    assert len(lines) == 3
    for line in lines:
        reply = subprocess.run(f"{line} -sf", shell=True, cwd=ROOT, capture_output=True, check=True)
        assert len(reply.stdout) > 40


def test_openais_client_completes_and_chats(llama: Started, openai: OpenAI) -> None:
    assert [model.id for model in openai.models.list()] == ["pydoc-llama"]
    whole = openai.completions.create(model="pydoc-llama", prompt=PROMPT, max_tokens=30, temperature=0)
    assert whole.usage is not None
    assert whole.choices[0].text == answer(llama)
    events = openai.completions.create(
        model="pydoc-llama",
        prompt=PROMPT,
        max_tokens=30,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(events)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    chat = openai.chat.completions.create(
        model="pydoc-llama",
        messages=[{"role": "user", "content": "What is a generator?"}],
        max_tokens=20,
        temperature=0,
        stream=True,
        logprobs=True,
        top_logprobs=2,
    )
    parts = [chunk.choices[0] for chunk in chat]
    assert "".join(part.delta.content or "" for part in parts)
    assert parts[-1].finish_reason in ("stop", "length")


def test_the_streaming_articles_iterator_reads_it(llama: Started) -> None:
    with post(llama, tgi(stream=True), stream=True) as reply:
        events = ({"PayloadPart": {"Bytes": part}} for part in reply.iter_content(chunk_size=None))
        assert "".join(TokenIterator(events)) == answer(llama)


def test_text_comes_while_it_is_made(llama: Started) -> None:
    with post(llama, tgi(stream=True, max_new_tokens=200, ignore_eos=True), stream=True) as reply:
        times = [time.monotonic() for _ in reply.iter_content(chunk_size=None)]
    assert len(times) > 20
    assert times[len(times) // 2] < times[-1]


def test_bad_requests_get_a_clear_answer(llama: Started) -> None:
    limit = CONFIG.handler.max_length
    for status, body in (
        (413, tgi("word " * 2000)),
        (413, tgi(max_new_tokens=10_000)),
        (400, tgi("")),
        (400, tgi(temperature=-1)),
        (422, tgi(warmth=2)),
    ):
        with ThreadPoolExecutor(2) as pool:
            bad, good = pool.map(lambda each: post(llama, each), (body, tgi()))
        assert bad.status_code == status
        assert bad.json()["error"]["message"]
        assert good.json() == [{"generated_text": answer(llama)}]
    assert str(limit) in post(llama, tgi("word " * 2000)).json()["error"]["message"]


def test_clients_that_go_away_free_their_slots(llama: Started) -> None:
    saved = metric(llama, "servekit_saved_tokens_total")
    slots = CONFIG.torchserve.batchSize
    long = tgi(stream=True, max_new_tokens=400, ignore_eos=True)

    def leave(_: int) -> None:
        with post(llama, long, stream=True) as reply:
            next(reply.iter_content(chunk_size=1))

    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(leave, range(slots)))
    expected = answer(llama)  # after eight long answers that nobody waits for, were they still computed
    assert len(expected) > 10
    deadline = time.monotonic() + 10
    while metric(llama, "servekit_saved_tokens_total") - saved < slots * 200 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert metric(llama, "servekit_saved_tokens_total") - saved >= slots * 200


def test_a_flood_of_long_prompts_is_answered_or_told_at_once(llama: Started) -> None:
    long = tgi(" ".join(["statement"] * 220), max_new_tokens=60, ignore_eos=True)
    room = CONFIG.torchserve.jobQueueSize or 100
    with ThreadPoolExecutor(3 * room) as pool:
        replies = [pool.submit(post, llama, long) for _ in range(3 * room)]
        seen = [reply.result() for reply in replies]
    told = [reply for reply in seen if reply.status_code == 503]
    good = [reply for reply in seen if reply.status_code == 200]
    assert len(told) + len(good) == len(seen)
    assert len(good) >= room
    assert told
    assert max(reply.elapsed.total_seconds() for reply in told) < min(
        max(reply.elapsed.total_seconds() for reply in good), 5.0
    )
    assert len({reply.text for reply in good}) == 1


def test_ops_see_it(llama: Started) -> None:
    answer(llama)
    for name in (
        "servekit_time_to_first_token_seconds_count",
        "servekit_time_per_output_token_seconds_count",
        "servekit_slot_wait_seconds_count",
        "servekit_slots_in_use_ratio_count",
        "servekit_prompt_tokens_total",
        "servekit_generated_tokens_total",
    ):
        assert metric(llama, name) > 0, name
    assert kit("probe", "pydoc-llama", "--port", str(PORT)).returncode == 0
