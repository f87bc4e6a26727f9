"""Token ids to text, while they come: whole characters only, and nothing of a stop string. Knows no dialect or engine.

A token's text depends on its neighbours: a character may be spread over several tokens, and the first token of a
sentencepiece text loses its space. So the newest tokens are decoded behind the few before them, and what that adds is
the new text. The cost of a token does not grow with the length of the answer.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

CUT = "\ufffd"  # what decoding gives for a character that is not complete, or never will be
TAIL_TOKENS = 16
MAX_WINDOW_TOKENS = 32
# UTF-8 takes at most four bytes for a character, so that at most three tokens with a text wait for one.
MAX_CUT_TOKENS = 4


class TextStream:
    """The text of one row.

    What push and finish return, joined, is tokenizer.decode(ids, skip_special_tokens=True) without its clean-up of
    spaces, up to the first stop string. Two things differ, on purpose:
    - behind prompt_tail_ids, the prompt's last tokens (16 are used, more may be given), the first word keeps the space
      that parts it from the prompt; without them it loses it, as in decode;
    - where byte tokens (<0xE4>) make no valid UTF-8, decode gives up all of that run of bytes; here the characters
      that are whole stay, since they have been sent by then.
    A stop string is found wherever tokens cut it. Of several, the one that is complete first counts; of those that
    end together, the longest.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), prompt_tail_ids: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._byte_tokens = _byte_tokens(tokenizer)
        self._cut_bytes = codecs.getincrementaldecoder("utf-8")("replace")
        # The window: tokens whose text was returned already, which are context, then those that wait.
        self._ids = list(prompt_tail_ids[-TAIL_TOKENS:])
        self._context = len(self._ids)
        self._returned_chars = len(self._decode(self._ids))
        self._cut = ""
        self._stop = tuple(stop)
        self._beginnings = {text[:end] for text in stop for end in range(1, len(text))}
        self._longest_beginning = max(map(len, self._beginnings), default=0)
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """The text that is certain now, often that of this token; "" when all of it has to wait."""
        return "" if self.stopped else self.push_text(self._detokenize(token_id))

    def push_text(self, text: str) -> str:
        """The same for engines that answer in text."""
        if self.stopped or not text:
            return ""
        text = self._held + text
        ends = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)[1]]
        longest = min(len(text), self._longest_beginning)
        held = next((size for size in range(longest, 0, -1) if text[-size:] in self._beginnings), 0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """What was kept back, now that nothing follows it."""
        if self.stopped:
            return ""
        text = self.push_text(self._cut + self._cut_bytes.decode(b"", final=True)) + self._held
        self._cut = self._held = ""
        return text

    def _detokenize(self, token_id: int) -> str:
        """The text that token_id makes certain, stop strings aside."""
        byte = self._byte_tokens.get(token_id)
        if byte is not None:
            text = self._cut + self._cut_bytes.decode(bytes([byte]))
            # Context for what follows: one character, whichever byte it is, but for a space, which decode strips.
            self._ids, self._context, self._cut = [token_id], 1, ""
            self._returned_chars = len(self._decode(self._ids))
            return text
        self._ids.append(token_id)
        text = self._decode(self._ids)
        # Only the last replacement character may still become another one: those before it are broken for good.
        certain = len(text) - text.endswith(CUT)
        new = text[self._returned_chars : certain]
        self._cut = text[max(certain, self._returned_chars) :]
        self._returned_chars = max(certain, self._returned_chars)
        if new or self._cut:
            new = self._cut_bytes.decode(b"", final=True) + new
        if new and not self._cut:
            self._ids = self._ids[self._context :]
            self._context = len(self._ids)
            self._returned_chars = len(self._decode(self._ids))
        elif len(self._ids) > MAX_WINDOW_TOKENS:
            self._shorten_window()
        return new

    def _shorten_window(self) -> None:
        """Forget tokens that no character waits for: special ones, and bytes that are no UTF-8, can go on for ever."""
        visible = [token_id for token_id in self._ids[1:] if self._decode([token_id])]
        # The first stays in any case: it may be the one that took the loss of the leading space.
        self._ids = [self._ids[0], *visible[-MAX_CUT_TOKENS:]]
        self._context = 0
        self._returned_chars = len(self._decode(self._ids)) - len(self._cut)

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def token_text(tokenizer: Any, token_id: int) -> str:
    """What one token looks like in the middle of a text, special tokens by name, a cut character as U+FFFD."""
    once, twice = (
        tokenizer.decode([token_id] * times, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for times in (1, 2)
    )
    return str(twice[len(once) :])


@lru_cache(maxsize=4)
def _byte_tokens(tokenizer: Any) -> dict[int, int]:
    """Byte by token id, for vocabularies that spell rare characters in bytes (sentencepiece's byte fallback)."""
    vocabulary = tokenizer.get_vocab()
    found = {vocabulary[piece]: byte for byte in range(256) if (piece := f"<0x{byte:02X}>") in vocabulary}
    # A byte-level vocabulary may hold "<0x41>" as well, and mean these six characters.
    return {token_id: byte for token_id, byte in found.items() if tokenizer.decode([token_id]) != f"<0x{byte:02X}>"}
