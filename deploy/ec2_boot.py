"""What instances say while they start, from CloudWatch Logs, as long as a stack is made or changed.

CloudFormation shows that an instance failed, not why; and what a failed creation takes back it takes with its logs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

MARK = "servekit:"
"""What ec2-user-data.sh begins its own lines with."""


SILENCE = (
    "no instance has said anything: do its subnets reach AWS, by a NAT gateway or by the endpoints that "
    "deploy/templates/ec2.yaml names?"
)


class BootLog:
    """The lines since this was made, each once. logs: a boto3 client; group: the log group, which may be made later."""

    def __init__(self, logs: Any, group: str) -> None:
        self._logs = logs
        self._group = group
        self._since_ms = int(time.time() * 1e3)
        self._seen: set[str] = set()

    @property
    def heard(self) -> bool:
        """Whether any instance has said anything."""
        return bool(self._seen)

    def lines(self) -> Iterator[str]:
        """New ones, as `i-…: 34 s: image`."""
        try:
            pages = self._logs.get_paginator("filter_log_events").paginate(
                logGroupName=self._group, startTime=self._since_ms, filterPattern=f'"{MARK}"'
            )
            events = [event for page in pages for event in page["events"]]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return
            raise
        for event in events:
            if event["eventId"] not in self._seen:
                self._seen.add(event["eventId"])
                yield f"{event['logStreamName']}: {event['message'].partition(MARK)[2].strip()}"
