"""What a side says and is told: a JSON line in, a JSON line out. Runs by any Python; knows nothing of models.

    (first)                              {"versions": {…}, "threads": n}
    {"ids": [[…], …], "calls": n}        {"ms": […]}     one forward pass over texts of as many tokens
    {"texts": […], "to": "file.npy"}     {"texts": n}    the vectors, in their order
    {"texts": […], "at_a_time": k, "calls": n}
                                         {"ms": […]}     texts to vectors, k in a call, batched in each side's own way

One call that is not timed comes first: it brings weights and code into the caches, as the request before does in
a server.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any


def serve(
    packages: Sequence[str],
    threads: int,
    forward: Callable[[list[list[int]]], Any],
    embed: Callable[[list[str]], Any],
) -> None:
    """Answer until standard input ends. packages: whose versions are told."""
    import numpy as np

    answer({"versions": {name: version(name) for name in packages}, "threads": threads})
    for line in sys.stdin:
        asked = json.loads(line)
        if "ids" in asked:
            answer({"ms": timed(partial(forward, asked["ids"]), asked["calls"])})
        elif "to" in asked:
            np.save(asked["to"], np.asarray(embed(asked["texts"]), dtype=np.float32))
            answer({"texts": len(asked["texts"])})
        else:
            texts, size = asked["texts"], asked["at_a_time"]
            slices = [texts[start : start + size] for start in range(0, len(texts), size)]
            answer({"ms": timed(partial(each_of, embed, slices), asked["calls"])})


def each_of(call: Callable[[list[str]], Any], slices: Sequence[list[str]]) -> None:
    """Call it with one after the other."""
    for each in slices:
        call(each)


def timed(call: Callable[[], Any], calls: int) -> list[float]:
    """Milliseconds of each call, after one that is not timed."""
    call()
    ms = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        ms.append(1e3 * (time.perf_counter() - started))
    return ms


def answer(words: dict[str, Any]) -> None:
    """A line."""
    print(json.dumps(words), flush=True)
