"""The thread that runs an engine: rows are submitted and cancelled by name, their steps collected in order.

The engine may be one step ahead of whoever collects, not more: a step is computed while the one before it travels to
the clients, and where nobody collects any more, nothing is computed for long.
Knows nothing of text, and of TorchServe only that somebody calls `collect` again and again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from servekit.engines.base import Engine, Prompt, Step
from servekit.log import log

AHEAD = 2
"""Steps that may wait to be collected before the engine stops: the one that travels and the one that follows."""


class EngineLoop:
    """Start with start(), end with close(). All methods may be called from any thread."""

    def __init__(self, engine: Engine, prepare_thread: Callable[[], None] = lambda: None) -> None:
        """prepare_thread runs first in the engine's thread."""
        self._engine, self._prepare = engine, prepare_thread
        self._changed = threading.Condition()
        self._waiting: deque[Prompt] = deque()
        self._gone: set[str] = set()
        self._steps: dict[str, list[Step]] = {}
        self._submitted_s: dict[str, float] = {}
        self._uncollected = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.waits_s: deque[float] = deque(maxlen=1024)
        """How long each row waited for its slot, newest last; whoever reads them clears them."""

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def submit(self, prompt: Prompt) -> None:
        """A new row. Its key must not be in flight."""
        with self._changed:
            if prompt.key in self._steps:
                raise ValueError(f"the key {prompt.key!r} is in flight")
            self._steps[prompt.key] = []
            self._submitted_s[prompt.key] = time.monotonic()
            self._waiting.append(prompt)
            self._changed.notify_all()

    def cancel(self, key: str) -> None:
        """Nobody waits for this row any more: it ends at the next step, and its steps are no longer collected."""
        with self._changed:
            if key not in self._steps:
                return
            del self._steps[key]
            waiting = next((prompt for prompt in self._waiting if prompt.key == key), None)
            if waiting:
                self._waiting.remove(waiting)
                self._submitted_s.pop(key)
            else:
                self._gone.add(key)
            self._changed.notify_all()

    def collect(self, timeout_s: float) -> dict[str, list[Step]]:
        """What rows in flight have gained since the last call; waits until one has, or for timeout_s."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(self._steps.values()), timeout=timeout_s)
            gained = {key: steps for key, steps in self._steps.items() if steps}
            for key, steps in gained.items():
                if steps[-1].finish:
                    del self._steps[key]
                else:
                    self._steps[key] = []
            self._uncollected = 0
            self._changed.notify_all()
            return gained

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread; rows in flight end with it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def in_flight(self) -> int:
        """Rows that were submitted and neither finished nor were cancelled."""
        with self._changed:
            return len(self._steps)

    def take(self, most: int) -> list[Prompt]:
        """base.Inbox for the engine."""
        with self._changed:
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            now = time.monotonic()
            self.waits_s.extend(now - self._submitted_s.pop(prompt.key) for prompt in taken)
            return taken

    def cancelled(self, key: str) -> bool:
        """base.Inbox for the engine."""
        with self._changed:
            return self._closed or key in self._gone

    def _run(self) -> None:
        self._prepare()
        while self._await_work():
            try:
                for steps in self._engine.stream(self):
                    self._hand_over(steps)
            except Exception as error:  # noqa: BLE001 - whatever an engine raises, its rows' clients have to be told
                log.exception("the engine's stream broke")
                self._fail(f"{type(error).__name__}: {error}")
            else:
                self._fail("the engine ended without an answer")

    def _await_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            return not self._closed

    def _hand_over(self, steps: list[Step]) -> None:
        with self._changed:
            for step in steps:
                if step.key in self._steps:
                    self._steps[step.key].append(step)
                if step.finish:
                    self._gone.discard(step.key)
            if not any(step.key in self._steps for step in steps):
                return
            self._uncollected += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._uncollected < AHEAD or not self._steps)

    def _fail(self, message: str) -> None:
        """End the rows that a stream has left without a finish; those that still wait are the next stream's."""
        with self._changed:
            waiting = {prompt.key for prompt in self._waiting}
            for key, steps in self._steps.items():
                if key not in waiting and not (steps and steps[-1].finish):
                    steps.append(Step(key, finish="error", message=message))
            self._gone.clear()
            self._changed.notify_all()
