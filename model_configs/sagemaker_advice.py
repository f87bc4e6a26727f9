"""What of `deploy.sagemaker` does not go with the rest of a model's YAML, and what goes but costs."""

from __future__ import annotations

from typing import Any

from model_configs import instances
from model_configs.sagemaker import PING_S, SageMaker
from servekit.settings import LlamaSettings

REAL_TIME_S = 60
"""An answer that is not streamed has to be there by then."""
MOST_BODY_BYTES = 6 << 20
"""Of a request to a real-time endpoint."""


def problems(section: SageMaker, device_type: str | None) -> list[str]:
    """What does not go with the rest of the model's YAML: one line `key.path: …` for each."""
    wrong = []
    flavour = instances.flavour(section.instance_type)
    if device_type == "gpu" and flavour != "cuda":
        wrong.append(
            f"deploy.sagemaker.instance_type: {section.instance_type} has no GPU for torchserve.deviceType: gpu"
        )
    return wrong


def advice(section: SageMaker, handler: Any, response_timeout_s: int, startup_timeout_s: int) -> list[str]:
    """What is allowed but costs: one line for each."""
    lines = []
    streams = isinstance(handler, LlamaSettings)
    if response_timeout_s > REAL_TIME_S and not streams and not section.async_inference:
        lines.append(
            f"torchserve.responseTimeout: SageMaker gives up after {REAL_TIME_S} s, {response_timeout_s} s only keep "
            "the worker busy; async_inference waits up to an hour"
        )
    allowed_s = section.container_startup_timeout_s or PING_S
    if startup_timeout_s > allowed_s:
        lines.append(
            f"deploy.sagemaker.container_startup_timeout_s: {allowed_s} ends a start that "
            f"torchserve.startupTimeout={startup_timeout_s} allows"
        )
    if instances.has_own_disk(section.instance_type) and section.kms_key_id:
        lines.append(
            f"deploy.sagemaker.kms_key_id: {section.instance_type} has a disk of its own, which has a key of its own"
        )
    if section.instance_count == 1 and section.update.strategy in ("canary", "linear"):
        lines.append(
            f"deploy.sagemaker.update.strategy: one instance cannot be shared out, so {section.update.strategy} is "
            "all_at_once in truth; instance_count: 2 or more"
        )
    if section.update.strategy != "all_at_once" and section.update.rollback_on is None:
        lines.append(
            "deploy.sagemaker.update.rollback_on: without alarms nothing watches what "
            f"{section.update.strategy} waits for"
        )
    if not section.async_inference and getattr(handler, "max_request_bytes", 0) > MOST_BODY_BYTES:
        lines.append(f"handler.max_request_bytes: SageMaker lets at most {MOST_BODY_BYTES} through")
    return lines
