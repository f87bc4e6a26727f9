"""How a model's stack on EC2 is: its own state, each instance's, and where clients call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy.aws import Aws
from deploy.ec2_stack import Stack
from model_configs.errors import KitError

HEALTHY = "healthy"


@dataclass(frozen=True)
class Status:
    """instances: id, zone, states in the group and behind the load balancer, and why. problem: empty if all is well."""

    stack: str
    status: str
    url: str
    instances: list[dict[str, Any]]
    problem: str

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stack": self.stack,
            "status": self.status,
            "url": self.url,
            "ready": not self.problem,
            "problem": self.problem,
            "instances": self.instances,
        }


def look(aws: Aws, stack: Stack) -> Status:
    """Ask CloudFormation, the group and the load balancer. Raises KitError where there is no such stack."""
    found = stack.describe()
    if found is None or found["StackStatus"] == "REVIEW_IN_PROGRESS":
        raise KitError(f"there is no stack {stack.name} in {aws.region}", "kit.py deploy ec2 MODEL apply")
    made = stack.resources()
    status = found["StackStatus"]
    if not {"Instances", "TargetGroup", "LoadBalancer"} <= made.keys():
        return Status(stack.name, status, "", [], f"{stack.name} is {status}, and not whole")
    parameters = stack.parameters()
    instances = _instances(aws, made)
    healthy = sum(each["load balancer"] == HEALTHY for each in instances)
    wanted = int(parameters["MinSize"])
    problem = "" if healthy >= wanted else f"{healthy} of {wanted} instances are healthy"
    return Status(stack.name, status, _url(aws, made, parameters), instances, problem)


def _instances(aws: Aws, made: dict[str, str]) -> list[dict[str, Any]]:
    groups = aws.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[made["Instances"]])
    health = aws.client("elbv2").describe_target_health(TargetGroupArn=made["TargetGroup"])["TargetHealthDescriptions"]
    by_id = {each["Target"]["Id"]: each["TargetHealth"] for each in health}
    rows = []
    for instance in groups["AutoScalingGroups"][0]["Instances"]:
        state = by_id.get(instance["InstanceId"], {})
        rows.append(
            {
                "instance": instance["InstanceId"],
                "zone": instance["AvailabilityZone"],
                "group": instance["LifecycleState"],
                "load balancer": state.get("State", "not known"),
                "why": state.get("Description", ""),
            }
        )
    return rows


def _url(aws: Aws, made: dict[str, str], parameters: dict[str, str]) -> str:
    if parameters.get("Hostname"):
        return f"https://{parameters['Hostname']}"
    balancers = aws.client("elbv2").describe_load_balancers(LoadBalancerArns=[made["LoadBalancer"]])
    return f"https://{balancers['LoadBalancers'][0]['DNSName']}"
