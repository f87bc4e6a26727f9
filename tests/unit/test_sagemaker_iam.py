"""The documents allow what their readers do and nothing beside it; the evaluator is the emulator's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.emulator.permissions import Role
from deploy.hosting import iam, names, storage
from deploy.hosting.archive import ArchiveFile, Manifest
from deploy.hosting.layout import of
from deploy.hosting.place import Place
from deploy.hosting.plan import Part, plan
from deploy.hosting.policy import Scope
from model_configs.schema import AnyModelConfig
from tests.fakes.sagemaker_account import ACCOUNT, IMAGE, REGION
from tests.fakes.sagemaker_configs import configured

PLACE = Place(ACCOUNT, REGION)
FILES = (ArchiveFile("MAR-INF/servekit.json", 10, "a" * 64),)
BUCKET = f"arn:aws:s3:::servekit-{ACCOUNT}-{REGION}"
ROOT = f"{BUCKET}/servekit/servekit-minilm"
SAGEMAKER = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}"
KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234"
WITHOUT_RESOURCES = {
    "cloudwatch:PutMetricData", "ecr:GetAuthorizationToken", "sagemaker:ListEndpointConfigs", "sagemaker:ListModels",
    "application-autoscaling:DescribeScalableTargets", "application-autoscaling:DescribeScalingPolicies",
    "application-autoscaling:DeleteScalingPolicy", "application-autoscaling:DeregisterScalableTarget",
    "application-autoscaling:PutScalingPolicy", "application-autoscaling:RegisterScalableTarget",
    *iam.NETWORK_ACTIONS,
}  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "vpc": {"subnets": ["subnet-1"], "security_groups": ["sg-1"]},
    "kms_key_id": "alias/models",
    "data_capture": {},
    "autoscaling": {"max_instances": 2, "concurrent_requests_per_model": 1},
    "update": {"rollback_on": {"alarms": ["mine"]}},
}


def documents(**section: Any) -> dict[str, dict[str, Any]]:
    config = configured(**section)
    return plan(config, PLACE, Part(Manifest(Path(), FILES), IMAGE)).documents


def role(who: str, **section: Any) -> Role:
    return Role({"Statement": []}, (documents(**section)[who],))


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize("section", [{}, EVERYTHING], ids=["least", "everything"])
@pytest.mark.parametrize("who", ["execution", "deployer", "client"])
def test_no_statement_allows_more_than_it_names(who: str, section: dict[str, Any]) -> None:
    for statement in documents(**section)[who]["Statement"]:
        actions, resources = listed(statement["Action"]), listed(statement["Resource"])
        assert not any("*" in action for action in actions)
        if "*" in resources:
            assert set(actions) <= WITHOUT_RESOURCES, statement


def test_the_endpoint_reads_its_own_archives_only() -> None:
    execution = role("execution")
    assert execution.allows("s3:GetObject", f"{ROOT}/archives/0123/model/weights")
    assert execution.allows("s3:ListBucket", BUCKET, {"s3:prefix": "servekit/servekit-minilm/archives/0123/"})
    assert not execution.allows("s3:GetObject", f"{BUCKET}/servekit/servekit-digits/archives/0123/x")
    assert not execution.allows("s3:ListBucket", BUCKET, {"s3:prefix": ""})
    assert not execution.allows("s3:PutObject", f"{ROOT}/archives/0123/model/weights")


def test_the_endpoint_writes_where_it_was_told_to() -> None:
    assert role("execution", data_capture={}).allows("s3:PutObject", f"{ROOT}/capture/x")
    elsewhere = role("execution", data_capture={"s3_uri": "s3://captured/here/"})
    assert elsewhere.allows("s3:PutObject", "arn:aws:s3:::captured/here/x")
    assert not elsewhere.allows("s3:PutObject", "arn:aws:s3:::captured/there")
    asynchronous = role("execution", async_inference={"s3_output_path": "s3://answers"})
    assert asynchronous.allows("s3:PutObject", "arn:aws:s3:::answers/x")
    assert asynchronous.allows("s3:GetObject", f"{ROOT}/async/input/x")


def test_the_endpoint_pulls_its_image_and_no_other() -> None:
    execution = role("execution")
    assert execution.allows("ecr:GetAuthorizationToken")
    assert execution.allows("ecr:BatchGetImage", f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/servekit")
    assert not execution.allows("ecr:BatchGetImage", f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/other")


def test_the_endpoint_writes_its_own_logs_and_metrics() -> None:
    execution = role("execution")
    group = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/sagemaker/Endpoints/servekit-minilm"
    assert execution.allows("logs:PutLogEvents", f"{group}:log-stream:AllTraffic/i-1")
    assert execution.allows("logs:CreateLogGroup", group)
    assert not execution.allows("logs:CreateLogGroup", f"{group}-2")
    assert execution.allows("cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "AWS/SageMaker"})
    assert not execution.allows("cloudwatch:PutMetricData", "*", {"cloudwatch:namespace": "Billing"})


def test_the_endpoint_sees_the_alarms_that_it_is_rolled_back_for() -> None:
    alarm = f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm"
    execution = role("execution", **EVERYTHING)
    assert execution.allows("cloudwatch:DescribeAlarms", f"{alarm}:mine")
    assert execution.allows("cloudwatch:DescribeAlarms", f"{alarm}:servekit-minilm-0123456789-error-rate")
    assert not execution.allows("cloudwatch:DescribeAlarms", f"{alarm}:another")
    assert not role("execution", update={"rollback_on": None}).allows("cloudwatch:DescribeAlarms", f"{alarm}:mine")
    only_own = {"update": {"rollback_on": {"error_rate": None, "alarms": ["mine"]}}}
    assert role("execution", **only_own).allows("cloudwatch:DescribeAlarms", f"{alarm}:mine")


def test_a_network_interface_only_with_a_network() -> None:
    assert role("execution", **EVERYTHING).allows("ec2:CreateNetworkInterface")
    assert not role("execution").allows("ec2:CreateNetworkInterface")


@pytest.mark.parametrize(
    ("key", "resource", "context"),
    [
        (KEY, KEY, {}),
        ("1234", KEY, {}),
        ("alias/models", KEY, {"kms:ResourceAliases": "alias/models"}),
        (f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/models", KEY, {"kms:ResourceAliases": "alias/models"}),
    ],
)
def test_a_key_by_any_of_its_names(key: str, resource: str, context: dict[str, str]) -> None:
    statement = documents(kms_key_id=key)["execution"]["Statement"][-1]
    assert statement["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    aliases = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": "alias/models"}} if context else None
    assert statement.get("Condition") == aliases
    assert statement["Resource"] == (f"arn:aws:kms:{REGION}:{ACCOUNT}:key/*" if context else resource)


def test_topics_of_an_asynchronous_endpoint() -> None:
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:done"
    assert role("execution", async_inference={"error_topic": topic}).allows("sns:Publish", topic)


def test_only_sagemaker_takes_the_role_and_only_for_this_account() -> None:
    trusted = Role(iam.trust(PLACE), ())
    assert trusted.trusts("sagemaker.amazonaws.com", ACCOUNT)
    assert not trusted.trusts("sagemaker.amazonaws.com", "999999999999")
    assert not trusted.trusts("ec2.amazonaws.com", ACCOUNT)


def test_the_deployer_passes_the_role_to_sagemaker_alone() -> None:
    deployer, arn = role("deployer"), f"arn:aws:iam::{ACCOUNT}:role/servekit-minilm-{REGION}"
    assert deployer.allows("iam:PassRole", arn, {"iam:PassedToService": "sagemaker.amazonaws.com"})
    assert not deployer.allows("iam:PassRole", arn, {"iam:PassedToService": "ec2.amazonaws.com"})
    assert not deployer.allows("iam:PassRole", f"{arn}-2", {"iam:PassedToService": "sagemaker.amazonaws.com"})


def test_the_deployer_makes_a_role_and_a_bucket_only_where_the_yaml_names_none() -> None:
    named = role("deployer", role="mine", bucket="models")
    assert not named.allows("iam:CreateRole", f"arn:aws:iam::{ACCOUNT}:role/mine")
    assert not named.allows("s3:CreateBucket", "arn:aws:s3:::models")
    assert named.allows("s3:PutObject", "arn:aws:s3:::models/servekit/servekit-minilm/archives/x")
    assert role("deployer").allows("iam:CreateRole", f"arn:aws:iam::{ACCOUNT}:role/servekit-minilm-{REGION}")


def test_the_deployer_may_make_every_call_of_the_plan() -> None:
    """Actions that are named otherwise than their calls are those of S3 and of tags."""
    config = configured(autoscaling={"max_instances": 2, "concurrent_requests_per_model": 1})
    found = plan(config, PLACE, Part(Manifest(Path(), FILES), IMAGE))
    other_names = {
        "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
        "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    }
    allowed = {
        action for statement in found.documents["deployer"]["Statement"] for action in listed(statement["Action"])
    }
    for step in (*found.steps, found.update):
        action = f"{step.service}:{step.operation}"
        assert other_names.get(action, action) in allowed


def test_a_neighbour_whose_name_begins_alike_is_not_meant() -> None:
    deployer = role("deployer", endpoint_name="servekit-llama")
    for kind in ("model", "endpoint-config"):
        mine, other = "servekit-llama-0123456789", "servekit-llama-13b-inf2-0123456789"
        assert deployer.allows("sagemaker:ListTags", f"{SAGEMAKER}:{kind}/{mine}")
        assert not deployer.allows("sagemaker:ListTags", f"{SAGEMAKER}:{kind}/{other}")
    alarm = f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm:servekit-llama"
    assert deployer.allows("cloudwatch:DeleteAlarms", f"{alarm}-0123456789-latency-p99")
    assert deployer.allows("cloudwatch:PutMetricAlarm", f"{alarm}-from-zero")
    assert not deployer.allows("cloudwatch:DeleteAlarms", f"{alarm}-13b-inf2-0123456789-latency-p99")


def test_arns_of_sagemakers_are_in_lower_case() -> None:
    found = role("client", endpoint_name="Search")
    assert found.allows("sagemaker:InvokeEndpoint", f"{SAGEMAKER}:endpoint/search")
    assert not found.allows("sagemaker:InvokeEndpoint", f"{SAGEMAKER}:endpoint/Search")


def test_the_client_asks_and_does_nothing_else() -> None:
    found = role("client")
    assert found.allows("sagemaker:InvokeEndpoint", f"{SAGEMAKER}:endpoint/servekit-minilm")
    assert not found.allows("sagemaker:InvokeEndpoint", f"{SAGEMAKER}:endpoint/other")
    assert not found.allows("sagemaker:DescribeEndpoint", f"{SAGEMAKER}:endpoint/servekit-minilm")
    asynchronous = role("client", async_inference={})
    assert asynchronous.allows("sagemaker:InvokeEndpointAsync", f"{SAGEMAKER}:endpoint/servekit-minilm")
    assert asynchronous.allows("s3:PutObject", f"{ROOT}/async/input/x")
    assert asynchronous.allows("s3:GetObject", f"{ROOT}/async/output/x")
    assert not asynchronous.allows("s3:PutObject", f"{ROOT}/async/output/x")


def test_an_image_of_another_registry_needs_nothing_of_ecr() -> None:
    scope = Scope(of(configured(), PLACE), ("docker.io/servekit",))
    assert "ecr" not in json.dumps(iam.execution(scope))


def test_documents_fit_into_a_roles_policies() -> None:
    """IAM takes 10,240 characters of a role's inline policies; a managed policy, as the deployer's, 6,144."""
    found = documents(**EVERYTHING)
    sizes = {who: len(json.dumps(document, separators=(",", ":"))) for who, document in found.items()}
    assert sizes["execution"] < 10_240
    assert sizes["deployer"] < 6_144
    assert sizes["client"] < 6_144


def test_the_bucket_refuses_plain_http() -> None:
    config: AnyModelConfig = configured()
    steps = storage.bucket_steps(of(config, PLACE))
    (policy,) = [step for step in steps if step.operation == "PutBucketPolicy"]
    (statement,) = json.loads(policy.request["Policy"])["Statement"]
    assert (statement["Effect"], statement["Action"]) == ("Deny", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    emulated = Place(ACCOUNT, REGION, has_tls=False)
    assert "PutBucketPolicy" not in [step.operation for step in storage.bucket_steps(of(config, emulated))]


def test_the_role_is_named_after_the_endpoint_and_the_region() -> None:
    assert of(configured(), PLACE).role == names.role("servekit-minilm", REGION) == f"servekit-minilm-{REGION}"
