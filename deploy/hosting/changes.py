"""What of a plan is still to be done, in its order: made, changed, removed; and what is there already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from deploy.hosting import current, names, scaling, upload, waiting
from deploy.hosting.calls import Calls, is_gone
from deploy.hosting.current import Verb
from deploy.hosting.plan import Plan
from deploy.hosting.steps import Step
from deploy.hosting.upload import Source
from model_configs.errors import Failed, KitError

CREATE = "CreateEndpoint"
UPDATABLE = ("InService", "OutOfService", *waiting.UNSETTLED)
"""What may be compared with a plan; apply waits before."""
TYPE_CHANGES = "SageMaker changes no instance type of what is scaled"


@dataclass(frozen=True)
class Change:
    """step: the call, which is made unless the verb is keep."""

    verb: Verb
    step: Step


def find(calls: Calls, plan: Plan, endpoint: dict[str, Any] | None) -> list[Change]:
    """Compare with the account. endpoint: DescribeEndpoint's answer, or None.

    Raises KitError for what is there and not the kit's, Failed for an endpoint that cannot be updated.
    """
    where = plan.layout
    check_owned(calls, where.endpoint, endpoint)
    current.check_bucket(calls, where.bucket, is_made=not where.section.bucket)
    is_scaled = current.is_scaled(calls, where.endpoint)
    renewed = endpoint is not None and is_scaled and _is_replaced(calls, plan, endpoint)
    missing = {source.step.name for source in missing_files(calls, plan)}
    gone_off = _gone_off(calls, plan, endpoint)
    found = [Change("remove", step) for step in gone_off]
    anew = {name for step in gone_off for name in step.request["AlarmNames"]}
    for step in plan.steps:
        if step.operation == "PutObject":
            found.append(Change("make" if step.name in missing else "keep", step))
        elif step.name in anew:
            found.append(Change("make", step))
        elif step.operation == CREATE:
            found += _endpoint_changes(plan, endpoint, renewed=renewed)
        elif renewed and step.operation in ("RegisterScalableTarget", "PutScalingPolicy"):
            found.append(Change("make", step))  # deregistering takes its policies along
        else:
            found.append(Change(current.verdict(step, current.read(calls, step)), step))
    if is_scaled and where.section.autoscaling is None:
        found.append(Change("remove", deregister(where.endpoint, "the YAML asks for none")))
    found += [Change("remove", step) for step in _stale_alarms(calls, plan)]
    return found


def check_owned(calls: Calls, plan_endpoint: str, endpoint: dict[str, Any] | None) -> None:
    """Raises KitError for an endpoint of this name that the kit did not make."""
    if endpoint and current.tags(calls, endpoint["EndpointArn"]).get(names.ENDPOINT_TAG) != plan_endpoint:
        raise KitError(
            f"there is an endpoint {plan_endpoint}, and the kit did not make it",
            "deploy.sagemaker.endpoint_name gives this model's another name",
        )


def sources(plan: Plan) -> list[Source]:
    """The plan's files, with where they are on this machine."""
    folders = {plan.layout.archive_prefix(part.manifest): part.manifest.folder for part in plan.parts}
    return [
        Source(step, folder / step.name.removeprefix(prefix))
        for step in plan.only("PutObject")
        for prefix, folder in folders.items()
        if step.name.startswith(prefix)
    ]


def missing_files(calls: Calls, plan: Plan) -> list[Source]:
    """Those that S3 does not have whole."""
    found: list[Source] = []
    for part in {part.manifest.digest: part for part in plan.parts}.values():
        prefix = plan.layout.archive_prefix(part.manifest)
        mine = [source for source in sources(plan) if source.step.name.startswith(prefix)]
        try:
            found += upload.missing(calls.client("s3"), mine, prefix)
        except ClientError as error:
            if not is_gone(error):
                raise
            found += mine  # there is no bucket yet
    return found


def deregister(endpoint: str, why: str) -> Step:
    """Ends autoscaling."""
    return Step("application-autoscaling", "DeregisterScalableTarget", scaling.target(endpoint), why)


