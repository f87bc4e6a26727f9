"""The metrics that handlers export, and how a worker hands them to TorchServe's frontend.

TorchServe builds Prometheus histograms with the client's default buckets, 0.005 to 10
(PrometheusHistogram.java), so times are in seconds and shares between 0 and 1: milliseconds would all
land in +Inf. Knows nothing of what the numbers mean to a handler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

LABELS = ("ModelName", "Level")


@dataclass(frozen=True)
class Metric:
    """One metric as TorchServe's metrics.yaml declares it; labels are LABELS, Hostname is added by the worker."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str


TOKENIZE = Metric("servekit_tokenize_seconds", "histogram", "Seconds")
READ = Metric("servekit_read_seconds", "histogram", "Seconds")
FORWARD = Metric("servekit_forward_seconds", "histogram", "Seconds")
SEARCH = Metric("servekit_search_seconds", "histogram", "Seconds")
ANSWER = Metric("servekit_answer_seconds", "histogram", "Seconds")
BATCH_FILL = Metric("servekit_batch_fill_ratio", "histogram", "Ratio")
PADDING = Metric("servekit_padding_waste_ratio", "histogram", "Ratio")
TEXTS = Metric("servekit_texts_total", "counter", "Count")
ITEMS = Metric("servekit_items_total", "counter", "Count")
TRUNCATED = Metric("servekit_truncated_texts_total", "counter", "Count")
REFUSED = Metric("servekit_refused_requests_total", "counter", "Count")
SERVED = Metric("servekit_request_seconds", "histogram", "Seconds")
TTFT = Metric("servekit_time_to_first_token_seconds", "histogram", "Seconds")
TPOT = Metric("servekit_time_per_output_token_seconds", "histogram", "Seconds")
QUEUE = Metric("servekit_slot_wait_seconds", "histogram", "Seconds")
OCCUPANCY = Metric("servekit_slots_in_use_ratio", "histogram", "Ratio")
TOKENS_IN = Metric("servekit_prompt_tokens_total", "counter", "Count")
TOKENS_OUT = Metric("servekit_generated_tokens_total", "counter", "Count")
CANCELLED = Metric("servekit_cancelled_requests_total", "counter", "Count")
TOKENS_SAVED = Metric("servekit_saved_tokens_total", "counter", "Count")
RECOMPILES = Metric("servekit_recompiles_total", "counter", "Count")
FAILED = Metric("servekit_failed_requests_total", "counter", "Count")

MODEL_METRICS = (
    *(TOKENIZE, READ, FORWARD, SEARCH, ANSWER, BATCH_FILL, PADDING, TEXTS, ITEMS, TRUNCATED, REFUSED),
    *(SERVED, TTFT, TPOT, QUEUE, OCCUPANCY, TOKENS_IN, TOKENS_OUT, CANCELLED, TOKENS_SAVED, RECOMPILES, FAILED),
)


class Recorder:
    """Writes observations of one model through a worker's metric cache (context.metrics)."""

    def __init__(self, metric_cache: Any, model_name: str) -> None:
        # Imported here: the kit reads the list above where no TorchServe worker is.
        from ts.metrics.metric_cache_errors import MetricsCacheKeyError
        from ts.metrics.metric_type_enum import MetricTypes

        self._labels = [model_name, "Model"]
        self._metrics: dict[Metric, Any] = {}
        for metric in MODEL_METRICS:
            kind = MetricTypes(metric.kind)
            try:
                cached = metric_cache.get_metric(metric.name, kind)
            except MetricsCacheKeyError:  # a metrics.yaml that is not ours
                cached = metric_cache.add_metric_to_cache(metric.name, metric.unit, list(LABELS), kind)
            self._metrics[metric] = cached

    def observe(self, metric: Metric, value: float) -> None:
        """Add value to a counter, or record it in a gauge or histogram."""
        self._metrics[metric].add_or_update(round(value, 6), self._labels)
