"""A CloudFormation whose stack goes through states that a test writes down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

ARN = "arn:aws:cloudformation:eu-west-1:123456789012:stack/servekit-minilm/1"
Event = tuple[str, str, str]
"""Status, resource, reason."""


def refused(code: str, message: str, operation: str = "DescribeStacks") -> ClientError:
    """What boto3 raises."""
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


@dataclass
class Stacks:
    """states: each with the events that it brings; a call of DescribeStacks after execute or delete takes one step.

    before: the stack's state until then, None for no stack. change_set: statuses with reasons, the last one stays.
    """

    before: str | None = None
    states: list[tuple[str | None, list[Event]]] = field(default_factory=list)
    change_set: list[tuple[str, str]] = field(default_factory=lambda: [("CREATE_COMPLETE", "")])
    changes: list[dict[str, Any]] = field(default_factory=list)
    parameters: dict[str, str] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    started: bool = False
    events: list[dict[str, Any]] = field(default_factory=list)

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        if self.started and len(self.states):
            state, events = self.states.pop(0)
            self.before = state
            for status, resource, reason in events:
                self._event(status, resource, reason)
        if self.before is None:
            raise refused("ValidationError", f"Stack with id {StackName} does not exist")
        parameters = [{"ParameterKey": key, "ParameterValue": value} for key, value in self.parameters.items()]
        return {"Stacks": [{"StackStatus": self.before, "StackId": ARN, "Parameters": parameters}]}

    def describe_stack_resources(self, StackName: str) -> dict[str, Any]:
        found = [{"LogicalResourceId": key, "PhysicalResourceId": value} for key, value in self.resources.items()]
        return {"StackResources": [*found, {"LogicalResourceId": "NotYet"}]}

    def create_change_set(self, **request: Any) -> dict[str, Any]:
        self.calls.append(f"create {request['ChangeSetType']}")
        return {"Id": "change-set"}

    def describe_change_set(self, ChangeSetName: str) -> dict[str, Any]:
        status, reason = self.change_set.pop(0) if len(self.change_set) > 1 else self.change_set[0]
        return {
            "Status": status,
            "StatusReason": reason,
            "Changes": [{"ResourceChange": each} for each in self.changes],
        }

    def delete_change_set(self, StackName: str, ChangeSetName: str) -> None:
        self.calls.append("discard")

    def execute_change_set(self, StackName: str, ChangeSetName: str) -> None:
        self.calls.append("execute")
        self.started = True

    def delete_stack(self, StackName: str) -> None:
        self.calls.append("delete")
        self.started = True

    def get_paginator(self, name: str) -> Stacks:
        assert name == "describe_stack_events"
        return self

    def paginate(self, StackName: str) -> Iterator[dict[str, Any]]:
        """Two events a page, the newest first, as CloudFormation has them."""
        if self.before is None and StackName != ARN:
            raise refused("ValidationError", f"Stack [{StackName}] does not exist", "DescribeStackEvents")
        newest = self.events[::-1]
        return iter([{"StackEvents": newest[start : start + 2]} for start in range(0, len(newest), 2)])

    def _event(self, status: str, resource: str, reason: str) -> None:
        event = {"EventId": str(len(self.events)), "ResourceStatus": status, "LogicalResourceId": resource}
        self.events.append(event | ({"ResourceStatusReason": reason} if reason else {}))
