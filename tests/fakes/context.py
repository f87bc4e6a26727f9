"""A worker's context without a worker: TorchServe's own Context, with metrics kept in a list."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from ts.context import Context, RequestProcessor
from ts.metrics.metric_cache_errors import MetricsCacheKeyError


class RecordedMetrics:
    """The part of TorchServe's metric cache that handlers use; values[name] holds what was observed."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)
        self._known: dict[str, Any] = {}

    def get_metric(self, name: str, kind: Any) -> Any:
        if name not in self._known:
            raise MetricsCacheKeyError(name)
        return self._known[name]

    def add_metric_to_cache(self, name: str, unit: str, dimension_names: list[str], kind: Any) -> Any:
        values = self.values[name]

        class Metric:
            def add_or_update(self, value: float, dimension_values: list[str]) -> None:
                assert len(dimension_values) == len(dimension_names)
                values.append(value)

        self._known[name] = Metric()
        return self._known[name]


def make_context(model_dir: Path, yaml_config: dict[str, Any], batch_size: int = 8, name: str = "minilm") -> Context:
    context = Context(name, str(model_dir), {}, batch_size, None, "0.12.0", True, RecordedMetrics(), yaml_config)
    context.request_processor = []
    return context


def ask(handler: Any, context: Context, requests: list[tuple[Any, dict[str, str]]]) -> list[tuple[int, bytes]]:
    """Send one batch of (body, headers) through handler.handle; a body of None is a row without one."""
    context.request_processor = [RequestProcessor({"url_path": "", **headers}) for _, headers in requests]
    context.request_ids = {index: f"request-{index}" for index in range(len(requests))}
    rows = [{} if body is None else {"body": body} for body, _ in requests]
    replies = handler.handle(rows, context)
    return [(context.get_response_status(index)[0], reply) for index, reply in enumerate(replies)]
