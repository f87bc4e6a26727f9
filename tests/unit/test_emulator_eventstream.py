"""The encoder against botocore's own decoder."""

from __future__ import annotations

from random import Random

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer, EventStreamMessage
from hypothesis import given
from hypothesis import strategies as st

from deploy.emulator import eventstream


def decoded(data: bytes, sizes: list[int]) -> list[EventStreamMessage]:
    """What botocore makes of bytes that come in pieces of these sizes."""
    buffer, found, place, turn = EventStreamBuffer(), [], 0, 0
    while place < len(data):
        size = sizes[turn % len(sizes)]
        buffer.add_data(data[place : place + size])
        found += list(buffer)
        place, turn = place + size, turn + 1
    return found


@given(st.lists(st.binary(max_size=200), max_size=5), st.lists(st.integers(1, 64), min_size=1))
def test_payload_parts_come_out_as_they_went_in(payloads: list[bytes], sizes: list[int]) -> None:
    found = decoded(b"".join(map(eventstream.payload_part, payloads)), sizes)
    assert [message.payload for message in found] == payloads
    assert all(message.headers[":event-type"] == "PayloadPart" for message in found)


@given(
    st.dictionaries(st.text(st.characters(codec="ascii"), min_size=1, max_size=20), st.text(max_size=50), max_size=4)
)
def test_headers_come_out_as_they_went_in(headers: dict[str, str]) -> None:
    (message,) = decoded(eventstream.frame(headers, b"x"), [7])
    assert message.headers == headers


def test_exceptions_are_botocores_exceptions() -> None:
    data = eventstream.model_stream_error("it broke", "StreamBroken") + eventstream.internal_stream_failure("ours")
    broke, ours = (message.to_response_dict() for message in decoded(data, [1000]))
    assert broke["status_code"] == ours["status_code"] == 400
    assert broke["headers"][":exception-type"] == "ModelStreamError"
    assert broke["body"] == b'{"Message": "it broke", "ErrorCode": "StreamBroken"}'
    assert ours["headers"][":exception-type"] == "InternalStreamFailure"


def test_a_flipped_bit_is_seen() -> None:
    data = bytearray(eventstream.payload_part(b"payload"))
    data[-6] ^= 1
    with pytest.raises(ChecksumMismatch):
        decoded(bytes(data), [1000])


@given(st.binary(max_size=50), st.integers())
def test_cut_pieces_are_the_same_bytes(data: bytes, seed: int) -> None:
    pieces = eventstream.cut_anywhere(data, Random(seed))
    assert b"".join(pieces) == data
    assert all(pieces)
    assert len(pieces) == min(2, len(data))
