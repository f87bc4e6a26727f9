"""What is a document of a source: folders with odd files in them, single files, pydoc's topics, and names taken twice."""

from __future__ import annotations

import os
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from archives.indexing.sources import Document, all_documents, documents
from model_configs.errors import KitError


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_a_folder_is_read_to_its_depths_by_path(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "b.txt": "plain",
            "a/z.MD": "---\nx: y\n---\n# Title\nwords",
            "a/b/page.html": "<title>Page</title><p>one<p>two",
            "a.rst": "Heading\n=======\nwords",
            "c.markdown": "no heading",
            "d.htm": "<p>x",
        },
    )
    assert list(documents(str(tmp_path))) == [
        Document("a.rst", "Heading", "Heading\n=======\nwords"),
        Document("a/b/page.html", "Page", "one\n\ntwo"),
        Document("a/z.MD", "Title", "# Title\nwords"),
        Document("b.txt", "b", "plain"),
        Document("c.markdown", "c", "no heading"),
        Document("d.htm", "d", "x"),
    ]


def test_odd_files_are_left_out_and_told_of(tmp_path: Path) -> None:
    said: list[str] = []
    write(
        tmp_path,
        {
            "good.txt": "words",
            "latin.txt": b"caf\xe9",
            "empty.md": "\n \n",
            "binary.txt": b"a\0b",
            ".hidden.txt": "no",
            ".git/x.txt": "no",
            "photo.png": b"\x89PNG",
            "LICENSE": "no",
            "deep/.cache/y.txt": "no",
        },
    )
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "broken.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [each.source for each in documents(str(tmp_path), say=said.append)] == ["good.txt"]
    assert [line.removeprefix(f"{tmp_path}/") for line in said] == [
        "binary.txt was left out: it is no text",
        "empty.md was left out: it is empty",
        "latin.txt was left out: it is no text in UTF-8",
        f"{tmp_path}: 2 other files were left out; read are .txt, .md, .markdown, .rst, .html, .htm",
    ]


def test_a_file_that_may_not_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.txt": "a", "b.txt": "b"})
    real, said = Path.read_bytes, list[str]()

    def read_bytes(path: Path) -> bytes:
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert [each.source for each in documents(str(tmp_path), say=said.append)] == ["b.txt"]
    assert said == [f"{tmp_path}/a.txt was left out: Permission denied"]


def test_names_that_are_no_utf_8_can_be_written(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(path)).write_text("words")
    (found,) = documents(str(tmp_path))
    assert (found.source, found.title) == ("caf?.txt", "caf?")


def test_a_hidden_folder_that_is_named_is_read(tmp_path: Path) -> None:
    write(tmp_path, {".docs/a.txt": "words"})
    assert [each.source for each in documents(str(tmp_path / ".docs"))] == ["a.txt"]


def test_one_file(tmp_path: Path) -> None:
    write(tmp_path, {"a/b.md": "# T\nx"})
    assert list(documents(str(tmp_path / "a" / "b.md"))) == [Document("b.md", "T", "# T\nx")]


def test_pydoc_s_topics_are_as_they_are() -> None:
    found = list(documents("pydoc:topics"))
    assert [each.source for each in found] == sorted(topics)
    assert all(each.title == each.source and each.text == topics[each.source] for each in found)


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("nowhere", "nowhere does not exist", "pydoc:topics"),
        ("pydoc:topic", "does not exist", "pydoc:topics"),
        ("ftp://h/x", "ftp is not spoken here", "http"),
        ("a.pdf", r"a\.pdf is no document", ".md"),
        ("empty", "empty holds no documents", ".md"),
        ("useless", "useless holds no documents", ".md"),
    ],
)
def test_sources_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str, hint: str
) -> None:
    write(tmp_path, {"a.pdf": "%PDF", "useless/a.txt": "", "useless/b.png": ""})
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KitError, match=message) as caught:
        list(documents(source))
    assert hint in caught.value.hint


def test_an_unknown_source_is_told_of_before_anything_is_read() -> None:
    with pytest.raises(KitError):
        documents("nowhere")


def test_a_name_that_is_taken_has_its_root_in_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("docs", "x/docs", "y/docs"):
        write(tmp_path, {f"{root}/a.md": root, f"{root}/{root[0]}.md": "own"})
    write(tmp_path, {"z/a.md": "file", "z/with.md": "w"})
    monkeypatch.chdir(tmp_path)
    found = all_documents(["docs", "x/docs", "./docs/", "y/docs", "z/a.md"], 2, print)
    assert [(each.source, each.text) for each in found] == [
        ("a.md", "docs"),
        ("d.md", "own"),
        ("docs/a.md", "x/docs"),
        ("x.md", "own"),
        ("docs-2/a.md", "y/docs"),
        ("y.md", "own"),
        ("z/a.md", "file"),
    ]


def test_a_topic_whose_name_a_file_has(tmp_path: Path) -> None:
    write(tmp_path, {"assert.txt": "x"})
    (tmp_path / "assert.txt").rename(tmp_path / "assert.md")
    first = documents("pydoc:topics")
    assert next(first).source == "assert"
    found = [each.source for each in all_documents(["pydoc:topics", str(tmp_path), "pydoc:topics"], 2, print)]
    assert found[-1] == "assert.md"
    assert len(found) == len(set(found)) == len(topics) + 1


def test_a_page_that_two_addresses_reach_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from archives.indexing import site
    from archives.indexing.site import Page

    def pages(start: str, depth: int, say: object) -> list[Page]:
        return [Page(url, "text/plain", None, url.encode()) for url in ("http://h/a", start)]

    monkeypatch.setattr(site, "pages", pages)
    found = all_documents(["http://h/", "http://h/docs/"], 2, print)
    assert [each.source for each in found] == ["http://h/a", "http://h/", "http://h/docs/"]
