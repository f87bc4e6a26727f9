"""Chunks of replies while their batch still runs. Knows nothing of what they hold."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any


class BatchStream:
    """The open replies of one batch that TorchServe sent whole; any thread may send."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self._lock = threading.Lock()
        self.over = False

    def send_chunks(self, chunks: Mapping[int, bytes], content_types: Mapping[int, str]) -> None:
        """Send these places' chunks now; nothing once the batch is over.

        A message about requests that have been answered would end the worker's connection (BatchAggregator.java).
        """
        from ts.handler_utils.utils import send_intermediate_predict_response

        with self._lock:
            if not chunks or self.over:
                return
            for place in chunks:
                self.context.set_response_content_type(place, content_types[place])
            ids = {place: self.context.request_ids[place] for place in chunks}
            send_intermediate_predict_response(dict(chunks), ids, "Intermediate Prediction success", 200, self.context)

    def end(self) -> None:
        """From now on nothing is sent."""
        with self._lock:
            self.over = True
