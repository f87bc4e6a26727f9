"""One logger for handlers, and quiet for everything else in a worker.

TorchServe's worker logs at INFO to stdout, which the frontend reads line by line and logs again; "Backend received
inference at" alone is one line a batch (ts/protocol/otf_message_handler.py). Metrics travel on the same stdout
(ts/metrics/caching_metric.py), so those stay.
"""

from __future__ import annotations

import logging

log = logging.getLogger("servekit")


def quiet_worker() -> None:
    """WARNING for all loggers but ServeKit's own and the one that carries metrics to the frontend."""
    logging.getLogger().setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    logging.getLogger("ts.metrics.caching_metric").setLevel(logging.INFO)
