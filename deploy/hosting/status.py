"""How an endpoint is: its versions and instances, its alarms, its scaling; what is in service and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy.hosting import changes, current, names
from deploy.hosting.calls import Calls, explained
from deploy.hosting.layout import Layout

IN_SERVICE = "InService"


@dataclass(frozen=True)
class Status:
    """rows: for people; document: for JSON; problem: why it is not in service, or empty."""

    rows: list[dict[str, Any]]
    document: dict[str, Any]
    problem: str


def read(calls: Calls, layout: Layout) -> Status:
    """Look. Raises KitError where AWS lets nobody look."""
    with explained("reading what is there"):
        return _read(calls, layout)


def _read(calls: Calls, layout: Layout) -> Status:
    name = layout.endpoint
    endpoint = current.endpoint(calls, name)
    if endpoint is None:
        return Status([], {"endpoint": name, "status": None}, f"there is no endpoint {name}")
    state, reason = endpoint["EndpointStatus"], endpoint.get("FailureReason", "")
    config = endpoint.get("EndpointConfigName")
    previous = current.tags(calls, endpoint["EndpointArn"]).get(names.PREVIOUS_TAG)
    rows = [_row("endpoint", name, state, reason)]
    rows.append(_row("configuration", config, "in use", f"rollback goes to {previous}" if previous else ""))
    variants = [_variant(variant) for variant in endpoint.get("ProductionVariants", [])]
    shadows = [_variant(variant) | {"shadow": True} for variant in endpoint.get("ShadowProductionVariants", [])]
    rows += [
        _row("variant", each["name"], each["doing"] or "serving", f"{each['instances']} of {each['wanted']} instances")
        for each in [*variants, *shadows]
    ]
    alarms = _alarms(calls, layout)
    rows += [_row("alarm", alarm, value, "") for alarm, value in alarms.items()]
    scaling = _scaling(calls, name)
    if scaling:
        rows.append(_row("autoscaling", names.resource(name), "on", f"{scaling['min']} to {scaling['max']} instances"))
    document = {
        "endpoint": name,
        "region": layout.place.region,
        "status": state,
        "reason": reason or None,
        "configuration": config,
        "previous_configuration": previous,
        "variants": [*variants, *shadows],
        "alarms": alarms,
        "autoscaling": scaling,
    }
    return Status(rows, document, "" if state == IN_SERVICE else f"{name} is {state}{f': {reason}' if reason else ''}")


def _row(what: str, name: str | None, state: str, detail: str) -> dict[str, Any]:
    return {"what": what, "name": name, "state": state, "detail": detail}


def _variant(variant: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": variant["VariantName"],
        "instances": variant.get("CurrentInstanceCount"),
        "wanted": variant.get("DesiredInstanceCount"),
        "weight": variant.get("CurrentWeight"),
        "doing": ", ".join(each["Status"] for each in variant.get("VariantStatus", [])),
    }


def _alarms(calls: Calls, layout: Layout) -> dict[str, str]:
    watched = layout.section.update.rollback_on
    wanted = [*changes.alarm_names(calls, layout.endpoint), *(watched.alarms if watched else [])]
    if not wanted:
        return {}
    found = calls.client("cloudwatch").describe_alarms(AlarmNames=wanted)["MetricAlarms"]
    return {alarm["AlarmName"]: alarm["StateValue"] for alarm in found}


def _scaling(calls: Calls, name: str) -> dict[str, Any] | None:
    scaling = calls.client("application-autoscaling")
    wanted = {"ServiceNamespace": "sagemaker"}
    targets = scaling.describe_scalable_targets(**wanted, ResourceIds=[names.resource(name)])["ScalableTargets"]
    if not targets:
        return None
    policies = current.policies(scaling, names.resource(name))
    return {
        "min": targets[0]["MinCapacity"],
        "max": targets[0]["MaxCapacity"],
        "policies": sorted(policies),
    }
