"""Data capture's lines."""

from __future__ import annotations

from typing import Any

from deploy.emulator.capture import record

CAPTURE: dict[str, Any] = {
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"], "CsvContentTypes": ["text/csv"]},
}


def test_captured_lines_are_as_sagemaker_writes_them() -> None:
    given = {"ContentType": "application/json; charset=utf-8", "InferenceId": "id", "CustomAttributes": "a"}
    line = record(CAPTURE, given, b'{"x": 1}', b"\xff\x00", "application/octet-stream")
    assert line["captureData"] == {
        "endpointInput": {
            "observedContentType": "application/json; charset=utf-8",
            "mode": "INPUT",
            "data": '{"x": 1}',
            "encoding": "JSON",
        },
        "endpointOutput": {
            "observedContentType": "application/octet-stream",
            "mode": "OUTPUT",
            "data": "/wA=",
            "encoding": "BASE64",
        },
    }
    assert line["eventVersion"] == "0"
    assert line["eventMetadata"].keys() == {"eventId", "inferenceTime", "inferenceId", "customAttributes"}


def test_only_what_is_asked_for_is_captured() -> None:
    line = record({"CaptureOptions": [{"CaptureMode": "Output"}]}, {}, b"in", b"1,2", "text/csv")
    assert line["captureData"].keys() == {"endpointOutput"}
    assert line["captureData"]["endpointOutput"]["encoding"] == "BASE64"
