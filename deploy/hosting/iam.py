"""Least-privilege IAM documents of one endpoint, as pure functions: who runs it, who deploys it, who asks it.

Statements name the endpoint's own resources; where AWS knows none for an action, a condition, or `*` with a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploy.hosting import images, names
from deploy.hosting.layout import Layout
from deploy.hosting.place import Place
from model_configs.sagemaker import SageMaker

VERSION = "2012-10-17"
SERVICE = "sagemaker.amazonaws.com"
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


@dataclass(frozen=True)
class Scope:
    """What the documents are about: an endpoint, and the images that its variants run."""

    layout: Layout
    images: tuple[str, ...]

    @property
    def place(self) -> Place:
        return self.layout.place

    @property
    def section(self) -> SageMaker:
        return self.layout.section

    @property
    def endpoint(self) -> str:
        return self.layout.endpoint


def trust(place: Place) -> dict[str, Any]:
    """Who may take the execution role: SageMaker, and only on behalf of this account (the confused deputy)."""
    return _document(
        {
            "Effect": "Allow",
            "Principal": {"Service": SERVICE},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"aws:SourceAccount": place.account}},
        }
    )


def execution(scope: Scope) -> dict[str, Any]:
    """What the endpoint itself may: read its archive and image, write its logs, metrics and, if asked to, data."""
    place, section = scope.place, scope.section
    group = place.arn("logs", f"log-group:{names.log_group(scope.endpoint)}")
    statements = [
        _allow("s3:GetObject", place.bucket_arn(scope.layout.bucket, f"{scope.layout.root}archives/*")),
        _allow(
            "s3:ListBucket",
            place.bucket_arn(scope.layout.bucket),
            {"StringLike": {"s3:prefix": f"{scope.layout.root}archives/*"}},
        ),
        _allow(["logs:CreateLogGroup", "logs:DescribeLogStreams"], group),
        _allow(["logs:CreateLogStream", "logs:PutLogEvents"], f"{group}:log-stream:*"),
        _allow(
            "cloudwatch:PutMetricData",
            "*",  # it has no resources
            {"StringEquals": {"cloudwatch:namespace": ["/aws/sagemaker/Endpoints", "AWS/SageMaker"]}},
        ),
        *_image_statements(scope),
    ]
    if alarms := _alarm_arns(scope):
        statements.append(_allow("cloudwatch:DescribeAlarms", alarms))
    if scope.layout.written:
        statements.append(_allow("s3:PutObject", [_objects(place, uri) for uri in scope.layout.written]))
    if section.async_inference:
        inputs = place.bucket_arn(scope.layout.bucket, f"{scope.layout.root}async/input/*")
        statements.append(_allow("s3:GetObject", inputs))
        topics = [t for t in (section.async_inference.success_topic, section.async_inference.error_topic) if t]
        if topics:
            statements.append(_allow("sns:Publish", topics))
    if section.vpc:
        statements.append(_allow(NETWORK_ACTIONS, "*"))  # SageMaker's own interfaces: their ARNs are not known before
    if section.kms_key_id:
        statements.append(_key(scope, ["kms:Decrypt", "kms:GenerateDataKey"]))
    return _document(*statements)


def deployer(scope: Scope) -> dict[str, Any]:
    """What whoever runs plan, apply, update, rollback, status and destroy needs."""
    place, section = scope.place, scope.section
    stem = names.stem(scope.endpoint)
    models, configs = place.sagemaker_arn("model", f"{stem}-*"), place.sagemaker_arn("endpoint-config", f"{stem}-*")
    endpoint = place.sagemaker_arn("endpoint", scope.endpoint)
    objects = place.bucket_arn(scope.layout.bucket, f"{scope.layout.root}*")
    group = place.arn("logs", f"log-group:{names.log_group(scope.endpoint)}")
    statements = [
        _allow(["sagemaker:CreateModel", "sagemaker:DeleteModel", "sagemaker:DescribeModel"], models),
        _allow(
            [
                "sagemaker:CreateEndpointConfig",
                "sagemaker:DeleteEndpointConfig",
                "sagemaker:DescribeEndpointConfig",
            ],
            configs,
        ),
        _allow(["sagemaker:CreateEndpoint", "sagemaker:UpdateEndpoint"], [endpoint, configs]),
        _allow(["sagemaker:DeleteEndpoint", "sagemaker:DescribeEndpoint"], endpoint),
        _allow(["sagemaker:AddTags", "sagemaker:ListTags"], [models, configs, endpoint]),
        _allow(["sagemaker:ListEndpointConfigs", "sagemaker:ListModels"], "*"),  # lists have no resources
        _allow(
            [
                "s3:AbortMultipartUpload",
                "s3:DeleteObject",
                "s3:DeleteObjectVersion",
                "s3:GetObject",
                "s3:ListMultipartUploadParts",
                "s3:PutObject",
            ],
            objects,
        ),
        _allow(
            ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:ListBucketVersions"],
            place.bucket_arn(scope.layout.bucket),
        ),
        _allow(
            "iam:PassRole",
            place.role_arn(scope.layout.role),
            {"StringEquals": {"iam:PassedToService": SERVICE}},
        ),
        _allow(
            ["cloudwatch:DeleteAlarms", "cloudwatch:PutMetricAlarm", "cloudwatch:TagResource"], _alarms(place, stem)
        ),
        _allow(
            "cloudwatch:DescribeAlarms", place.arn("cloudwatch", "alarm:*")
        ),  # found by the beginning of their names
        _allow(["logs:DeleteLogGroup", "logs:DescribeLogStreams", "logs:GetLogEvents"], [group, f"{group}:*"]),
    ]
    if repositories := _repositories(scope):
        statements.append(_allow("ecr:DescribeImages", repositories))
    if not section.bucket:
        statements.append(
            _allow(
                [
                    "s3:CreateBucket",
                    "s3:DeleteBucket",
                    "s3:GetBucketPolicy",
                    "s3:GetBucketPublicAccessBlock",
                    "s3:GetBucketTagging",
                    "s3:GetLifecycleConfiguration",
                    "s3:PutBucketPolicy",
                    "s3:PutBucketPublicAccessBlock",
                    "s3:PutBucketTagging",
                    "s3:PutLifecycleConfiguration",
                ],
                place.bucket_arn(scope.layout.bucket),
            )
        )
    if not section.role:
        statements.append(
            _allow(
                [
                    "iam:CreateRole",
                    "iam:DeleteRole",
                    "iam:DeleteRolePolicy",
                    "iam:GetRole",
                    "iam:GetRolePolicy",
                    "iam:ListRolePolicies",
                    "iam:ListRoleTags",
                    "iam:PutRolePolicy",
                    "iam:TagRole",
                ],
                place.role_arn(scope.layout.role),
            )
        )
    statements += _scaling_statements(scope, endpoint)
    if section.kms_key_id:
        key = _key(scope, ["kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey"])
        statements.append(key)
    return _document(*statements)


def client(scope: Scope) -> dict[str, Any]:
    """What whoever asks the endpoint needs; InvokeEndpoint covers streams."""
    place = scope.place
    endpoint = place.sagemaker_arn("endpoint", scope.endpoint)
    if not scope.section.async_inference:
        return _document(_allow("sagemaker:InvokeEndpoint", endpoint))
    return _document(
        _allow("sagemaker:InvokeEndpointAsync", endpoint),
        _allow("s3:PutObject", place.bucket_arn(scope.layout.bucket, f"{scope.layout.root}async/input/*")),
        _allow("s3:GetObject", [_objects(place, uri) for uri in scope.layout.written]),
    )


def bucket_policy(place: Place, bucket: str) -> dict[str, Any]:
    """No plain HTTP to the kit's bucket."""
    return _document(
        {
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [place.bucket_arn(bucket), place.bucket_arn(bucket, "*")],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    )


def _image_statements(scope: Scope) -> list[dict[str, Any]]:
    repositories = _repositories(scope)
    if not repositories:
        return []
    pulls = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    return [
        _allow("ecr:GetAuthorizationToken", "*"),  # it has no resources
        _allow(pulls, repositories),
    ]


def _scaling_statements(scope: Scope, endpoint: str) -> list[dict[str, Any]]:
    place = scope.place
    mine = {"StringEquals": {"application-autoscaling:service-namespace": "sagemaker"}}
    statements = [
        _allow(
            [
                "application-autoscaling:DeleteScalingPolicy",
                "application-autoscaling:DeregisterScalableTarget",
                "application-autoscaling:PutScalingPolicy",
                "application-autoscaling:RegisterScalableTarget",
            ],
            "*",  # targets get their ARNs when they are registered
            mine,
        ),
        _allow(
            [
                "application-autoscaling:DescribeScalableTargets",
                "application-autoscaling:DescribeScalingPolicies",
            ],
            "*",
        ),
    ]
    if scope.section.autoscaling is None:
        return statements
    linked = (
        f"arn:{place.partition}:iam::{place.account}:role/aws-service-role/"
        "sagemaker.application-autoscaling.amazonaws.com/AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
    )
    return [
        *statements,
        _allow("sagemaker:UpdateEndpointWeightsAndCapacities", endpoint),
        _allow(
            ["cloudwatch:DeleteAlarms", "cloudwatch:PutMetricAlarm"],
            place.arn("cloudwatch", f"alarm:TargetTracking-{names.resource(scope.endpoint)}-*"),
        ),
        _allow(
            "iam:CreateServiceLinkedRole",
            linked,
            {"StringEquals": {"iam:AWSServiceName": "sagemaker.application-autoscaling.amazonaws.com"}},
        ),
    ]


def _alarm_arns(scope: Scope) -> list[str]:
    watched = scope.section.update.rollback_on
    if watched is None:
        return []
    own = [scope.place.arn("cloudwatch", f"alarm:{name}") for name in watched.alarms]
    made = watched.error_rate is not None or watched.latencies
    return [*own, *([_alarms(scope.place, names.stem(scope.endpoint))] if made else [])]


def _alarms(place: Place, stem: str) -> str:
    return place.arn("cloudwatch", f"alarm:{stem}-*")


def _repositories(scope: Scope) -> list[str]:
    found = [image for image in map(images.parse, scope.images) if image]
    start = f"arn:{scope.place.partition}:ecr"
    return sorted({f"{start}:{image.region}:{image.account}:repository/{image.repository}" for image in found})


def _objects(place: Place, uri: str) -> str:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return place.bucket_arn(bucket, f"{prefix.rstrip('/')}/*" if prefix else "*")


def _key(scope: Scope, actions: list[str]) -> dict[str, Any]:
    place, key = scope.place, scope.section.kms_key_id or ""
    alias = key if key.startswith("alias/") else key.partition(":alias/")[2]
    if alias:  # a policy names no alias as its resource
        name = f"alias/{alias.removeprefix('alias/')}"
        condition = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": name}}
        return _allow(actions, place.arn("kms", "key/*"), condition)
    return _allow(actions, key if key.startswith("arn:") else place.arn("kms", f"key/{key}"))


def _allow(
    actions: str | list[str], resources: str | list[str], condition: dict[str, Any] | None = None
) -> dict[str, Any]:
    statement: dict[str, Any] = {"Effect": "Allow", "Action": actions, "Resource": resources}
    return statement | ({"Condition": condition} if condition else {})


def _document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": VERSION, "Statement": list(statements)}
