from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from servekit.micro_batching import Failed, Pipeline

PATIENCE_S = 20.0  # what a run takes at most; none of these should
NAMES = ("preprocess", "inference", "postprocess")


def same(values: list[Any]) -> list[Any]:
    return values


@contextmanager
def pipeline(
    *functions: Callable[[list[Any]], Any], size: int = 1, parallelism: tuple[int, ...] = (1, 1, 1)
) -> Iterator[Pipeline]:
    made = Pipeline(list(zip(NAMES, functions, parallelism, strict=False)), micro_batch_size=size)
    try:
        yield made
    finally:
        made.close(PATIENCE_S)


@dataclass(frozen=True)
class Item:
    """How this item goes: the stage where it fails, if any, alone or by raising for its whole micro-batch."""

    number: int
    fails_in: str | None
    raises: bool


def stage(name: str) -> Callable[[list[Any]], list[Any]]:
    def work(values: list[tuple[Item, list[str]]]) -> list[Any]:
        if any(item.raises and item.fails_in == name for item, _ in values):
            raise ValueError(name)
        return [LookupError(item.number) if item.fails_in == name else (item, [*path, name]) for item, path in values]

    return work


def expected(items: list[Item], size: int) -> Iterator[str]:
    """What has to come back for each item, from its own micro-batch alone."""
    for start in range(0, len(items), size):
        alive = {item.number: "" for item in items[start : start + size]}
        for name in NAMES:
            here = [item for item in items[start : start + size] if not alive[item.number] and item.fails_in == name]
            if any(item.raises for item in here):
                alive = {number: end or f"ValueError({name!r})" for number, end in alive.items()}
            for item in here:
                alive[item.number] = alive[item.number] or f"LookupError({item.number})"
        yield from (end or "done" for end in alive.values())


def seen(item: Item, outcome: Any) -> str:
    if isinstance(outcome, Failed):
        return repr(outcome.error)
    assert outcome == (item, list(NAMES))
    return "done"


@given(
    st.lists(st.tuples(st.sampled_from([None, None, None, *NAMES]), st.booleans()), max_size=40),
    st.integers(1, 9),
    st.tuples(*[st.integers(1, 4)] * 3),
)
@example([("inference", True), (None, False)], 1, (1, 1, 1))
@settings(max_examples=60)
def test_every_item_has_its_own_outcome_in_order_whatever_fails(
    ends: list[tuple[str | None, bool]], size: int, parallelism: tuple[int, ...]
) -> None:
    items = [Item(number, fails_in, raises) for number, (fails_in, raises) in enumerate(ends)]
    with pipeline(*map(stage, NAMES), size=size, parallelism=parallelism) as made:
        for _ in range(2):  # the threads that have seen an exception serve the second run
            outcomes = made.run([(item, []) for item in items], PATIENCE_S)
            assert [seen(*pair) for pair in zip(items, outcomes, strict=True)] == list(expected(items, size))


@given(st.integers(0, 30), st.integers(1, 9))
@settings(max_examples=20)
def test_items_are_cut_in_order_into_full_micro_batches(count: int, size: int) -> None:
    cuts: list[list[int]] = []
    with pipeline(lambda values: cuts.append(values) or values, size=size) as made:  # type: ignore[func-returns-value]
        assert made.run(range(count), PATIENCE_S) == list(range(count))
    assert list(itertools.chain(*cuts)) == list(range(count))
    assert all(len(cut) == size for cut in cuts[:-1])


def test_stages_of_different_micro_batches_overlap() -> None:
    """Each stage waits for the other two: none gets on unless all three work at once."""
    together = threading.Barrier(3, timeout=PATIENCE_S)

    def meet(number: int) -> Callable[[list[int]], list[int]]:
        def work(values: list[int]) -> list[int]:
            # Micro-batches 0, 1, 2 meet when 0 is in the last stage, 1 in the second and 2 in the first.
            if values[0] + number == 2:
                together.wait()
            return values

        return work

    with pipeline(meet(0), meet(1), meet(2)) as made:
        assert made.run([0, 1, 2], PATIENCE_S) == [0, 1, 2]


