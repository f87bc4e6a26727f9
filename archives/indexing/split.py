"""A document into passages of at most so many characters, cut where a paragraph, a line or a word ends.

LangChain's recursive splitter, since that is what people compare with. Knows nothing of tokens.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from langchain_text_splitters import Language, RecursiveCharacterTextSplitter

from archives.indexing.reading import FORMATS
from archives.indexing.sources import Document
from servekit.retrieval.passages import Passage


def passages(document: Document, chunk_size: int, chunk_overlap: int) -> list[Passage]:
    """Passages by their start; pieces without a letter or digit, rules and the like, are left out.

    chunk_size: characters at most; chunk_overlap: those that may also stand at the end of the passage before. A passage
    is text[start : start + len(passage)].
    """
    suffix = PurePosixPath(urlsplit(document.source).path).suffix.lower()
    splitter = _splitter(chunk_size, chunk_overlap, markdown=FORMATS.get(suffix) == "markdown")
    return [
        Passage(document.source, document.title, int(piece.metadata["start_index"]), piece.page_content)
        for piece in splitter.create_documents([document.text])
        if any(map(str.isalnum, piece.page_content))
    ]


@lru_cache
def _splitter(chunk_size: int, chunk_overlap: int, *, markdown: bool) -> RecursiveCharacterTextSplitter:
    if markdown:
        return RecursiveCharacterTextSplitter.from_language(
            Language.MARKDOWN, chunk_size=chunk_size, chunk_overlap=chunk_overlap, add_start_index=True
        )
    return RecursiveCharacterTextSplitter(chunk_size=chunk_size, chunk_overlap=chunk_overlap, add_start_index=True)
