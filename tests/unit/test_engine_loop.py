"""The thread between clients and an engine: nothing is lost, nobody waits for ever, nothing runs for nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from servekit.engines.base import Capabilities, Inbox, OneProcess, Prompt, Step
from servekit.generation.loop import AHEAD, EngineLoop

PATIENCE_S = 10.0


class Counting(OneProcess):
    """An engine that counts each row's tokens up; `before_step` is called before every step."""

    capabilities = Capabilities(2, 100, continuous=True, per_request_sampling=True, logprobs=False)

    def __init__(self, before_step: Callable[[int], None] = lambda step: None) -> None:
        self.before_step = before_step
        self.steps = 0
        self.cancelled: list[str] = []

    def warmup(self) -> list[tuple[str, float]]:
        return []

    def fingerprint(self) -> dict[str, str]:
        return {}

    def close(self) -> None: ...

    def stream(self, inbox: Inbox) -> Iterator[list[Step]]:
        rows: dict[str, tuple[Prompt, int]] = {}
        while True:
            gone = [key for key in rows if inbox.cancelled(key)]
            self.cancelled += gone
            for key in gone:
                del rows[key]
            rows |= {prompt.key: (prompt, 0) for prompt in inbox.take(2 - len(rows))}
            if not rows:
                return
            self.before_step(self.steps)
            self.steps += 1
            steps = [Step(key, finish="cancelled") for key in gone]
            for key, (prompt, done) in list(rows.items()):
                last = done + 1 == prompt.max_new_tokens
                steps.append(Step(key, done, finish="length" if last else None))
                rows[key] = (prompt, done + 1)
                if last:
                    del rows[key]
            yield steps


@pytest.fixture
def started() -> Iterator[Callable[[Counting], EngineLoop]]:
    loops: list[EngineLoop] = []

    def start(engine: Counting) -> EngineLoop:
        loops.append(EngineLoop(engine))
        loops[-1].start()
        return loops[-1]

    yield start
    for loop in loops:
        loop.close()
        assert not loop._thread.is_alive()


def prompt(key: str, new: int = 3) -> Prompt:
    return Prompt(key, (1,), new)


def collect_all(loop: EngineLoop) -> dict[str, list[Step]]:
    rows: dict[str, list[Step]] = {}
    deadline = time.monotonic() + PATIENCE_S
    while loop.in_flight and time.monotonic() < deadline:
        for key, steps in loop.collect(0.1).items():
            rows.setdefault(key, []).extend(steps)
    return rows


def test_every_row_gets_its_steps_in_order(started: Callable[[Counting], EngineLoop]) -> None:
    loop = started(Counting())
    for number in range(7):
        loop.submit(prompt(str(number), 1 + number))
    rows = collect_all(loop)
    assert {key: [step.token_id for step in steps] for key, steps in rows.items()} == {
        str(number): list(range(1 + number)) for number in range(7)
    }
    assert len(loop.waits_s) == 7


def test_the_engine_stops_where_nobody_collects(started: Callable[[Counting], EngineLoop]) -> None:
    engine = Counting()
    loop = started(engine)
    loop.submit(prompt("a", 1000))
    loop.collect(PATIENCE_S)
    time.sleep(0.2)
    assert engine.steps <= 2 * AHEAD
    loop.collect(PATIENCE_S)


def test_a_cancelled_row_frees_the_engine_within_a_step(started: Callable[[Counting], EngineLoop]) -> None:
    engine = Counting()
    loop = started(engine)
    loop.submit(prompt("a", 1000))
    loop.submit(prompt("b", 5))
    loop.collect(PATIENCE_S)
    before = engine.steps
    loop.cancel("a")
    rows = collect_all(loop)
    assert rows["b"][-1].finish == "length"
    assert "a" not in rows
    assert engine.cancelled == ["a"]
    assert engine.steps <= before + AHEAD + 5


def test_a_row_that_waits_is_cancelled_before_it_starts(started: Callable[[Counting], EngineLoop]) -> None:
    hold = threading.Event()

    def wait(step: int) -> None:
        hold.wait(PATIENCE_S)

    engine = Counting(wait)
    loop = started(engine)
    for key in "abc":
        loop.submit(prompt(key))
    loop.cancel("c")
    hold.set()
    assert set(collect_all(loop)) == {"a", "b"}
    assert engine.cancelled == []


def test_an_engine_that_raises_ends_its_rows_and_serves_the_next(started: Callable[[Counting], EngineLoop]) -> None:
    def broken(step: int) -> None:
        if step == 1:
            raise ZeroDivisionError("a fault")

    loop = started(Counting(broken))
    loop.submit(prompt("a", 5))
    rows = collect_all(loop)
    assert rows["a"][-1].finish == "error"
    assert rows["a"][-1].message == "ZeroDivisionError: a fault"
    engine_again = prompt("b", 2)
    loop._engine.steps = 2  # type: ignore[attr-defined]
    loop.submit(engine_again)
    assert [step.finish for step in collect_all(loop)["b"]] == [None, "length"]


def test_nothing_to_collect_returns_after_the_timeout(started: Callable[[Counting], EngineLoop]) -> None:
    assert started(Counting()).collect(0.01) == {}


def test_a_key_in_flight_is_refused(started: Callable[[Counting], EngineLoop]) -> None:
    loop = started(Counting())
    loop.submit(prompt("a", 1000))
    with pytest.raises(ValueError, match="'a' is in flight"):
        loop.submit(prompt("a"))
