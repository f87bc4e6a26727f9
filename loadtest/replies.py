"""What a reply says, byte by byte as it comes: when text came, how many tokens, whether it ended as it should.

Server-sent events of OpenAI's and TGI's dialects, JSON lines, plain text, whole JSON answers. Bytes may be cut
anywhere: inside a line, inside a character, several events in one piece. Knows nothing of sockets; whoever feeds it
brings the clock.
"""

from __future__ import annotations

from typing import Any

import orjson

DONE = b"[DONE]"
PLAIN_TEXT_ERROR = b"\n[error] "
"""How the kit's handler ends a plain text stream that cannot go on."""


class Wrong(Exception):
    """The reply reports an error itself, or cannot be read. kind: one of records.ERRORS."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Stream:
    """The reading of one streamed reply. Times are on the feeder's clock, in seconds."""

    def __init__(self, content_type: str) -> None:
        """content_type: the reply's; text/plain is text as it is, all else comes in lines."""
        self.is_plain = content_type.partition(";")[0].strip().lower() == "text/plain"
        self.first_s: float | None = None
        self.last_s: float | None = None
        self.gaps_ms: list[float] = []
        self.tokens_in: int | None = None
        self.tokens_out: int | None = None
        self.ended = self.is_plain
        """Whether the dialect's end mark has come; plain text has none."""
        self._rest = b""

    @property
    def chunks(self) -> int:
        """Pieces that held text."""
        return 0 if self.first_s is None else len(self.gaps_ms) + 1

    def feed(self, piece: bytes, now_s: float) -> None:
        """A piece that came at this time. Raises Wrong when it reports an error or is not what a stream says."""
        if self.is_plain:
            self._check_plain(piece)
            has_text = bool(piece)
        else:
            *lines, self._rest = (self._rest + piece).split(b"\n")
            # All lines are read, also those after one that has text.
            brought = [self._line(line) for line in lines]
            has_text = any(brought)
        if has_text:
            self._tick(now_s)

    def finish(self, now_s: float) -> None:
        """The reply has ended. Raises Wrong when it had more to say."""
        if not self.is_plain and self._line(self._rest):
            self._tick(now_s)
        if not self.ended:
            raise Wrong("stream_cut", "the stream ended without its end mark")
        if not self.chunks and not self.tokens_out:
            raise Wrong("wrong_answer", "a stream without text")

    def _tick(self, now_s: float) -> None:
        if self.last_s is None:
            self.first_s = now_s
        else:
            self.gaps_ms.append(1e3 * (now_s - self.last_s))
        self.last_s = now_s

    def _check_plain(self, piece: bytes) -> None:
        # The mark may come in two pieces, so as many bytes as it has are kept.
        seen = self._rest + piece
        if PLAIN_TEXT_ERROR in seen:
            raise Wrong("stream_error", _text(seen.rpartition(PLAIN_TEXT_ERROR)[2]))
        self._rest = seen[-len(PLAIN_TEXT_ERROR) :]

    def _line(self, line: bytes) -> bool:
        """Whether a line brought text. Comments, event names and blank lines bring none."""
        if line.startswith(b"data:"):
            line = line[5:]
        elif not line.startswith(b"{"):
            return False
        data = line.strip()
        if data == DONE:
            self.ended = True
            return False
        if not data:
            return False
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise Wrong("wrong_answer", f"a line that is no JSON: {_text(data)}") from None
        if not isinstance(event, dict):
            raise Wrong("wrong_answer", f"a line that is no JSON object: {_text(data)}")
        return self._event(event)

    def _event(self, event: dict[str, Any]) -> bool:
        if event.get("error"):
            raise Wrong("stream_error", _text(orjson.dumps(event["error"])))
        self._count(event)
        if event.get("generated_text") is not None:  # TGI's last line
            self.ended = True
        token = event.get("token")
        if isinstance(token, dict):
            return bool(token.get("text")) and not token.get("special")
        for choice in event.get("choices") or ():
            if choice.get("text") or (choice.get("delta") or {}).get("content"):
                return True
        return bool(event.get("text"))

    def _count(self, event: dict[str, Any]) -> None:
        usage = event.get("usage")
        if isinstance(usage, dict):
            self.tokens_in, self.tokens_out = usage.get("prompt_tokens"), usage.get("completion_tokens")
            if "choices" not in event:  # JSON lines end with their usage
                self.ended = True
        details = event.get("details")
        if isinstance(details, dict) and details.get("generated_tokens") is not None:
            self.tokens_out = details["generated_tokens"]


def check_whole(body: bytes, content_type: str) -> tuple[int | None, int | None]:
    """A whole reply's tokens in and out, None where it names none. Raises Wrong when it is no good answer."""
    if not body:
        raise Wrong("wrong_answer", "an empty answer")
    if not content_type.partition(";")[0].strip().lower().endswith("json"):
        return None, None
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Wrong("wrong_answer", f"no JSON: {_text(body)}") from None
    if not isinstance(answer, dict):
        return None, None
    if answer.get("error"):
        raise Wrong("wrong_answer", _text(orjson.dumps(answer["error"])))
    usage = answer.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return usage.get("prompt_tokens"), usage.get("completion_tokens")


def _text(data: bytes) -> str:
    return data[:200].decode(errors="replace").strip()
