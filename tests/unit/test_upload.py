"""Files to S3: what is there is not sent again, what was cut goes on, what has changed is not sent at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.hosting import upload
from deploy.hosting.steps import Step
from deploy.hosting.upload import Source
from model_configs.errors import Failed, KitError
from tests.fakes.sagemaker_account import ACCOUNT, REGION, account

BUCKET, PREFIX = "models", "archives/1/"
MIB = 1 << 20


class Counting:
    """S3's client, counting its writes; from this number on they fail."""

    def __init__(self, s3: Any, cut_at: int | None = None) -> None:
        self._s3, self._cut_at = s3, cut_at
        self._lock = threading.Lock()
        self.sent: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._s3, name)
        if name not in ("put_object", "upload_part"):
            return method

        def counted(**request: Any) -> Any:
            with self._lock:
                if self._cut_at == len(self.sent):
                    raise ConnectionError("cut")
                self.sent.append(f"{request['Key'].removeprefix(PREFIX)} {request.get('PartNumber', '')}".strip())
            return method(**request)

        return counted


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(upload, "PART_BYTES", 5 * MIB)  # S3 takes no smaller ones
    monkeypatch.setattr(upload, "WORKERS", 1)
    with account() as aws:
        client = aws.client("s3")
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        yield client


@pytest.fixture
def sources(tmp_path: Path) -> list[Source]:
    """A file of three parts, and two small ones."""
    contents = {"large": bytes(range(256)) * 4 * 1024 * 11, "small": b"small", "empty": b""}
    return [source(tmp_path, name, content) for name, content in contents.items()]


def source(folder: Path, name: str, content: bytes) -> Source:
    (folder / name).write_bytes(content)
    request = {
        "Bucket": BUCKET,
        "Key": f"{PREFIX}{name}",
        "ContentLength": len(content),
        "ChecksumAlgorithm": "SHA256",
        "Metadata": {"sha256": hashlib.sha256(content).hexdigest()},
        "ExpectedBucketOwner": ACCOUNT,
    }
    return Source(Step("s3", "PutObject", request, ""), folder / name)


def keys(found: list[Source]) -> list[str]:
    return [each.path.name for each in found]


def test_everything_arrives_and_is_then_there(s3: Any, sources: list[Source]) -> None:
    assert keys(upload.missing(s3, sources, PREFIX)) == ["large", "small", "empty"]
    told: list[int] = []
    upload.upload(s3, sources, told.append)
    assert sum(told) == sum(each.size_bytes for each in sources)
    assert upload.missing(s3, sources, PREFIX) == []
    assert list(upload.unfinished(s3, BUCKET, ACCOUNT, "")) == []
    for each in sources:
        assert s3.get_object(Bucket=BUCKET, Key=each.where["Key"])["Body"].read() == each.path.read_bytes()


def test_an_object_of_the_same_size_and_another_sum_is_missing(s3: Any, sources: list[Source]) -> None:
    upload.upload(s3, sources[1:])
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}small", Body=b"SMALL", Metadata={"sha256": "0" * 64})
    assert keys(upload.missing(s3, sources, PREFIX)) == ["large", "small"]


def test_what_is_not_of_the_archive_may_not_lie_there(s3: Any, sources: list[Source]) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}model.py", Body=b"")
    with pytest.raises(KitError, match=f"s3://{BUCKET}/{PREFIX}model.py is not of this archive"):
        upload.missing(s3, sources, PREFIX)


def test_an_upload_that_was_cut_goes_on(s3: Any, sources: list[Source]) -> None:
    first = Counting(s3, cut_at=2)
    with pytest.raises(ConnectionError):
        upload.upload(first, sources[:2])
    assert first.sent == ["small", "large 1"]
    assert [key for key, _ in upload.unfinished(s3, BUCKET, ACCOUNT, PREFIX)] == [f"{PREFIX}large"]

    second = Counting(s3)
    told: list[int] = []
    left = upload.missing(s3, sources[:2], PREFIX)
    assert keys(left) == ["large"]
    upload.upload(second, left, told.append)
    assert second.sent == ["large 2", "large 3"]
    assert sum(told) == left[0].size_bytes
    assert upload.missing(s3, sources[:2], PREFIX) == []


def test_a_part_of_another_content_is_sent_again(s3: Any, sources: list[Source], tmp_path: Path) -> None:
    with pytest.raises(ConnectionError):
        upload.upload(Counting(s3, cut_at=1), sources[:1])
    changed = source(tmp_path, "large", b"x" * 12 * MIB)
    second = Counting(s3)
    upload.upload(second, [changed])
    assert second.sent == ["large 1", "large 2", "large 3"]
    assert s3.get_object(Bucket=BUCKET, Key=f"{PREFIX}large")["Body"].read() == b"x" * 12 * MIB


def test_of_several_stopped_uploads_the_last_goes_on_and_the_others_are_aborted(s3: Any, sources: list[Source]) -> None:
    for _ in range(2):
        s3.create_multipart_upload(Bucket=BUCKET, Key=f"{PREFIX}large")
    s3.create_multipart_upload(Bucket=BUCKET, Key=f"{PREFIX}large.index")
    upload.upload(s3, sources[:1])
    assert [key for key, _ in upload.unfinished(s3, BUCKET, ACCOUNT, "")] == [f"{PREFIX}large.index"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_file_that_has_changed_since_it_was_built_is_not_sent(s3: Any, sources: list[Source], number: int) -> None:
    sources[number].path.write_bytes(b"x" * sources[number].size_bytes)
    counted = Counting(s3)
    with pytest.raises(KitError, match="has changed since it was built"):
        upload.upload(counted, [sources[number]])
    assert counted.sent == []


def test_what_s3_refuses_is_a_failure(s3: Any, sources: list[Source]) -> None:
    s3.delete_bucket(Bucket=BUCKET)
    with pytest.raises(Failed, match="NoSuchBucket"):
        upload.upload(s3, sources[1:2])


def test_parts_that_s3_lists_sums_of_are_compared_by_these() -> None:
    body = b"part"
    checksum = upload._base64(hashlib.sha256(body).digest())
    assert upload._holds({"ChecksumSHA256": checksum, "ETag": '"of an encrypted object"'}, body, checksum)
    assert not upload._holds({"ChecksumSHA256": "other", "ETag": hashlib.md5(body).hexdigest()}, body, checksum)


@given(st.integers(min_value=0, max_value=5 << 40))
def test_no_file_has_more_parts_than_s3_takes(size_bytes: int) -> None:
    size = upload.part_bytes(size_bytes)
    assert size >= upload.PART_BYTES
    assert -(-size_bytes // size) <= upload.MOST_PARTS
