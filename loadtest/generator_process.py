"""A generator process that makes run after run, told a plan's file at a time.

    python -m gevent.monkey --module loadtest.generator_process

The same users as under Locust, greenlets that share a timetable (loadtest/generator.py), without what Locust does at
each start and end. See line_process for how it is spoken to.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gevent

from loadtest.clients import Client, client_of
from loadtest.generator import Shift
from loadtest.plan import Plan

START_DELAY_S = 0.2
"""Until all users wait for the beginning."""
GRACE_S = 5.0
"""After the last answer may have come, for what hangs."""


def make(plan: Plan) -> None:
    """One run; its records are in the plan's folder when this returns."""
    shift = Shift(plan, 0, 1, time.time() + START_DELAY_S, lambda call, record: None)
    new_client = client_of(plan.target, plan.load)
    users = [
        gevent.spawn(_work, shift, new_client) for _ in range(plan.load.clients if plan.closed else plan.load.users)
    ]
    cpu = gevent.spawn(shift.watch_the_cpu)
    left_s = START_DELAY_S + plan.total_s + plan.load.timeout_s + GRACE_S
    gevent.joinall(users, timeout=left_s)
    gevent.killall([user for user in users if not user.dead])
    cpu.join()
    shift.close()


def _work(shift: Shift, new_client: Callable[[], Client]) -> None:
    client = new_client()
    try:
        shift.work(client)
    finally:
        client.close()


def main() -> None:
    """See the module's docstring."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        make(Plan.model_validate_json(Path(json.loads(line)["plan"]).read_text()))
        print(json.dumps({"done": True}), flush=True)


if __name__ == "__main__":
    main()
