"""Documents out of what the user names: folders, files, sites, and CPython's own pydoc topics.

Knows nothing of passages.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from archives.indexing import site
from archives.indexing.reading import FORMATS, Format, NotText, read
from archives.indexing.site import Page, Say
from model_configs.errors import KitError

TOPICS = "pydoc:topics"
KINDS = f"a folder, a file, http(s)://… or {TOPICS}"
MEDIA_FORMATS: dict[str, Format] = {"text/html": "html", "text/markdown": "markdown"}


@dataclass(frozen=True)
class Document:
    """source: path below the folder that was given, URL or topic. text: lines end in \\n."""

    source: str
    title: str
    text: str


def documents(source: str, depth: int = 2, say: Say = lambda line: None) -> Iterator[Document]:
    """The documents of one source, in the same order each time.

    depth: of a URL, how many links away. say: hears of each file or page that is left out. Raises KitError when there
    is no such source, and from the iterator when a folder or site has no document or cannot be read.
    """
    if source == TOPICS:
        return _topics()
    if "://" in source:
        if source.lower().startswith(("http://", "https://")):
            return _pages(source, depth, say)
        raise KitError(f"{source}: {source.split(':')[0]} is not spoken here", KINDS)
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, say)
    if path.is_file():
        if path.suffix.lower() not in FORMATS:
            raise KitError(f"{path} is no document", f"there are: {', '.join(FORMATS)}")
        return _file(path, path.name, say)
    raise KitError(f"{source} does not exist", KINDS)


def all_documents(sources: Sequence[str], depth: int, say: Say) -> Iterator[Document]:
    """Of several sources, each `source` once: what a second one calls the same has its root's name in front.

    A source that is named twice counts once, and so does a page that two sites have. Raises KitError as documents does.
    """
    taken: set[str] = set()
    for source in dict.fromkeys(map(_absolute, sources)):
        for document in documents(source, depth, say):
            if document.source in taken:
                if "://" in source:
                    continue
                document = replace(document, source=_free_name(_root_name(source), document.source, taken))
            taken.add(document.source)
            yield document


def _free_name(root: str, name: str, taken: set[str]) -> str:
    """root/name, or where that is taken too, root-2/name and so on."""
    candidates = itertools.chain([f"{root}/{name}"], (f"{root}-{number}/{name}" for number in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _absolute(source: str) -> str:
    """docs and ./docs/ are one source."""
    path = Path(source).expanduser()
    return str(path.resolve()) if source != TOPICS and "://" not in source and path.exists() else source


def _root_name(source: str) -> str:
    path = Path(source)
    if not path.exists():
        return source
    return _writable((path if path.is_dir() else path.parent).name)


def _topics() -> Iterator[Document]:
    from pydoc_data.topics import topics  # half a megabyte that other sources do not need

    for name in sorted(topics):
        if topics[name].strip():
            yield Document(name, name, topics[name])


def _folder(folder: Path, say: Say) -> Iterator[Document]:
    count = others = 0
    for path in _files(folder, say):
        if path.suffix.lower() not in FORMATS:
            others += 1
            continue
        for document in _file(path, path.relative_to(folder).as_posix(), say):
            count += 1
            yield document
    if others:
        say(f"{folder}: {others} other files were left out; read are {', '.join(FORMATS)}")
    if not count:
        raise KitError(f"{folder} holds no documents", f"there are: {', '.join(FORMATS)}")


def _files(folder: Path, say: Say) -> list[Path]:
    """All that are not hidden nor in hidden folders, by their path."""
    found: list[Path] = []
    for root, folders, names in os.walk(folder, onerror=lambda error: say(_left_out(error))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(filter(Path.is_file, found), key=lambda path: path.relative_to(folder).as_posix())


def _file(path: Path, source: str, say: Say) -> Iterator[Document]:
    """One document, or none."""
    try:
        title, text = read(path.read_bytes(), FORMATS[path.suffix.lower()])
    except NotText as problem:
        say(f"{_writable(str(path))} was left out: it {problem}")
    except OSError as error:
        say(_left_out(error))
    else:
        yield Document(_writable(source), title or _writable(path.stem), text)


def _pages(address: str, depth: int, say: Say) -> Iterator[Document]:
    count = 0
    for page in site.pages(address, depth, say):
        try:
            title, text = read(page.body, _format(page), page.charset)
        except NotText as problem:
            say(f"{page.url} was left out: it {problem}")
            continue
        count += 1
        yield Document(page.url, title or page.url, text)
    if not count:
        raise KitError(f"{address} has no documents", "try the address in a browser")


def _format(page: Page) -> Format:
    """What the server says; of plain text, what the name says."""
    suffix = PurePosixPath(urlsplit(page.url).path).suffix.lower()
    by_name = FORMATS.get(suffix, "plain")
    return MEDIA_FORMATS.get(page.media_type, "plain" if by_name == "html" else by_name)


def _left_out(error: OSError) -> str:
    return f"{_writable(str(error.filename))} was left out: {error.strerror}"


def _writable(name: str) -> str:
    """A name whose bytes are not UTF-8 has ? in their place: it goes into JSON."""
    return name.encode("utf-8", "replace").decode("utf-8")
