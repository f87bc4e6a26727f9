"""Waits until an endpoint has settled, and says what it does meanwhile.

An update that was rolled back leaves the endpoint InService, on its old configuration: the status alone says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from model_configs.errors import Failed
from model_configs.sagemaker import PING_S, SageMaker

Endpoint = dict[str, Any]
UNSETTLED = ("Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting")
PROVISION_S = 1800
"""For instances to come; SageMaker itself gives up after some of it."""
DOWNLOAD_S = 1200
SEEN_S = 60
"""An update that has not begun by then has not been taken."""


def is_settled(endpoint: Endpoint | None) -> bool:
    """Whether nothing is going on."""
    return endpoint is None or endpoint["EndpointStatus"] not in UNSETTLED


def start_timeout_s(section: SageMaker) -> int:
    """Most that instances may take to be in service."""
    download_s = section.model_data_download_timeout_s or DOWNLOAD_S
    return PROVISION_S + download_s + (section.container_startup_timeout_s or PING_S)


def update_timeout_s(section: SageMaker) -> int:
    """Most that an update may take, its way back included."""
    update = section.update
    steps = 1 if update.strategy != "rolling" else -(-100 // (update.size_percent or 5))
    planned_s = start_timeout_s(section) * steps + update.waits_s(section.instance_count)
    return 2 * (update.max_execution_s or planned_s)


def settled(
    describe: Callable[[], Endpoint | None],
    timeout_s: float,
    poll_s: float,
    say: Callable[[str], None],
    *,
    until: Callable[[Endpoint | None], bool] = is_settled,
) -> Endpoint | None:
    """The endpoint once nothing goes on any more. Raises Failed after timeout_s seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        endpoint = describe()
        if until(endpoint):
            return endpoint
        now = progress(endpoint) if endpoint else "not there yet"
        say(now)
        if time.monotonic() > deadline:
            raise Failed(f"after {timeout_s:.0f} s still: {now}")
        time.sleep(poll_s)


def arrived(
    describe: Callable[[], Endpoint | None],
    config_name: str,
    before: Endpoint | None,
    timeout_s: float,
    poll_s: float,
    say: Callable[[str], None],
) -> Endpoint:
    """The endpoint, in service on this configuration. before: as it was described before the call.

    Raises Failed with SageMaker's reason when it is not, also when it was rolled back.
    """
    begun_by = time.monotonic() + SEEN_S
    begun = before is None

    def done(endpoint: Endpoint | None) -> bool:
        nonlocal begun
        # What is described may be older than the call: an old reason would then look like a new one.
        late = time.monotonic() > begun_by
        begun = begun or _modified(endpoint) != _modified(before) or late
        return begun and is_settled(endpoint) and (endpoint is not None or late)

    endpoint = settled(describe, timeout_s, poll_s, say, until=done)
    if endpoint is None:
        raise Failed("the endpoint is not there any more")
    status, now = endpoint["EndpointStatus"], endpoint.get("EndpointConfigName")
    reason = endpoint.get("FailureReason") or "SageMaker gives no reason"
    if status == "InService" and now == config_name:
        return endpoint
    if status == "InService":
        raise Failed(f"{endpoint['EndpointName']} was rolled back to {now}: {reason}")
    raise Failed(f"{endpoint['EndpointName']} is {status}: {reason}")


def progress(endpoint: Endpoint) -> str:
    """What goes on, in a line."""
    pending = endpoint.get("PendingDeploymentSummary", {}).get("ProductionVariants", [])
    variants = [*pending, *endpoint.get("ProductionVariants", [])]
    parts = [endpoint["EndpointStatus"]]
    for variant in variants:
        counts = [variant.get("CurrentInstanceCount", 0), variant.get("DesiredInstanceCount", 0)]
        doing = ", ".join(each["Status"] for each in variant.get("VariantStatus", []))
        fleet = "new" if variant in pending else "now"
        parts.append(f"{fleet}: {counts[0]} of {counts[1]} instances{f', {doing}' if doing else ''}")
    return "; ".join(parts)


def _modified(endpoint: Endpoint | None) -> object:
    return (endpoint["LastModifiedTime"], endpoint["EndpointStatus"]) if endpoint else None
