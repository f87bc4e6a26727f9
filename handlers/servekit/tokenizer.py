"""Text to token ids, without padding, and with word on what was cut. Knows nothing of models or requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servekit.sentence_files import UnsupportedModel, read_sentence_files


@dataclass(frozen=True)
class TokenRow:
    """One text's token ids, special tokens included; truncated says that text was left over."""

    ids: list[int]
    truncated: bool


class TextTokenizer:
    """A model's own tokenizer, truncating at max_length tokens."""

    def __init__(self, model_dir: Path, max_length: int, trust_remote_code: bool = False) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust_remote_code, local_files_only=True)
        if not tokenizer.is_fast:
            raise UnsupportedModel(f"{model_dir}: its tokenizer has no fast (tokenizers) form")
        files = read_sentence_files(model_dir)
        self._prompt = files.prompt
        self._lower_case = files.lower_case
        self.pad_id: int = tokenizer.pad_token_id or 0
        # The tokenizers object itself: transformers' wrapper doubles the time of a short text (39 µs against 18).
        self._backend = tokenizer.backend_tokenizer
        self._backend.enable_truncation(max_length)
        self._backend.no_padding()

    def __call__(self, texts: Sequence[str]) -> list[TokenRow]:
        """Tokenize texts as sentence-transformers does: stripped, the model's default prompt in front."""
        prepared = [self._prompt + text.strip() for text in texts]
        if self._lower_case:
            prepared = [text.lower() for text in prepared]
        return [TokenRow(row.ids, bool(row.overflowing)) for row in self._backend.encode_batch_fast(prepared)]
