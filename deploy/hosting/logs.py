"""The last lines that an endpoint's container has written: what most often tells why it did not start."""

from __future__ import annotations

from botocore.exceptions import ClientError

from deploy.hosting import names
from deploy.hosting.calls import Calls

LINES = 15


def tail(calls: Calls, endpoint: str) -> list[str]:
    """The last lines of the newest stream, under a line that says where more is."""
    group = names.log_group(endpoint)
    found = [f"log group {group}"]
    logs = calls.client("logs")
    try:
        streams = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True, limit=1)
        for stream in streams["logStreams"]:
            events = logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"], limit=LINES)
            found += [f"  {event['message'].rstrip()}" for event in events["events"]]
    except ClientError as error:
        return [f"{found[0]}: {error.response['Error']['Code']}"]
    return found
