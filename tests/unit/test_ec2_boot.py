"""What instances say while they start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deploy import ec2_template
from deploy.ec2_boot import MARK, BootLog
from tests.fakes.stacks import refused


class Logs:
    """A log group; error: what asking for it gives."""

    def __init__(self, error: ClientError | None = None) -> None:
        self.error = error
        self.events: list[dict[str, Any]] = []
        self.asked: dict[str, Any] = {}

    def get_paginator(self, name: str) -> Logs:
        assert name == "filter_log_events"
        return self

    def paginate(self, **asked: Any) -> Iterator[dict[str, Any]]:
        self.asked = asked
        if self.error:
            raise self.error
        return iter([{"events": [each]} for each in self.events])


def event(number: int, message: str) -> dict[str, Any]:
    return {"eventId": str(number), "logStreamName": "i-0123", "message": message}


def test_each_line_is_told_once() -> None:
    logs = Logs()
    boot = BootLog(logs, "/servekit/x/boot")
    assert list(boot.lines()) == []
    logs.events = [event(1, "servekit: 34 s: image"), event(2, "  servekit: FAILED: image: manifest unknown\n")]
    assert list(boot.lines()) == ["i-0123: 34 s: image", "i-0123: FAILED: image: manifest unknown"]
    logs.events.append(event(3, "servekit: 40 s: docker"))
    assert list(boot.lines()) == ["i-0123: 40 s: docker"]
    assert logs.asked["logGroupName"] == "/servekit/x/boot"
    assert logs.asked["filterPattern"] == '"servekit:"'


@pytest.mark.parametrize("events", [[], [event(1, "servekit: 34 s: image")]])
def test_whether_anything_was_heard(events: list[dict[str, Any]]) -> None:
    logs = Logs()
    logs.events = events
    boot = BootLog(logs, "x")
    before = boot.heard
    list(boot.lines())
    assert (before, boot.heard) == (False, bool(events))


def test_a_group_that_is_not_made_yet_says_nothing() -> None:
    boot = BootLog(Logs(refused("ResourceNotFoundException", "no group", "FilterLogEvents")), "x")
    assert list(boot.lines()) == []


def test_another_error_is_an_error() -> None:
    boot = BootLog(Logs(refused("AccessDeniedException", "no", "FilterLogEvents")), "x")
    with pytest.raises(ClientError):
        list(boot.lines())


def test_it_is_what_the_script_writes() -> None:
    assert f'echo "{MARK} $SECONDS s: $step"' in ec2_template.script()
    assert f'echo "{MARK} FAILED: ' in ec2_template.script()
