"""A CloudFormation stack: change sets, progress, the first resource that failed and why, and its end.

Knows nothing of what is in a template.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from model_configs.errors import Failed, KitError

POLL_S, EMULATED_POLL_S = 5.0, 0.2
NEVER_MADE = ("REVIEW_IN_PROGRESS", None)
"""A change set that nobody executed leaves a stack without resources."""
DEAD = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED")
"""A creation that failed: such a stack can only be deleted."""
NO_CHANGES = ("didn't contain changes", "No updates are to be performed")
CANCELLED = "cancelled"
Say = Callable[[str], None]
Listen = Callable[[], Iterator[str]]
"""New lines of whoever else has to tell something while a stack changes."""


@dataclass(frozen=True)
class Stack:
    """A stack by name. cloudformation: a boto3 client; poll_s: between two looks at what goes on."""

    cloudformation: Any
    name: str
    poll_s: float = POLL_S

    def describe(self) -> dict[str, Any] | None:
        """DescribeStacks' answer; None where there is no such stack."""
        try:
            return dict(self.cloudformation.describe_stacks(StackName=self.name)["Stacks"][0])
        except ClientError as error:
            if "does not exist" in str(error):
                return None
            raise

    def status(self) -> str | None:
        """CREATE_COMPLETE and the others; None where there is no such stack."""
        found = self.describe()
        return found["StackStatus"] if found else None

    def parameters(self) -> dict[str, str]:
        """What the stack that is there was made with; none of a stack that is not."""
        found = self.describe() or {}
        return {each["ParameterKey"]: each.get("ParameterValue", "") for each in found.get("Parameters", [])}

    def resources(self) -> dict[str, str]:
        """Physical names by logical ones, of a stack that is there."""
        found = self.cloudformation.describe_stack_resources(StackName=self.name)["StackResources"]
        return {
            each["LogicalResourceId"]: each["PhysicalResourceId"] for each in found if each.get("PhysicalResourceId")
        }

    def propose(self, request: dict[str, Any]) -> list[dict[str, Any]] | None:
        """Make a change set and say what it changes, a row each; None when that is nothing. Raises Failed."""
        created = self.cloudformation.create_change_set(**request)["Id"]
        while True:
            found = self.cloudformation.describe_change_set(ChangeSetName=created)
            if found["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
                break
            time.sleep(self.poll_s)
        reason = found.get("StatusReason") or ""
        if found["Status"] == "CREATE_COMPLETE":
            return [_change(each["ResourceChange"]) for each in found.get("Changes", [])]
        self.discard(request)
        if any(words in reason for words in NO_CHANGES):
            return None
        raise Failed(f"{self.name}: {reason}")

    def discard(self, request: dict[str, Any]) -> None:
        """Take the change set away again."""
        self.cloudformation.delete_change_set(StackName=self.name, ChangeSetName=request["ChangeSetName"])

    def execute(self, request: dict[str, Any], say: Say, listen: Listen) -> None:
        """Make the changes and wait for their end. Raises Failed with the first failure's reason."""
        seen = self._event_ids()
        self.cloudformation.execute_change_set(StackName=self.name, ChangeSetName=request["ChangeSetName"])
        self._wait(self.name, ("CREATE_COMPLETE", "UPDATE_COMPLETE"), seen, say, listen)

    def delete(self, say: Say) -> None:
        """Delete it and wait for its end. Raises Failed with the first failure's reason."""
        found = self.describe()
        if found is None:
            return
        seen = self._event_ids()
        self.cloudformation.delete_stack(StackName=self.name)
        # By its name a deleted stack is not found any more, by its ARN it is.
        self._wait(found["StackId"], ("DELETE_COMPLETE",), seen, say, lambda: iter(()))

    def _wait(self, which: str, good: tuple[str, ...], seen: set[str], say: Say, listen: Listen) -> None:
        failure, told = "", ""
        while True:
            status = self._status_of(which)
            for line in listen():
                say(line)
                told = line if "FAILED" in line else told
            for event in self._new_events(which, seen):
                reason = event.get("ResourceStatusReason", "")
                line = f"{event['ResourceStatus']:<28} {event['LogicalResourceId']}"
                say(f"{line}  {reason}" if reason else line)
                if event["ResourceStatus"].endswith("FAILED") and CANCELLED not in reason.lower():
                    failure = failure or f"{event['LogicalResourceId']}: {reason}"
            if status in good:
                return
            if not status.endswith("IN_PROGRESS"):
                words = "; ".join(filter(None, (failure, told)))
                raise Failed(f"{self.name} is {status}: {words or 'no resource says why'}")
            time.sleep(self.poll_s)

    def _status_of(self, which: str) -> str:
        try:
            return str(self.cloudformation.describe_stacks(StackName=which)["Stacks"][0]["StackStatus"])
        except ClientError as error:
            if "does not exist" in str(error):
                return "DELETE_COMPLETE"
            raise

    def _event_ids(self) -> set[str]:
        return {event["EventId"] for event in self._events(self.name)}

    def _new_events(self, which: str, seen: set[str]) -> list[dict[str, Any]]:
        """Oldest first; they are seen then."""
        found = [event for event in self._events(which) if event["EventId"] not in seen]
        seen.update(event["EventId"] for event in found)
        return found[::-1]

    def _events(self, which: str) -> list[dict[str, Any]]:
        try:
            pages = self.cloudformation.get_paginator("describe_stack_events").paginate(StackName=which)
            return [event for page in pages for event in page["StackEvents"]]
        except ClientError as error:
            if "does not exist" in str(error):
                return []
            raise


def require_settled(stack: Stack) -> str | None:
    """The stack's status, None where there is none. Raises KitError while something else changes it."""
    status = stack.status()
    if status in NEVER_MADE:
        return None
    if status is not None and status.endswith("IN_PROGRESS"):
        raise KitError(
            f"{stack.name} is {status}: something changes it", "wait for its end: kit.py deploy ec2 … status"
        )
    return status


def _change(change: dict[str, Any]) -> dict[str, Any]:
    return {
        "change": change["Action"],
        "resource": change["LogicalResourceId"],
        "type": change["ResourceType"],
        "replaced": change.get("Replacement", ""),
    }
