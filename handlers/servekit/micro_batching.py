"""A batch cut into micro-batches that pass through stages, whose work overlaps. Knows no model and no handler.

It stands in for ts.handler_utils.micro_batching, whose stage threads end at the first exception and whose caller
then waits for ever, as does every caller after it. Here every item has exactly one outcome before a deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

Stage = tuple[str, Callable[[list[Any]], Sequence[Any]], int]
"""Name, function, number of threads. The function takes the items of one micro-batch and gives as many results, in the
same order; a result that is an Exception is that item's end. Its threads are the pipeline's, so what torch keeps for
each thread (inference_mode, the current device) is set inside the function."""


@dataclass(frozen=True)
class Failed:
    """The outcome of an item that has no result: what its stage raised or gave for it, or TimeoutError."""

    error: Exception


@dataclass
class _Run:
    """One call of Pipeline.run. Its outcomes arrive in a queue of its own, so a late one cannot reach another run."""

    outcomes: SimpleQueue[tuple[int, Any]] = field(default_factory=SimpleQueue)  # (place among the items, outcome)
    abandoned: bool = False


@dataclass
class _MicroBatch:
    run: _Run
    places: list[int]
    values: list[Any]


class Pipeline:
    """Stages with threads of their own, which live until close().

    A stage that never returns keeps its thread: runs then end at their deadlines with what the other threads did.
    """

    def __init__(self, stages: Sequence[Stage], *, micro_batch_size: int) -> None:
        if not stages or micro_batch_size < 1 or any(parallelism < 1 for _, _, parallelism in stages):
            raise ValueError("a pipeline has at least one stage, one thread in each, and one item in a micro-batch")
        self._stages = list(stages)
        self._micro_batch_size = micro_batch_size
        self._queues: list[SimpleQueue[_MicroBatch | None]] = [SimpleQueue() for _ in stages]
        self._idle = threading.Condition()
        self._running = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(number,), name=f"{name}-{copy}", daemon=True)
            for number, (name, _, parallelism) in enumerate(stages)
            for copy in range(parallelism)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, items: Sequence[Any], timeout_s: float) -> list[Any]:
        """An outcome for each item, in their order: the last stage's result, or Failed.

        Returns after timeout_s at the latest; items that are not done by then have failed with TimeoutError, and
        stages that have not begun with them never will. Several threads may run at once; their micro-batches queue
        in the order of arrival. Raises RuntimeError after close().
        """
        deadline = time.monotonic() + timeout_s
        run = _Run()
        with self._idle:
            if self._closed:
                raise RuntimeError("the pipeline is closed")
            self._running += 1
        try:
            for start in range(0, len(items), self._micro_batch_size):
                values = list(items[start : start + self._micro_batch_size])
                self._queues[0].put(_MicroBatch(run, list(range(start, start + len(values))), values))
            outcomes: list[Any] = [Failed(TimeoutError(f"not done within {timeout_s:g} s"))] * len(items)
            for _ in items:
                place, outcome = run.outcomes.get(timeout=max(0.0, deadline - time.monotonic()))
                outcomes[place] = outcome
        except Empty:
            pass  # the deadline
        finally:
            run.abandoned = True
            with self._idle:
                self._running -= 1
                self._idle.notify_all()
        return outcomes

    def close(self, timeout_s: float) -> None:
        """Let no run begin, wait for those under way, end the threads; all within timeout_s. May be called again.

        What is left then is a stage that does not return; its thread ends with it, and is no reason for the process to
        stay.
        """
        deadline = time.monotonic() + timeout_s
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._running, timeout_s)
        for waiting, (_, _, parallelism) in zip(self._queues, self._stages, strict=True):
            for _ in range(parallelism):
                waiting.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _serve(self, number: int) -> None:
        while self._serve_one(number):
            pass

    def _serve_one(self, number: int) -> bool:
        """Take one micro-batch through one stage; False at the end. A function of its own, so that a thread that waits
        holds nothing of the last micro-batch."""
        batch = self._queues[number].get()
        if batch is None:
            return False
        if batch.run.abandoned:
            return True
        name, function, _ = self._stages[number]
        results = _apply(name, function, batch.values)
        going_on = _MicroBatch(batch.run, [], [])
        for place, result in zip(batch.places, results, strict=True):
            if isinstance(result, Exception):
                batch.run.outcomes.put((place, Failed(result)))
            elif number + 1 == len(self._stages):
                batch.run.outcomes.put((place, result))
            else:
                going_on.places.append(place)
                going_on.values.append(result)
        if going_on.places:
            self._queues[number + 1].put(going_on)
        return True


def _apply(name: str, function: Callable[[list[Any]], Sequence[Any]], values: list[Any]) -> list[Any]:
    """What the stage gives for the values, as many as they are; its one exception for each of them when it fails."""
    count = len(values)
    try:
        results = list(function(values))
        if len(results) != count:
            raise ValueError(f"{name} gave {len(results)} results for {count} items")
    except Exception as error:  # noqa: BLE001 - whatever a stage raises is its items' outcome, not its thread's end
        return [error] * count
    except BaseException as error:  # noqa: BLE001 - SystemExit in a thread ends no process, only the thread, unseen
        ended = RuntimeError(f"{name} raised {type(error).__name__}: {error}")
        ended.__cause__ = error
        return [ended] * count
    return results
