"""What is there already of what a step would make, in the form of the step's own request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from botocore.exceptions import ClientError

from deploy.hosting import names
from deploy.hosting.calls import DENIED, Calls, is_gone
from deploy.hosting.steps import Step
from model_configs.errors import KitError

Request = dict[str, Any]
Verb = Literal["make", "change", "keep", "remove"]
NOT_COMPARED = {"Tags", "AlarmActions"}


def verdict(step: Step, there: Request | None) -> Verb:
    """make, change or keep. there: what read gave."""
    if there is None:
        return "make"
    return "keep" if covers({key: step.request[key] for key in there}, there) else "change"


def read(calls: Calls, step: Step) -> Request | None:
    """Those members of the request that can change, as they are now; None when it is not there.

    Raises KitError when it is there and not the kit's.
    """
    try:
        return READERS[step.operation](calls.client(step.service), step.request)
    except ClientError as error:
        if is_gone(error):
            return None
        raise


def covers(wanted: Any, there: Any) -> bool:
    """Whether everything wanted is there; services add members of their own."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(key in there and covers(wanted[key], there[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(there, list) and len(wanted) == len(there) and all(map(covers, wanted, there))
    if isinstance(wanted, str) and wanted.startswith("{"):  # a policy document
        return bool(json.loads(wanted) == (json.loads(there) if isinstance(there, str) else there))
    return bool(wanted == there)


def endpoint(calls: Calls, name: str) -> Request | None:
    """DescribeEndpoint's answer, None when there is none."""
    try:
        return dict(calls.client("sagemaker").describe_endpoint(EndpointName=name))
    except ClientError as error:
        if is_gone(error):
            return None
        raise


def tags(calls: Calls, arn: str) -> dict[str, str]:
    """Of something of SageMaker's."""
    pages = calls.client("sagemaker").get_paginator("list_tags").paginate(ResourceArn=arn)
    return names.as_dict([tag for page in pages for tag in page["Tags"]])


def instance_type(calls: Calls, config_name: str) -> str | None:
    """Of a configuration's production variant."""
    try:
        found = calls.client("sagemaker").describe_endpoint_config(EndpointConfigName=config_name)
    except ClientError as error:
        if is_gone(error):
            return None
        raise
    return str(found["ProductionVariants"][0]["InstanceType"])


def is_scaled(calls: Calls, endpoint_name: str) -> bool:
    """Whether application-autoscaling sets its number of instances."""
    found = calls.client("application-autoscaling").describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[names.resource(endpoint_name)]
    )
    return bool(found["ScalableTargets"])


def policies(scaling: Any, resource: str) -> dict[str, Request]:
    """Scaling policies of an endpoint's variant, by their names."""
    pages = scaling.get_paginator("describe_scaling_policies").paginate(
        ServiceNamespace="sagemaker", ResourceId=resource
    )
    return {policy["PolicyName"]: policy for page in pages for policy in page["ScalingPolicies"]}


def check_bucket(calls: Calls, bucket: str, *, is_made: bool) -> None:
    """Raises KitError when a bucket is missing that the YAML names, or is another account's."""
    try:
        calls.client("s3").head_bucket(Bucket=bucket, ExpectedBucketOwner=calls.aws.account)
    except ClientError as error:
        if error.response["Error"]["Code"] in DENIED:
            raise KitError(
                f"bucket {bucket}: not this account's, or not yours to see", "deploy.sagemaker.bucket"
            ) from None
        if not is_gone(error):
            raise
        if not is_made:
            raise KitError(f"there is no bucket {bucket}", "make it, or leave deploy.sagemaker.bucket out") from None


def _bucket(s3: Any, request: Request) -> Request:
    s3.head_bucket(Bucket=request["Bucket"])
    return {}


def _bucket_tags(s3: Any, request: Request) -> Request:
    return {"Tagging": {"TagSet": s3.get_bucket_tagging(**_of_bucket(request))["TagSet"]}}


def _public_access(s3: Any, request: Request) -> Request:
    key = "PublicAccessBlockConfiguration"
    return {key: s3.get_public_access_block(**_of_bucket(request))[key]}


def _bucket_policy(s3: Any, request: Request) -> Request:
    return {"Policy": s3.get_bucket_policy(**_of_bucket(request))["Policy"]}


def _lifecycle(s3: Any, request: Request) -> Request:
    return {"LifecycleConfiguration": {"Rules": s3.get_bucket_lifecycle_configuration(**_of_bucket(request))["Rules"]}}


def _role(iam: Any, request: Request) -> Request:
    name = request["RoleName"]
    iam.get_role(RoleName=name)
    wanted = names.as_dict(request["Tags"])[names.ENDPOINT_TAG]
    if names.as_dict(iam.list_role_tags(RoleName=name)["Tags"]).get(names.ENDPOINT_TAG) != wanted:
        raise KitError(
            f"there is a role {name}, and the kit did not make it", "deploy.sagemaker.role names it, if it fits"
        )
    return {}


def _role_policy(iam: Any, request: Request) -> Request:
    found = iam.get_role_policy(RoleName=request["RoleName"], PolicyName=request["PolicyName"])
    return {"PolicyDocument": found["PolicyDocument"]}


def _model(sagemaker: Any, request: Request) -> Request:
    sagemaker.describe_model(ModelName=request["ModelName"])
    return {}


def _config(sagemaker: Any, request: Request) -> Request:
    sagemaker.describe_endpoint_config(EndpointConfigName=request["EndpointConfigName"])
    return {}


def _alarm(cloudwatch: Any, request: Request) -> Request | None:
    found = cloudwatch.describe_alarms(AlarmNames=[request["AlarmName"]])["MetricAlarms"]
    return {key: found[0].get(key) for key in request if key not in NOT_COMPARED} if found else None


def _target(scaling: Any, request: Request) -> Request | None:
    found = scaling.describe_scalable_targets(
        ServiceNamespace=request["ServiceNamespace"], ResourceIds=[request["ResourceId"]]
    )["ScalableTargets"]
    return {key: found[0].get(key) for key in request} if found else None


def _policy(scaling: Any, request: Request) -> Request | None:
    found = policies(scaling, request["ResourceId"]).get(request["PolicyName"])
    return {key: found.get(key) for key in request} if found else None


def _of_bucket(request: Request) -> Request:
    return {key: request[key] for key in ("Bucket", "ExpectedBucketOwner")}


READERS: dict[str, Callable[[Any, Request], Request | None]] = {
    "CreateBucket": _bucket,
    "PutBucketTagging": _bucket_tags,
    "PutPublicAccessBlock": _public_access,
    "PutBucketPolicy": _bucket_policy,
    "PutBucketLifecycleConfiguration": _lifecycle,
    "CreateRole": _role,
    "PutRolePolicy": _role_policy,
    "CreateModel": _model,
    "CreateEndpointConfig": _config,
    "PutMetricAlarm": _alarm,
    "RegisterScalableTarget": _target,
    "PutScalingPolicy": _policy,
}
"""By operation; one that gives an empty document says only that the thing is there, and its name says the rest."""
