"""The IAM document of whoever plans, applies, updates, rolls back, looks at and destroys an endpoint."""

from __future__ import annotations

from typing import Any

from deploy.hosting import names, policy, scaling
from deploy.hosting.policy import Scope


def deployer(scope: Scope) -> dict[str, Any]:
    """What whoever runs plan, apply, update, rollback, status and destroy needs."""
    place, section = scope.place, scope.section
    versions = names.any_version(scope.endpoint)
    models, configs = place.sagemaker_arn("model", versions), place.sagemaker_arn("endpoint-config", versions)
    from_zero = place.arn("cloudwatch", f"alarm:{scaling.from_zero_name(scope.endpoint)}")
    endpoint = place.sagemaker_arn("endpoint", scope.endpoint)
    objects = place.bucket_arn(scope.layout.bucket, f"{scope.layout.root}*")
    group = place.arn("logs", f"log-group:{names.log_group(scope.endpoint)}")
    statements = [
        policy.allow(["sagemaker:CreateModel", "sagemaker:DeleteModel", "sagemaker:DescribeModel"], models),
        policy.allow(
            [
                "sagemaker:CreateEndpointConfig",
                "sagemaker:DeleteEndpointConfig",
                "sagemaker:DescribeEndpointConfig",
            ],
            configs,
        ),
        policy.allow(["sagemaker:CreateEndpoint", "sagemaker:UpdateEndpoint"], [endpoint, configs]),
        policy.allow(["sagemaker:DeleteEndpoint", "sagemaker:DescribeEndpoint"], endpoint),
        policy.allow(["sagemaker:AddTags", "sagemaker:ListTags"], [models, configs, endpoint]),
        policy.allow(["sagemaker:ListEndpointConfigs", "sagemaker:ListModels"], "*"),  # lists have no resources
        policy.allow(
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
        policy.allow(
            ["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:ListBucketVersions"],
            place.bucket_arn(scope.layout.bucket),
        ),
        policy.allow(
            "iam:PassRole",
            place.role_arn(scope.layout.role),
            {"StringEquals": {"iam:PassedToService": policy.SERVICE}},
        ),
        policy.allow(
            ["cloudwatch:DeleteAlarms", "cloudwatch:PutMetricAlarm", "cloudwatch:TagResource"],
            [policy.alarms(scope), from_zero],
        ),
        policy.allow(
            "cloudwatch:DescribeAlarms", place.arn("cloudwatch", "alarm:*")
        ),  # found by the beginning of their names
        policy.allow(["logs:DeleteLogGroup", "logs:DescribeLogStreams", "logs:GetLogEvents"], [group, f"{group}:*"]),
    ]
    if repositories := policy.repositories(scope):
        statements.append(policy.allow("ecr:DescribeImages", repositories))
    if not section.bucket:
        statements.append(
            policy.allow(
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
            policy.allow(
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
        key = policy.key(scope, ["kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey"])
        statements.append(key)
    return policy.document(*statements)


def _scaling_statements(scope: Scope, endpoint: str) -> list[dict[str, Any]]:
    place = scope.place
    mine = {"StringEquals": {"application-autoscaling:service-namespace": "sagemaker"}}
    statements = [
        policy.allow(
            [
                "application-autoscaling:DeleteScalingPolicy",
                "application-autoscaling:DeregisterScalableTarget",
                "application-autoscaling:PutScalingPolicy",
                "application-autoscaling:RegisterScalableTarget",
            ],
            "*",  # targets get their ARNs when they are registered
            mine,
        ),
        policy.allow(
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
        policy.allow("sagemaker:UpdateEndpointWeightsAndCapacities", endpoint),
        policy.allow(
            ["cloudwatch:DeleteAlarms", "cloudwatch:PutMetricAlarm"],
            place.arn("cloudwatch", f"alarm:TargetTracking-{names.resource(scope.endpoint)}-*"),
        ),
        policy.allow(
            "iam:CreateServiceLinkedRole",
            linked,
            {"StringEquals": {"iam:AWSServiceName": "sagemaker.application-autoscaling.amazonaws.com"}},
        ),
    ]
