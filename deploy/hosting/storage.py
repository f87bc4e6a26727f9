"""Calls that make the kit's bucket and put an archive there, as a pure function. upload.py carries the files."""

from __future__ import annotations

import json
from typing import Any

from deploy.hosting import iam, names
from deploy.hosting.archive import Manifest
from deploy.hosting.layout import Layout
from deploy.hosting.steps import Step

US_EAST_1 = "us-east-1"
"""The one region whose buckets are made without naming it."""
ABORT_AFTER_DAYS = 7
BUCKET_TAG = {names.ENDPOINT_TAG: "all"}


def bucket_steps(layout: Layout) -> list[Step]:
    """For the kit's own bucket; none for one that the YAML names."""
    if layout.section.bucket:
        return []
    bucket, region = {"Bucket": layout.bucket}, layout.place.region
    where = {} if region == US_EAST_1 else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    mine = bucket | {"ExpectedBucketOwner": layout.place.account}
    closed = dict.fromkeys(("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True)
    abort = {
        "ID": "unfinished-uploads",
        "Status": "Enabled",
        "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": ABORT_AFTER_DAYS},
    }
    policy = json.dumps(iam.bucket_policy(layout.place, layout.bucket))
    tags = {"TagSet": names.as_list(BUCKET_TAG)}
    return [
        Step("s3", "CreateBucket", bucket | where, "for the archives of all endpoints here"),
        Step("s3", "PutBucketTagging", mine | {"Tagging": tags}, "tells destroy that it is the kit's"),
        Step("s3", "PutPublicAccessBlock", mine | {"PublicAccessBlockConfiguration": closed}, "nothing is public"),
        *(
            [Step("s3", "PutBucketPolicy", mine | {"Policy": policy}, "nothing without TLS")]
            if layout.place.has_tls
            else []
        ),
        Step(
            "s3",
            "PutBucketLifecycleConfiguration",
            mine | {"LifecycleConfiguration": {"Rules": [abort]}},
            "unfinished uploads cost money",
        ),
    ]


def upload_steps(layout: Layout, manifests: list[Manifest]) -> list[Step]:
    """One for each file. Large ones go in parts, which is several calls."""
    steps = {}
    for manifest in manifests:
        prefix = layout.archive_prefix(manifest)
        for file in manifest.files:
            request = {
                "Bucket": layout.bucket,
                "Key": f"{prefix}{file.path}",
                "ContentLength": file.size_bytes,
                "ChecksumAlgorithm": "SHA256",
                "Metadata": {"sha256": file.sha256},
                "ExpectedBucketOwner": layout.place.account,
                **encryption(layout),
            }
            steps[request["Key"]] = Step("s3", "PutObject", request, "a file of the archive")
    return list(steps.values())


def encryption(layout: Layout) -> dict[str, Any]:
    """With the YAML's key; S3 takes its own where there is none."""
    key = layout.section.kms_key_id
    return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
