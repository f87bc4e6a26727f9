"""What a deployment may leave behind in the services that moto answers for: buckets, roles, alarms, and so on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from deploy.emulator.host import Host

GONE = "DELETE_COMPLETE"
Services = Iterable[tuple[str, str]]
"""Names as signatures have them, each with a region."""


def found(host: Host, services: Services) -> Iterator[str]:
    """A line each: what it is, and its name."""
    for signed, region in services:
        if signed in READERS:
            service, kind, read = READERS[signed]
            for name in read(host.client(service, region)):
                yield f"{kind} {name}"


def stacks(host: Host, services: Services) -> list[str]:
    """CloudFormation's that are not deleted."""
    return list(found(host, [each for each in services if each[0] == "cloudformation"]))


def _stacks(cloudformation: Any) -> list[str]:
    summaries = cloudformation.list_stacks()["StackSummaries"]
    return [stack["StackName"] for stack in summaries if stack["StackStatus"] != GONE]


def _buckets(s3: Any) -> list[str]:
    return [
        f"{bucket['Name']} ({_count(s3, bucket['Name'])} objects)" for bucket in s3.list_buckets().get("Buckets", [])
    ]


def _count(s3: Any, bucket: str) -> int:
    return sum(page["KeyCount"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket))


def _roles(iam: Any) -> list[str]:
    return [role["RoleName"] for role in iam.list_roles()["Roles"] if not role["Path"].startswith("/aws-service-role/")]


def _alarms(cloudwatch: Any) -> list[str]:
    return [alarm["AlarmName"] for alarm in cloudwatch.describe_alarms()["MetricAlarms"]]


def _targets(scaling: Any) -> list[str]:
    found = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
    return [target["ResourceId"] for target in found]


def _log_groups(logs: Any) -> list[str]:
    return [group["logGroupName"] for group in logs.describe_log_groups()["logGroups"]]


READERS: dict[str, tuple[str, str, Callable[[Any], list[str]]]] = {
    "cloudformation": ("cloudformation", "stack", _stacks),
    "s3": ("s3", "bucket", _buckets),
    "iam": ("iam", "role", _roles),
    "monitoring": ("cloudwatch", "alarm", _alarms),
    "logs": ("logs", "log group", _log_groups),
    "application-autoscaling": ("application-autoscaling", "scalable target", _targets),
}
