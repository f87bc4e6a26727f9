"""Carries an archive's files to S3: in parallel, large ones in parts, checked on both sides, on from where it stopped.

A file is there when an object of its name has its size and its sum; a part is there when S3 has its sum. boto3's own
transfers would begin a stopped file anew. Knows nothing of what the files are.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from deploy.hosting.steps import Step
from model_configs.errors import Failed, KitError
from servekit import fingerprint

PART_BYTES = 32 << 20
MOST_PARTS = 10_000
WORKERS = 8
Say = Callable[[int], None]
"""Told how many bytes more are there."""


@dataclass(frozen=True)
class Source:
    """A file that goes to S3. step: the PutObject call that would do, were the file small."""

    step: Step
    path: Path

    @property
    def where(self) -> dict[str, str]:
        """What every call about the object names."""
        return {key: self.step.request[key] for key in ("Bucket", "Key", "ExpectedBucketOwner")}

    @property
    def size_bytes(self) -> int:
        return int(self.step.request["ContentLength"])

    @property
    def sha256(self) -> str:
        return str(self.step.request["Metadata"]["sha256"])


def missing(s3: Any, sources: list[Source], prefix: str) -> list[Source]:
    """Those that are not there whole. Raises KitError when something else lies under the prefix."""
    where = {key: sources[0].where[key] for key in ("Bucket", "ExpectedBucketOwner")}
    pages = s3.get_paginator("list_objects_v2").paginate(**where, Prefix=prefix)
    sizes = {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", [])}
    odd = sorted(set(sizes) - {source.where["Key"] for source in sources})
    if odd:
        raise KitError(
            f"s3://{where['Bucket']}/{odd[0]} is not of this archive", "delete it: the endpoint would get it"
        )
    with ThreadPoolExecutor(WORKERS) as pool:
        there = pool.map(
            lambda source: sizes.get(source.where["Key"]) == source.size_bytes and _same(s3, source), sources
        )
        return [source for source, is_there in zip(sources, there, strict=True) if not is_there]


def upload(s3: Any, sources: list[Source], say: Say = lambda count: None) -> None:
    """Put them there. Raises KitError for a file that has changed since it was built, Failed where S3 refuses one."""
    small = [source for source in sources if source.size_bytes <= PART_BYTES]
    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            _finish(pool, [pool.submit(_put, s3, source, say) for source in small])
            for source in sources:
                if source.size_bytes > PART_BYTES:
                    _put_in_parts(s3, source, pool, say)
    except ClientError as error:
        raise Failed(f"S3: {error}") from None


def unfinished(s3: Any, bucket: str, owner: str, prefix: str) -> Iterator[tuple[str, str]]:
    """Key and id of every upload in parts under the prefix that has not been completed, oldest first."""
    pages = s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix, ExpectedBucketOwner=owner)
    found = [each for page in pages for each in page.get("Uploads", [])]
    for each in sorted(found, key=lambda each: each["Initiated"]):
        yield each["Key"], each["UploadId"]


def part_bytes(size_bytes: int) -> int:
    """Of all parts but the last; a file has always the same, so that a later run can go on with them."""
    return max(PART_BYTES, math.ceil(size_bytes / MOST_PARTS))


def _same(s3: Any, source: Source) -> bool:
    return bool(s3.head_object(**source.where)["Metadata"].get("sha256") == source.sha256)


def _put(s3: Any, source: Source, say: Say) -> None:
    _check(source)
    with source.path.open("rb") as body:
        s3.put_object(**source.step.request, Body=body, ChecksumSHA256=_base64(bytes.fromhex(source.sha256)))
    say(source.size_bytes)


def _put_in_parts(s3: Any, source: Source, pool: ThreadPoolExecutor, say: Say) -> None:
    _check(source)
    upload_id = _upload_id(s3, source)
    there = _parts_there(s3, source, upload_id)
    size = part_bytes(source.size_bytes)
    numbers = range(1, math.ceil(source.size_bytes / size) + 1)
    parts = [pool.submit(_put_part, s3, source, upload_id, number, size, there.get(number), say) for number in numbers]
    _finish(pool, parts)
    s3.complete_multipart_upload(
        **source.where, UploadId=upload_id, MultipartUpload={"Parts": [part.result() for part in parts]}
    )


def _upload_id(s3: Any, source: Source) -> str:
    """Of the last upload of this file that stopped, or of a new one; others are aborted."""
    key, bucket, owner = source.where["Key"], source.where["Bucket"], source.where["ExpectedBucketOwner"]
    found = [each for name, each in unfinished(s3, bucket, owner, key) if name == key]
    for old in found[:-1]:
        s3.abort_multipart_upload(**source.where, UploadId=old)
    if found:
        return found[-1]
    kept = ("ChecksumAlgorithm", "Metadata", "ServerSideEncryption", "SSEKMSKeyId")
    request = {name: source.step.request[name] for name in kept if name in source.step.request}
    return str(s3.create_multipart_upload(**source.where, **request)["UploadId"])


def _parts_there(s3: Any, source: Source, upload_id: str) -> dict[int, dict[str, Any]]:
    pages = s3.get_paginator("list_parts").paginate(**source.where, UploadId=upload_id)
    return {part["PartNumber"]: part for page in pages for part in page.get("Parts", [])}


def _put_part(
    s3: Any, source: Source, upload_id: str, number: int, size: int, there: dict[str, Any] | None, say: Say
) -> dict[str, Any]:
    with source.path.open("rb") as file:
        file.seek((number - 1) * size)
        body = file.read(size)
    checksum = _base64(hashlib.sha256(body).digest())
    if there is None or not _holds(there, body, checksum):
        where = source.where | {"UploadId": upload_id}
        there = s3.upload_part(
            **where, PartNumber=number, Body=body, ChecksumAlgorithm="SHA256", ChecksumSHA256=checksum
        )
    say(len(body))
    return {"PartNumber": number, "ETag": there["ETag"], "ChecksumSHA256": checksum}


def _holds(part: dict[str, Any], body: bytes, checksum: str) -> bool:
    """Whether a part that is there has this content; moto lists no checksums, but the ETag, which is an MD5 sum."""
    if "ChecksumSHA256" in part:
        return bool(part["ChecksumSHA256"] == checksum)
    return bool(part["ETag"].strip('"') == hashlib.md5(body, usedforsecurity=False).hexdigest())


def _check(source: Source) -> None:
    if fingerprint.file_sha256(source.path) != source.sha256:
        raise KitError(f"{source.path} has changed since it was built", "kit.py archive --format no-archive --force")


def _finish(pool: ThreadPoolExecutor, futures: list[Future[Any]]) -> None:
    try:
        for future in futures:
            future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
