"""Stacks that come, change, fail and go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError

from deploy.ec2_stack import Stack, require_settled
from model_configs.errors import Failed, KitError
from tests.fakes.stacks import Stacks, refused

REQUEST = {"StackName": "servekit-minilm", "ChangeSetName": "servekit", "ChangeSetType": "CREATE"}


def stack(fake: Stacks) -> Stack:
    return Stack(fake, "servekit-minilm", poll_s=0)


def nothing() -> Iterator[str]:
    return iter(())


def test_a_stack_that_is_not_there() -> None:
    found = stack(Stacks())
    assert (found.describe(), found.status(), found.parameters()) == (None, None, {})
    found.delete(print)


def test_another_error_is_not_taken_for_absence() -> None:
    class Denied(Stacks):
        def describe_stacks(self, StackName: str) -> dict[str, object]:
            raise refused("AccessDenied", "no")

    with pytest.raises(ClientError):
        stack(Denied()).status()


def test_names_and_parameters_of_one_that_is_there() -> None:
    found = stack(Stacks("CREATE_COMPLETE", parameters={"MinSize": "1"}, resources={"Instances": "a-group"}))
    assert found.parameters() == {"MinSize": "1"}
    assert found.resources() == {"Instances": "a-group"}


def test_what_would_change_is_told_before_it_does() -> None:
    change = {"Action": "Modify", "LogicalResourceId": "LaunchTemplate", "ResourceType": "T", "Replacement": "False"}
    fake = Stacks("CREATE_COMPLETE", change_set=[("CREATE_PENDING", ""), ("CREATE_COMPLETE", "")], changes=[change])
    expected = [{"change": "Modify", "resource": "LaunchTemplate", "type": "T", "replaced": "False"}]
    assert stack(fake).propose(REQUEST) == expected
    assert fake.calls == ["create CREATE"]


@pytest.mark.parametrize(
    "reason",
    [
        "The submitted information didn't contain changes. Submit different information to create a change set.",
        "No updates are to be performed.",
    ],
)
def test_no_changes_leave_no_change_set(reason: str) -> None:
    fake = Stacks("CREATE_COMPLETE", change_set=[("FAILED", reason)])
    assert stack(fake).propose(REQUEST) is None
    assert fake.calls == ["create CREATE", "discard"]


def test_a_change_set_that_fails_says_why() -> None:
    fake = Stacks(change_set=[("FAILED", "Parameter validation failed: SubnetsOfTheVpc")])
    with pytest.raises(Failed, match="servekit-minilm: Parameter validation failed: SubnetsOfTheVpc"):
        stack(fake).propose(REQUEST)
    assert fake.calls[-1] == "discard"


def test_progress_is_told_event_by_event_oldest_first_and_once() -> None:
    fake = Stacks(
        "REVIEW_IN_PROGRESS",
        states=[
            ("CREATE_IN_PROGRESS", [("CREATE_IN_PROGRESS", "A", ""), ("CREATE_COMPLETE", "A", ""), ("CREATE_IN_PROGRESS", "B", "")]),
            ("CREATE_IN_PROGRESS", []),
            ("CREATE_COMPLETE", [("CREATE_COMPLETE", "B", "")]),
        ],
    )  # fmt: skip
    fake._event("REVIEW_IN_PROGRESS", "servekit-minilm", "")
    said: list[str] = []
    stack(fake).execute(REQUEST, said.append, nothing)
    assert [" ".join(line.split()) for line in said] == [
        "CREATE_IN_PROGRESS A",
        "CREATE_COMPLETE A",
        "CREATE_IN_PROGRESS B",
        "CREATE_COMPLETE B",
    ]


FAILURE = [
    ("CREATE_FAILED", "Instances", "Received 1 FAILURE signal(s) out of 1"),
    ("CREATE_FAILED", "Scaling", "Resource creation cancelled"),
]


def test_the_first_failure_is_the_reason_and_what_it_took_along_is_not() -> None:
    fake = Stacks(
        states=[("ROLLBACK_IN_PROGRESS", FAILURE[::-1]), ("ROLLBACK_COMPLETE", [("DELETE_FAILED", "Role", "in use")])]
    )
    with pytest.raises(Failed) as caught:
        stack(fake).execute(REQUEST, print, nothing)
    expected = "servekit-minilm is ROLLBACK_COMPLETE: Instances: Received 1 FAILURE signal(s) out of 1"
    assert str(caught.value) == expected


def test_what_an_instance_has_said_is_part_of_the_reason() -> None:
    fake = Stacks(states=[("CREATE_IN_PROGRESS", []), ("ROLLBACK_COMPLETE", FAILURE)])
    lines = iter([["i-0: 3 s: image"], ["i-0: FAILED: image: manifest unknown"], []])
    said: list[str] = []
    with pytest.raises(Failed, match=r"out of 1; i-0: FAILED: image: manifest unknown$"):
        stack(fake).execute(REQUEST, said.append, lambda: iter(next(lines, [])))
    assert said[0] == "i-0: 3 s: image"


def test_an_update_that_goes_back_has_failed() -> None:
    fake = Stacks(
        "CREATE_COMPLETE", states=[("UPDATE_ROLLBACK_COMPLETE", [("UPDATE_FAILED", "Instances", "no signal")])]
    )
    with pytest.raises(Failed, match="servekit-minilm is UPDATE_ROLLBACK_COMPLETE: Instances: no signal"):
        stack(fake).execute(REQUEST, print, nothing)


def test_clean_up_after_an_update_is_waited_for() -> None:
    fake = Stacks("CREATE_COMPLETE", states=[("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", []), ("UPDATE_COMPLETE", [])])
    stack(fake).execute(REQUEST, print, nothing)
    assert fake.states == []


def test_a_deleted_stack_is_followed_by_its_arn_to_its_end() -> None:
    fake = Stacks("CREATE_COMPLETE", states=[("DELETE_IN_PROGRESS", []), (None, [("DELETE_COMPLETE", "Role", "")])])
    said: list[str] = []
    found = stack(fake)
    found.delete(said.append)
    assert fake.calls == ["delete"]
    assert "Role" in said[-1]


def test_what_cannot_be_deleted_is_named() -> None:
    fake = Stacks(
        "CREATE_COMPLETE", states=[("DELETE_FAILED", [("DELETE_FAILED", "InstanceGroup", "in use by eni-1")])]
    )
    with pytest.raises(Failed, match="servekit-minilm is DELETE_FAILED: InstanceGroup: in use by eni-1"):
        stack(fake).delete(print)


@pytest.mark.parametrize(
    ("status", "settled"),
    [(None, None), ("REVIEW_IN_PROGRESS", None), ("CREATE_COMPLETE", "CREATE_COMPLETE"), ("ROLLBACK_COMPLETE",) * 2],
)
def test_a_change_set_that_nobody_executed_is_no_stack(status: str | None, settled: str | None) -> None:
    assert require_settled(stack(Stacks(status))) == settled


def test_a_stack_that_something_changes_is_left_alone() -> None:
    with pytest.raises(KitError, match="servekit-minilm is UPDATE_IN_PROGRESS"):
        require_settled(stack(Stacks("UPDATE_IN_PROGRESS")))
