"""How a stack is: the exit code's reason, and a line an instance."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.aws import Aws
from deploy.ec2_stack import Stack
from deploy.ec2_status import look
from model_configs.errors import KitError
from tests.fakes.stacks import Stacks

MADE = {"Instances": "a-group", "TargetGroup": "arn:tg", "LoadBalancer": "arn:lb"}


class Clients:
    """What the group and the load balancer say. health: by instance; None for one that is not registered yet."""

    def __init__(self, health: dict[str, tuple[str, str] | None]) -> None:
        self.health = health

    def client(self, service: str, **config: Any) -> Clients:
        assert service in ("autoscaling", "elbv2")
        return self

    def describe_auto_scaling_groups(self, AutoScalingGroupNames: list[str]) -> dict[str, Any]:
        assert AutoScalingGroupNames == ["a-group"]
        found = [
            {"InstanceId": each, "AvailabilityZone": "eu-west-1a", "LifecycleState": "InService"}
            for each in self.health
        ]
        return {"AutoScalingGroups": [{"Instances": found}]}

    def describe_target_health(self, TargetGroupArn: str) -> dict[str, Any]:
        assert TargetGroupArn == "arn:tg"
        return {
            "TargetHealthDescriptions": [
                {"Target": {"Id": each}, "TargetHealth": {"State": state[0], "Description": state[1]}}
                for each, state in self.health.items()
                if state
            ]
        }

    def describe_load_balancers(self, LoadBalancerArns: list[str]) -> dict[str, Any]:
        assert LoadBalancerArns == ["arn:lb"]
        return {"LoadBalancers": [{"DNSName": "internal-x.elb.amazonaws.com"}]}


def aws(health: dict[str, tuple[str, str] | None]) -> Aws:
    class Faked(Aws):
        def client(self, service: str, **config: Any) -> Any:
            return Clients(health).client(service)

    return Faked(None, "eu-west-1")


def stack(status: str | None = "CREATE_COMPLETE", made: dict[str, str] = MADE, **parameters: str) -> Stack:
    return Stack(Stacks(status, resources=made, parameters={"MinSize": "1", **parameters}), "servekit-minilm")


def test_a_stack_that_is_well() -> None:
    found = look(aws({"i-1": ("healthy", "")}), stack())
    assert (found.problem, found.url) == ("", "https://internal-x.elb.amazonaws.com")
    assert found.document()["ready"] is True
    assert found.instances[0]["load balancer"] == "healthy"


def test_its_own_name_is_where_clients_call() -> None:
    assert look(aws({"i-1": ("healthy", "")}), stack(Hostname="m.example.com")).url == "https://m.example.com"


def test_fewer_healthy_ones_than_wanted_is_a_problem_with_a_reason_each() -> None:
    health = {"i-1": ("healthy", ""), "i-2": ("unhealthy", "Health checks failed with these codes: [503]"), "i-3": None}
    found = look(aws(health), stack(MinSize="2"))
    assert found.problem == "1 of 2 instances are healthy"
    assert [each["load balancer"] for each in found.instances] == ["healthy", "unhealthy", "not known"]
    assert found.instances[1]["why"] == "Health checks failed with these codes: [503]"
    assert found.document()["ready"] is False


@pytest.mark.parametrize("status", [None, "REVIEW_IN_PROGRESS"])
def test_no_stack_is_the_users_error(status: str | None) -> None:
    with pytest.raises(KitError, match="there is no stack servekit-minilm in eu-west-1"):
        look(aws({}), stack(status))


def test_one_that_is_not_whole_says_so() -> None:
    found = look(aws({}), stack("ROLLBACK_COMPLETE", {"LoadBalancer": "arn:lb"}))
    assert found.problem == "servekit-minilm is ROLLBACK_COMPLETE, and not whole"
