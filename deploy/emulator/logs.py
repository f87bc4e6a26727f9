"""What a container writes, into CloudWatch Logs as far as its role allows: /aws/sagemaker/Endpoints/<endpoint>.

Written when a container is in service and when it ends; SageMaker does so all the time. Knows nothing of what is said.
"""

from __future__ import annotations

import time
from typing import Any

from botocore.exceptions import ClientError

from deploy.emulator.container import Container
from deploy.emulator.host import Host
from deploy.emulator.permissions import Role

MOST_LINES = 1000
MOST_BYTES = 8000
"""Of a line."""


def group_name(endpoint: str) -> str:
    """The log group of an endpoint."""
    return f"/aws/sagemaker/Endpoints/{endpoint}"


def deliver(host: Host, region: str, endpoint: str, role: Role | None, container: Container) -> None:
    """Send what it has written since the last time. A role that may not write its logs loses them, as on AWS."""
    lines = container.new_lines()[-MOST_LINES:]
    if not lines or role is None:
        return
    group, stream = group_name(endpoint), f"{container.spec.variant['VariantName']}/{container.spec.name}"
    session = host.aws(region)
    arn = f"arn:{session.partition}:logs:{region}:{session.account}:log-group:{group}"
    needed = {"logs:CreateLogStream": f"{arn}:log-stream:{stream}", "logs:PutLogEvents": f"{arn}:log-stream:{stream}"}
    if missing := [action for action, resource in needed.items() if not role.allows(action, resource)]:
        host.report(f"{stream}: no logs in CloudWatch: its role lacks {', '.join(missing)}")
        return
    client = host.client("logs", region)
    if role.allows("logs:CreateLogGroup", arn):
        _unless_there(client.create_log_group, logGroupName=group)
    now_ms = int(time.time() * 1000)
    events = [{"timestamp": now_ms, "message": line[:MOST_BYTES]} for line in lines]
    try:
        _unless_there(client.create_log_stream, logGroupName=group, logStreamName=stream)
        client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)
    except ClientError as error:
        host.report(f"{stream}: no logs in CloudWatch: {error}")


def _unless_there(create: Any, **arguments: str) -> None:
    try:
        create(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
            raise
