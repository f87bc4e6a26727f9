"""Least-privilege IAM documents of one endpoint, as pure functions: of the endpoint itself, and of who asks it.

Statements name the endpoint's own resources; where AWS knows none for an action, a condition, or `*` with a reason.
"""

from __future__ import annotations

from typing import Any

from deploy.hosting import names, policy
from deploy.hosting.place import Place
from deploy.hosting.policy import Scope

NETWORK_ACTIONS = [
    "ec2:CreateNetworkInterface",
    "ec2:CreateNetworkInterfacePermission",
    "ec2:DeleteNetworkInterface",
    "ec2:DeleteNetworkInterfacePermission",
    "ec2:DescribeDhcpOptions",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
]


def trust(place: Place) -> dict[str, Any]:
    """Who may take the execution role: SageMaker, and only on behalf of this account (the confused deputy)."""
    return policy.document(
        {
            "Effect": "Allow",
            "Principal": {"Service": policy.SERVICE},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"aws:SourceAccount": place.account}},
        }
    )


def execution(scope: Scope) -> dict[str, Any]:
    """What the endpoint itself may: read its archive and image, write its logs, metrics and, if asked to, data."""
    place, section = scope.place, scope.section
    group = place.arn("logs", f"log-group:{names.log_group(scope.endpoint)}")
    statements = [
        policy.allow("s3:GetObject", place.bucket_arn(scope.layout.bucket, f"{scope.layout.root}archives/*")),
        policy.allow(
            "s3:ListBucket",
            place.bucket_arn(scope.layout.bucket),
            {"StringLike": {"s3:prefix": f"{scope.layout.root}archives/*"}},
        ),
        policy.allow(["logs:CreateLogGroup", "logs:DescribeLogStreams"], group),
        policy.allow(["logs:CreateLogStream", "logs:PutLogEvents"], f"{group}:log-stream:*"),
        policy.allow(
            "cloudwatch:PutMetricData",
            "*",  # it has no resources
            {"StringEquals": {"cloudwatch:namespace": ["/aws/sagemaker/Endpoints", "AWS/SageMaker"]}},
        ),
        *_image_statements(scope),
    ]
    if alarms := _alarm_arns(scope):
        statements.append(policy.allow("cloudwatch:DescribeAlarms", alarms))
    if scope.layout.written:
        statements.append(policy.allow("s3:PutObject", [policy.objects(place, uri) for uri in scope.layout.written]))
    if section.async_inference:
        inputs = place.bucket_arn(scope.layout.bucket, f"{scope.layout.root}async/input/*")
        statements.append(policy.allow("s3:GetObject", inputs))
        topics = [t for t in (section.async_inference.success_topic, section.async_inference.error_topic) if t]
        if topics:
            statements.append(policy.allow("sns:Publish", topics))
    if section.vpc:
        statements.append(
            policy.allow(NETWORK_ACTIONS, "*")
        )  # SageMaker's own interfaces: their ARNs are not known before
    if section.kms_key_id:
        statements.append(policy.key(scope, ["kms:Decrypt", "kms:GenerateDataKey"]))
    return policy.document(*statements)


def client(scope: Scope) -> dict[str, Any]:
    """What whoever asks the endpoint needs; InvokeEndpoint covers streams."""
    place = scope.place
    endpoint = place.sagemaker_arn("endpoint", scope.endpoint)
    if not scope.section.async_inference:
        return policy.document(policy.allow("sagemaker:InvokeEndpoint", endpoint))
    return policy.document(
        policy.allow("sagemaker:InvokeEndpointAsync", endpoint),
        policy.allow("s3:PutObject", place.bucket_arn(scope.layout.bucket, f"{scope.layout.root}async/input/*")),
        policy.allow("s3:GetObject", [policy.objects(place, uri) for uri in scope.layout.written]),
    )


def bucket_policy(place: Place, bucket: str) -> dict[str, Any]:
    """No plain HTTP to the kit's bucket."""
    return policy.document(
        {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [place.bucket_arn(bucket), place.bucket_arn(bucket, "*")],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    )


def _image_statements(scope: Scope) -> list[dict[str, Any]]:
    repositories = policy.repositories(scope)
    if not repositories:
        return []
    pulls = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    return [
        policy.allow("ecr:GetAuthorizationToken", "*"),  # it has no resources
        policy.allow(pulls, repositories),
    ]


def _alarm_arns(scope: Scope) -> list[str]:
    watched = scope.section.update.rollback_on
    if watched is None:
        return []
    own = [scope.place.arn("cloudwatch", f"alarm:{name}") for name in watched.alarms]
    made = watched.error_rate is not None or watched.latencies
    return [*own, *([policy.alarms(scope)] if made else [])]