def rows(found: list[Change]) -> list[dict[str, Any]]:
    """A table for people: files in one line a verb."""
    table = []
    files = Counter(change.verb for change in found if change.step.operation == "PutObject")
    told = False
    for change in found:
        step = change.step
        if step.operation != "PutObject":
            table.append(_row(change.verb, step, step.name, step.why))
        elif not told:
            told = True
            table += [_row(verb, step, f"{count} files", "the archive") for verb, count in files.items()]
    return table


def documents(found: list[Change]) -> list[dict[str, Any]]:
    """The same for JSON; what there is of each is in the plan's calls."""
    return [{"verb": row[""], **{key: row[key] for key in ("service", "call", "name", "why")}} for row in rows(found)]


def _row(verb: str, step: Step, name: str, why: str) -> dict[str, Any]:
    return {"": verb, "service": step.service, "call": step.operation, "name": name, "why": why}


def _endpoint_changes(plan: Plan, endpoint: dict[str, Any] | None, *, renewed: bool) -> Iterator[Change]:
    (create,) = plan.only(CREATE)
    if endpoint is None:
        yield Change("make", create)
        return
    status, name = endpoint["EndpointStatus"], endpoint["EndpointName"]
    if status == "Failed":  # SageMaker does nothing else with such an endpoint
        if renewed:
            yield Change("remove", deregister(name, "the endpoint is made anew"))
        why = endpoint.get("FailureReason", "it failed")
        yield Change("remove", Step("sagemaker", "DeleteEndpoint", {"EndpointName": name}, why))
        yield Change("make", create)
    elif status not in UPDATABLE:
        raise Failed(f"{name} is {status}: {endpoint.get('FailureReason', '')}")
    elif endpoint["EndpointConfigName"] == plan.config_name:
        yield Change("keep", create)
    else:
        if renewed:
            yield Change("remove", deregister(name, TYPE_CHANGES))
        yield Change("change", plan.update)


def _is_replaced(calls: Calls, plan: Plan, endpoint: dict[str, Any]) -> bool:
    """Whether what is scaled now cannot stay so meanwhile."""
    if endpoint["EndpointStatus"] == "Failed":
        return True
    now = current.instance_type(calls, endpoint.get("EndpointConfigName", ""))
    return now is not None and now != plan.layout.section.instance_type


def _gone_off(calls: Calls, plan: Plan, endpoint: dict[str, Any] | None) -> list[Step]:
    """Alarms on a version that was tried before and taken back: they would take it back again before it answers."""
    if endpoint is None or endpoint.get("EndpointConfigName") == plan.config_name:
        return []
    watching = [step.name for step in plan.only("PutMetricAlarm") if step.name.startswith(plan.config_name)]
    found = calls.client("cloudwatch").describe_alarms(AlarmNames=watching, StateValue="ALARM") if watching else {}
    rung = [alarm["AlarmName"] for alarm in found.get("MetricAlarms", [])]
    why = "they went off when this version was tried before"
    return [Step("cloudwatch", "DeleteAlarms", {"AlarmNames": rung}, why)] if rung else []


def _stale_alarms(calls: Calls, plan: Plan) -> Iterator[Step]:
    """Of configurations that no update goes to any more."""
    planned = {step.name for step in plan.only("PutMetricAlarm")}
    if stale := [name for name in alarm_names(calls, plan.layout.endpoint) if name not in planned]:
        yield Step("cloudwatch", "DeleteAlarms", {"AlarmNames": stale}, "they watched another version")


def alarm_names(calls: Calls, endpoint: str) -> list[str]:
    """All alarms of the kit's on an endpoint."""
    stem = names.stem(endpoint)
    pages = calls.client("cloudwatch").get_paginator("describe_alarms").paginate(AlarmNamePrefix=f"{stem}-")
    found = [alarm["AlarmName"] for page in pages for alarm in page["MetricAlarms"]]
    return [name for name in found if _is_mine(name, endpoint)]


def _is_mine(alarm: str, endpoint: str) -> bool:
    if alarm == scaling.from_zero_name(endpoint):
        return True
    length = len(names.stem(endpoint)) + 1 + names.HASH_LENGTH
    return names.is_versioned(alarm[:length], endpoint) and alarm[length:].startswith(("-error-rate", "-latency-"))
