"""Finds everything that the kit has made for an endpoint, by names and tags, and takes it away; tells what it leaves.

It needs neither the archive nor a plan, so it cleans up after an apply that stopped halfway, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from deploy.hosting import changes, current, names, upload
from deploy.hosting.apply import Applier
from deploy.hosting.calls import Calls, explained, is_gone
from deploy.hosting.changes import Change
from deploy.hosting.layout import Layout
from deploy.hosting.steps import Step
from deploy.hosting.storage import BUCKET_TAG

DELETED_AT_ONCE = 1000
"""Objects a DeleteObjects call may name."""
WRITTEN = ("capture", "async")
"""Folders that the endpoint writes to, unless the YAML names others."""


@dataclass(frozen=True)
class Destroyed:
    """removed: the calls. left: what is still there, and why."""

    removed: list[Change]
    left: list[str]


def destroy(calls: Calls, layout: Layout) -> Destroyed:
    """Take it all away. Raises KitError for an endpoint that is not the kit's, Failed where AWS refuses."""
    applier = Applier(calls, layout)
    endpoint = applier.settled()
    removed: list[Change] = []

    def make(step: Step) -> None:
        if step.operation == "DeleteEndpoint":
            applier.delete(step)
        else:
            calls.make(step)
        removed.append(Change("remove", step))

    with explained("looking for what is there"):
        for find in (_scaling, _alarms):
            for step in find(calls, layout):
                make(step)
        if endpoint:
            make(Step("sagemaker", "DeleteEndpoint", {"EndpointName": layout.endpoint}, "the endpoint itself"))
        for find in (_configs, _models, _role, _objects, _log_group):
            for step in find(calls, layout):
                make(step)
        left = list(_left(calls, layout, make))
    return Destroyed(removed, left)


def _scaling(calls: Calls, layout: Layout) -> Iterator[Step]:
    if current.is_scaled(calls, layout.endpoint):
        yield changes.deregister(layout.endpoint, "it goes")


def _alarms(calls: Calls, layout: Layout) -> Iterator[Step]:
    if found := changes.alarm_names(calls, layout.endpoint):
        yield Step("cloudwatch", "DeleteAlarms", {"AlarmNames": found}, "they watched it")


def _configs(calls: Calls, layout: Layout) -> Iterator[Step]:
    for name in _named(calls, layout, "list_endpoint_configs", "EndpointConfig"):
        yield Step("sagemaker", "DeleteEndpointConfig", {"EndpointConfigName": name}, "a version")


def _models(calls: Calls, layout: Layout) -> Iterator[Step]:
    for name in _named(calls, layout, "list_models", "Model"):
        yield Step("sagemaker", "DeleteModel", {"ModelName": name}, "a version")


def _named(calls: Calls, layout: Layout, method: str, kind: str) -> list[str]:
    """Those of the endpoint's stem, a hash, and its tag."""
    pages = calls.client("sagemaker").get_paginator(method).paginate(NameContains=names.stem(layout.endpoint))
    return [
        each[f"{kind}Name"]
        for page in pages
        for each in page[f"{kind}s"]
        if names.is_versioned(each[f"{kind}Name"], layout.endpoint)
        and current.tags(calls, each[f"{kind}Arn"]).get(names.ENDPOINT_TAG) == layout.endpoint
    ]


def _role(calls: Calls, layout: Layout) -> Iterator[Step]:
    if layout.section.role:
        return
    iam, name = calls.client("iam"), {"RoleName": layout.role}
    try:
        tags = names.as_dict(iam.list_role_tags(**name)["Tags"])
    except ClientError as error:
        if is_gone(error):
            return
        raise
    if tags.get(names.ENDPOINT_TAG) != layout.endpoint:
        return
    for policy in iam.list_role_policies(**name)["PolicyNames"]:
        yield Step("iam", "DeleteRolePolicy", {**name, "PolicyName": policy}, "what it might do")
    yield Step("iam", "DeleteRole", name, "what the endpoint ran as")


def _objects(calls: Calls, layout: Layout) -> Iterator[Step]:
    """Archives in all their versions, and uploads that stopped."""
    s3 = calls.client("s3")
    bucket = {"Bucket": layout.bucket, "ExpectedBucketOwner": layout.place.account}
    try:
        for key, upload_id in upload.unfinished(s3, layout.bucket, layout.place.account, layout.archives):
            request = {**bucket, "Key": key, "UploadId": upload_id}
            yield Step("s3", "AbortMultipartUpload", request, "an upload that stopped")
        found = list(_versions(s3, bucket, layout.archives))
    except ClientError as error:
        if is_gone(error):
            return
        raise
    for start in range(0, len(found), DELETED_AT_ONCE):
        some = {"Objects": found[start : start + DELETED_AT_ONCE], "Quiet": True}
        yield Step("s3", "DeleteObjects", {**bucket, "Delete": some}, "archives")


def _versions(s3: Any, bucket: dict[str, str], prefix: str) -> Iterator[dict[str, str]]:
    for page in s3.get_paginator("list_object_versions").paginate(**bucket, Prefix=prefix):
        for each in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            yield {"Key": each["Key"], "VersionId": each["VersionId"]}


def _log_group(calls: Calls, layout: Layout) -> Iterator[Step]:
    group = names.log_group(layout.endpoint)
    found = calls.client("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"]
    if group in [each["logGroupName"] for each in found]:
        yield Step("logs", "DeleteLogGroup", {"logGroupName": group}, "what its containers wrote")


def _left(calls: Calls, layout: Layout, make: Callable[[Step], None]) -> Iterator[str]:
    """What stays; the kit's own bucket goes with the last object."""
    if layout.section.role:
        yield f"role {layout.role}: the YAML names it"
    s3, bucket = calls.client("s3"), {"Bucket": layout.bucket, "ExpectedBucketOwner": layout.place.account}
    try:
        for folder in WRITTEN:
            if _any(s3, bucket, f"{layout.root}{folder}/"):
                yield f"s3://{layout.bucket}/{layout.root}{folder}/: what the endpoint wrote is yours to delete"
        if layout.section.bucket:
            yield f"bucket {layout.bucket}: the YAML names it"
            return
        tags = names.as_dict(s3.get_bucket_tagging(**bucket)["TagSet"])
        in_use = not calls.dry_run and _any(s3, bucket, "")
    except ClientError as error:
        if is_gone(error):
            return
        raise
    if not BUCKET_TAG.items() <= tags.items():
        yield f"bucket {layout.bucket}: the kit did not make it"
    elif in_use:
        yield f"bucket {layout.bucket}: something else is in it"
    else:
        make(Step("s3", "DeleteBucket", bucket, "nothing else is in it"))


def _any(s3: Any, bucket: dict[str, str], prefix: str) -> bool:
    found = s3.list_object_versions(**bucket, Prefix=prefix, MaxKeys=1)
    return bool(found.get("Versions") or found.get("DeleteMarkers"))
