"""Data capture: a share of requests and answers, a JSON line each, as SageMaker writes them to S3.

Response streams are not captured. SageMaker gathers lines before it writes; here each is an object of its own.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from random import Random
from typing import Any
from uuid import uuid4

from botocore.exceptions import ClientError

from deploy.emulator import model_data
from deploy.emulator.endpoint import Endpoint
from deploy.emulator.host import Host
from deploy.emulator.traffic import Lease


class Capture:
    """Of one region's endpoints."""

    def __init__(self, host: Host, region: str) -> None:
        self._host = host
        self._region = region
        self._random = Random(0)

    def take(
        self, endpoint: Endpoint, lease: Lease, given: Mapping[str, str], body: bytes, reply: bytes, content_type: str
    ) -> None:
        """Write this one down, if it is among those that are captured. Returns at once."""
        config = lease.fleet.config.get("DataCaptureConfig", {})
        chosen = self._random.uniform(0, 100) < config.get("InitialSamplingPercentage", 0)
        if not chosen or not config.get("EnableCapture", True):
            return
        line = record(config, given, body, reply, content_type)
        bucket, prefix = model_data.split(config["DestinationS3Uri"])
        now = datetime.now(timezone.utc)
        name = f"{now:%Y/%m/%d/%H/%M-%S}-{now.microsecond // 1000:03d}-{uuid4()}.jsonl"
        key = "/".join(filter(None, [prefix.strip("/"), endpoint.name, lease.variant.name, name]))
        threading.Thread(target=self._write, args=(bucket, key, line), daemon=True).start()

    def _write(self, bucket: str, key: str, line: dict[str, Any]) -> None:
        try:
            self._host.client("s3", self._region).put_object(
                Bucket=bucket, Key=key, Body=json.dumps(line).encode() + b"\n"
            )
        except ClientError as error:
            self._host.report(f"data capture: {error}")


def record(
    config: Mapping[str, Any], given: Mapping[str, str], body: bytes, reply: bytes, content_type: str
) -> dict[str, Any]:
    """A line's document."""
    modes = {option["CaptureMode"] for option in config["CaptureOptions"]}
    header = config.get("CaptureContentTypeHeader", {})
    data = {}
    if modes & {"Input", "InputAndOutput"}:
        data["endpointInput"] = _side("INPUT", body, given.get("ContentType", ""), header)
    if modes & {"Output", "InputAndOutput"}:
        data["endpointOutput"] = _side("OUTPUT", reply, content_type, header)
    metadata = {"eventId": str(uuid4()), "inferenceTime": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"}
    if "InferenceId" in given:
        metadata["inferenceId"] = given["InferenceId"]
    if "CustomAttributes" in given:
        metadata["customAttributes"] = given["CustomAttributes"]
    return {"captureData": data, "eventMetadata": metadata, "eventVersion": "0"}


def _side(mode: str, data: bytes, content_type: str, header: Mapping[str, Any]) -> dict[str, str]:
    plain = content_type.partition(";")[0].strip()
    if plain in header.get("CsvContentTypes", []):
        encoding, shown = "CSV", data.decode(errors="replace")
    elif plain in header.get("JsonContentTypes", []):
        encoding, shown = "JSON", data.decode(errors="replace")
    else:
        encoding, shown = "BASE64", base64.b64encode(data).decode()
    return {"observedContentType": content_type, "mode": mode, "data": shown, "encoding": encoding}