def test_threads_of_one_stage_work_side_by_side() -> None:
    together = threading.Barrier(3, timeout=PATIENCE_S)
    with pipeline(same, lambda values: [together.wait() >= 0], parallelism=(1, 3)) as made:
        assert made.run("abc", PATIENCE_S) == [True] * 3


def test_order_is_the_items_when_later_micro_batches_finish_first() -> None:
    last_is_done = threading.Event()

    def work(values: list[int]) -> list[int]:
        if values == [0]:
            assert last_is_done.wait(PATIENCE_S)
        if values == [3]:
            last_is_done.set()
        return values

    with pipeline(work, parallelism=(2,)) as made:
        assert made.run(range(4), PATIENCE_S) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda values: values[1:], "inference gave 1 results for 2 items"),
        (lambda values: None, "'NoneType' object is not iterable"),
        (lambda values: (1 / 0 for _ in values), "division by zero"),
    ],
    ids=["too few", "nothing", "a generator that raises late"],
)
def test_a_stage_that_does_not_answer_for_its_items_fails_their_micro_batch(
    function: Callable[[list[int]], Any], message: str
) -> None:
    def work(values: list[int]) -> Any:
        return function(values) if 0 in values else values

    with pipeline(same, work, same, size=2) as made:
        outcomes = made.run(range(4), PATIENCE_S)
        assert [str(outcome.error) for outcome in outcomes[:2]] == [message] * 2
        assert outcomes[2:] == [2, 3]


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_not_even_an_exit_ends_a_thread(ending: type[BaseException]) -> None:
    def work(values: list[int]) -> list[int]:
        if values == [1]:
            raise ending("enough")
        return values

    with pipeline(same, work, same) as made:
        for _ in range(2):
            first, failed, last = made.run(range(3), PATIENCE_S)
            assert (first, last) == (0, 2)
            # An Exception, so that a caller that raises it again does not end its process.
            assert str(failed.error) == f"inference raised {ending.__name__}: enough"
            assert isinstance(failed.error.__cause__, ending)


def test_what_is_not_done_by_the_deadline_times_out_and_never_mixes_into_the_next_run() -> None:
    begun, release = threading.Event(), threading.Event()
    computed: list[Any] = []

    def work(values: list[Any]) -> list[Any]:
        if values == ["slow"]:
            begun.set()
            assert release.wait(PATIENCE_S)
        computed.extend(values)
        return values

    with pipeline(same, work, same) as made:
        outcomes = made.run(["fast", "slow", "behind"], 0.2)
        assert begun.is_set()
        assert outcomes[0] == "fast"
        assert [type(outcome.error) for outcome in outcomes[1:]] == [TimeoutError, TimeoutError]
        assert str(outcomes[1].error) == "not done within 0.2 s"
        given_back = list(outcomes)
        release.set()
        assert made.run(["a", "b", "c"], PATIENCE_S) == ["a", "b", "c"]
    assert outcomes == given_back
    assert computed == ["fast", "slow", "a", "b", "c"]  # nothing is computed that nobody waits for


@pytest.mark.parametrize("timeout_s", [0.0, -1.0])
def test_no_time_is_an_answer_at_once(timeout_s: float) -> None:
    release = threading.Event()
    with pipeline(lambda values: [release.wait(PATIENCE_S) for _ in values]) as made:
        (outcome,) = made.run([1], timeout_s)
        assert isinstance(outcome.error, TimeoutError)
        assert made.run([], timeout_s) == []
        release.set()


