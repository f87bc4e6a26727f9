"""A stack's archives in S3: put there before instances ask for them, taken away with the stack.

They lie in the kit's bucket, or the YAML's, as those of endpoints on SageMaker do, below ec2/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError

from deploy.hosting import current, storage, upload
from deploy.hosting.archive import Manifest
from deploy.hosting.calls import Calls, explained, is_gone
from deploy.hosting.layout import Layout
from deploy.hosting.place import Place
from deploy.hosting.steps import Step
from model_configs.ec2 import Ec2
from model_configs.sagemaker import SageMaker

BATCH = 1000
"""Objects of one DeleteObjects call."""


def layout(model: str, section: Ec2, place: Place) -> Layout:
    """Where a model's archives lie."""
    like_an_endpoints = SageMaker.model_construct(
        instance_type=section.instance_type,
        bucket=section.bucket,
        prefix=f"{section.prefix}ec2/",
        kms_key_id=section.kms_key_arn,
    )
    return Layout(model, like_an_endpoints, place)


def steps(where: Layout, manifest: Manifest) -> list[Step]:
    """Every call that puts an archive there, the bucket's own among them where the kit makes it."""
    return [*storage.bucket_steps(where), *storage.upload_steps(where, [manifest])]


def put(calls: Calls, where: Layout, manifest: Manifest, say: Callable[[int], None]) -> int:
    """Make the bucket as it should be and upload what is missing. Returns how many files that was."""
    prefix = where.archive_prefix(manifest)
    with explained("s3"):
        current.check_bucket(calls, where.bucket, is_made=not where.section.bucket)
        for step in storage.bucket_steps(where):
            if current.verdict(step, current.read(calls, step)) != "keep":
                calls.make(step)
        sources = [
            upload.Source(step, manifest.folder / step.name.removeprefix(prefix))
            for step in storage.upload_steps(where, [manifest])
        ]
        lacking = upload.missing(calls.client("s3"), sources, prefix)
        upload.upload(calls.client("s3"), lacking, say)
    return len(lacking)


def remove(calls: Calls, where: Layout) -> list[str]:
    """Delete all archives of the stack, and the kit's bucket with its last object. Returns what is left, and why."""
    s3, bucket = calls.client("s3"), {"Bucket": where.bucket, "ExpectedBucketOwner": where.place.account}
    with explained("s3"):
        try:
            for key, upload_id in upload.unfinished(s3, where.bucket, where.place.account, where.archives):
                request = {**bucket, "Key": key, "UploadId": upload_id}
                calls.make(Step("s3", "AbortMultipartUpload", request, "an upload that stopped"))
            found = list(_versions(s3, bucket, where.archives))
            for start in range(0, len(found), BATCH):
                some = {"Objects": found[start : start + BATCH], "Quiet": True}
                calls.make(Step("s3", "DeleteObjects", {**bucket, "Delete": some}, "archives"))
            if where.section.bucket:
                return [f"bucket {where.bucket}: the YAML names it"]
            if any(not each["Key"].startswith(where.archives) for each in _versions(s3, bucket, "")):
                return [f"bucket {where.bucket}: something else is in it"]
            calls.make(Step("s3", "DeleteBucket", bucket, "nothing else is in it"))
        except ClientError as error:
            if not is_gone(error):
                raise
    return []


def _versions(s3: Any, bucket: dict[str, str], prefix: str) -> Iterator[dict[str, str]]:
    for page in s3.get_paginator("list_object_versions").paginate(**bucket, Prefix=prefix):
        for each in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]:
            yield {"Key": each["Key"], "VersionId": each["VersionId"]}
