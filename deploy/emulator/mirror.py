"""Shadow variants: a copy of requests goes to them too, and their answers are dropped. Clients notice nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from deploy.emulator import forward
from deploy.emulator.host import Host
from deploy.emulator.traffic import Lease, Turns, Variant

ANSWER_S = 60.0
_turns: Turns[Variant | None] = Turns()
_lock = threading.Lock()


def mirror(host: Host, lease: Lease, body: bytes, headers: Mapping[str, str]) -> None:
    """Send a copy to the shadow of the lease's fleet, if it has one and it is its turn by its share of weight."""
    for shadow in lease.fleet.shadows:
        share = min(1.0, shadow.weight / lease.variant.weight) if lease.variant.weight else 0.0
        with _lock:
            chosen = _turns.next({shadow: share, None: 1.0 - share})
        if chosen is not None:
            held = lease.again(shadow)
            threading.Thread(target=_send, args=(host, held, body, dict(headers)), daemon=True).start()


def _send(host: Host, lease: Lease, body: bytes, headers: Mapping[str, str]) -> None:
    deadline = time.monotonic() + ANSWER_S * host.options.limit_scale
    try:
        answer = forward.post(lease.variant.container, body, headers, deadline)
        answer.body(deadline)
        answer.close()
    except (forward.TooSlow, forward.Broken) as error:
        host.report(f"shadow {lease.variant.name}: {type(error).__name__} {error}")
    finally:
        lease.release()