def test_runs_from_several_threads_get_their_own_outcomes() -> None:
    callers = 8
    together = threading.Barrier(callers, timeout=PATIENCE_S)
    outcomes: dict[int, list[Any]] = {}
    with pipeline(same, lambda values: [-value for value in values], same, size=3, parallelism=(2, 3, 2)) as made:

        def call(number: int) -> None:
            together.wait()
            outcomes[number] = made.run(range(number, number + 20), PATIENCE_S)

        threads = [threading.Thread(target=call, args=(100 * number,)) for number in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == {n: [-value for value in range(n, n + 20)] for n in range(0, 100 * callers, 100)}


def test_close_waits_for_the_run_under_way_and_leaves_no_thread() -> None:
    begun, release = threading.Event(), threading.Event()
    outcomes: list[Any] = []

    def work(values: list[int]) -> list[int]:
        begun.set()
        assert release.wait(PATIENCE_S)
        return values

    before = set(threading.enumerate())
    made = Pipeline([("preprocess", work, 2), ("inference", same, 3)], micro_batch_size=1)
    own = set(threading.enumerate()) - before
    assert len(own) == 5
    assert all(thread.daemon for thread in own)
    caller = threading.Thread(target=lambda: outcomes.extend(made.run(range(9), PATIENCE_S)))
    closer = threading.Thread(target=made.close, args=(PATIENCE_S,))
    caller.start()
    assert begun.wait(PATIENCE_S)
    closer.start()
    release.set()
    closer.join()
    caller.join()
    assert outcomes == list(range(9))
    assert not any(thread.is_alive() for thread in own)
    made.close(PATIENCE_S)
    with pytest.raises(RuntimeError, match="the pipeline is closed"):
        made.run([1], PATIENCE_S)


def test_close_does_not_wait_for_a_stage_that_never_returns() -> None:
    release = threading.Event()
    made = Pipeline([("preprocess", lambda values: [release.wait(PATIENCE_S) for _ in values], 1)], micro_batch_size=1)
    made.run([1], 0.01)
    made.close(0.01)
    release.set()
    made.close(PATIENCE_S)
    assert not any(thread.name == "preprocess-0" for thread in threading.enumerate())


@pytest.mark.parametrize(("stages", "size"), [([], 1), ([("inference", same, 0)], 1), ([("inference", same, 1)], 0)])
def test_a_pipeline_of_nothing_is_refused(stages: list[Any], size: int) -> None:
    with pytest.raises(ValueError, match="at least one stage"):
        Pipeline(stages, micro_batch_size=size)


STAGES = """
class Handler:
    def preprocess(self, values):
        return [int(value) for value in values]
    def inference(self, values):
        return [value * value for value in values]
    def postprocess(self, values):
        return values
"""

STOCK = f"""
import json, os, threading, types
from ts.handler_utils.micro_batching import MicroBatching
{STAGES}
micro_batching = MicroBatching(Handler(), micro_batch_size=1)

def answer(items, wait_s):
    answers = []
    thread = threading.Thread(target=lambda: answers.append(micro_batching.handle(items)), daemon=True)
    thread.start()
    thread.join(wait_s)
    return answers[0] if answers else "hangs"

threading.excepthook = lambda _: None
seen = [answer(["1", "2"], 20), answer(["3", "four", "5"], 1)]
# Not merely slow: the one thread that could take the next item has ended.
alive = micro_batching.thread_groups["preprocess"][0].thread.is_alive()
seen += [answer(["6", "7"], 1), "alive" if alive else "its thread has ended"]
print(json.dumps(seen), flush=True)
os._exit(0)  # its threads are not daemons: the process would not end by itself
"""


def test_torchserves_own_hangs_where_this_one_answers() -> None:
    stock = subprocess.run([sys.executable, "-c", STOCK], capture_output=True, timeout=60, check=True)
    assert json.loads(stock.stdout) == [[1, 4], "hangs", "hangs", "its thread has ended"]

    handler: dict[str, Any] = {}
    exec(STAGES, handler)  # noqa: S102 - the very same stages
    stages = handler["Handler"]()
    with pipeline(stages.preprocess, stages.inference, stages.postprocess) as made:
        assert made.run(["1", "2"], PATIENCE_S) == [1, 4]
        three, four, five = made.run(["3", "four", "5"], PATIENCE_S)
        assert (three, five) == (9, 25)
        assert isinstance(four.error, ValueError)
        assert made.run(["6", "7"], PATIENCE_S) == [36, 49]
