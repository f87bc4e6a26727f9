"""AWS's event stream encoding, the direction that botocore lacks, as SageMaker's response streams use it.

A frame: total length, length of the headers, CRC of these; headers; payload; CRC of all before. Numbers are big-endian.
"""

from __future__ import annotations

import binascii
import json
import struct
from collections.abc import Mapping
from random import Random

CONTENT_TYPE = "application/vnd.amazon.eventstream"
STRING = 7
"""The type of a header's value."""


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message."""
    head = b"".join(_header(name, value) for name, value in headers.items())
    lengths = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    body = lengths + struct.pack(">I", binascii.crc32(lengths)) + head + payload
    return body + struct.pack(">I", binascii.crc32(body))


def payload_part(data: bytes) -> bytes:
    """A piece of what the model streams."""
    headers = {":event-type": "PayloadPart", ":content-type": "application/octet-stream", ":message-type": "event"}
    return frame(headers, data)


def model_stream_error(message: str, code: str) -> bytes:
    """The end of a stream that broke. code: ModelInvocationTimeExceeded or StreamBroken."""
    return _exception("ModelStreamError", {"Message": message, "ErrorCode": code})


def internal_stream_failure(message: str) -> bytes:
    """The end of a stream by SageMaker's own fault."""
    return _exception("InternalStreamFailure", {"Message": message})


def cut_anywhere(data: bytes, random: Random) -> list[bytes]:
    """The same bytes in two pieces where there are two: parts align neither with lines nor with characters."""
    if len(data) < 2:
        return [data] if data else []
    place = random.randrange(1, len(data))
    return [data[:place], data[place:]]


def _exception(kind: str, members: dict[str, str]) -> bytes:
    headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
    return frame(headers, json.dumps(members).encode())


def _header(name: str, value: str) -> bytes:
    key, data = name.encode(), value.encode()
    return bytes([len(key)]) + key + bytes([STRING]) + struct.pack(">H", len(data)) + data
