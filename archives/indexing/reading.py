"""What a file or a page says: title and text, out of bytes of plain text, Markdown, reStructuredText or HTML.

Paragraphs of HTML are separated by blank lines, which is where the splitter likes to cut. Knows nothing of where the
bytes come from.
"""

from __future__ import annotations

import re
import warnings
from typing import Literal, NamedTuple
from urllib.parse import urljoin

from bs4 import BeautifulSoup
from bs4.builder import ParserRejectedMarkup
from bs4.element import NavigableString, PreformattedString, Tag

Format = Literal["plain", "markdown", "rst", "html"]
FORMATS: dict[str, Format] = {
    ".txt": "plain",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "rst",
    ".html": "html",
    ".htm": "html",
}

DROPPED = frozenset({"script", "style", "nav", "footer", "noscript", "template", "title"})
"""Elements that are no part of what a page says; its title is kept apart."""
BLOCKS = frozenset(
    {
        "address", "article", "aside", "blockquote", "body", "caption", "details", "div", "dl", "fieldset",
        "figcaption", "figure", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "main", "ol", "p", "pre",
        "section", "summary", "table", "ul",
    }
)  # fmt: skip
LINES = frozenset({"dd", "dt", "li", "tr"})
"""Blocks with a new line and no blank one between them."""
CELLS = frozenset({"td", "th"})
PARAGRAPH, LINE = "\n\n", "\n"
HEADING_LINK = "¶"
"""What Sphinx and MkDocs put behind every heading, as a link to itself."""

FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
YAML_KEY = re.compile(r"(?:[ \t]*(?:#.*)?\n)*[\w\"'-]+[ \t]*:(?:[ \t]|$)", re.MULTILINE)
FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
HASHES = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*")
UNDERLINE = re.compile(r" {0,3}(?:=+|-{2,})[ \t]*")
RST_UNDERLINE = re.compile(r"([!-/:-@\[-`{-~])\1{2,}[ \t]*")


class NotText(ValueError):
    """There is nothing to read in these bytes. The message goes on after the file's name: is empty."""


class Text(NamedTuple):
    """title: empty where there is none. text: lines end in \\n."""

    title: str
    text: str


def read(content: bytes, form: Format, charset: str | None = None) -> Text:
    """Title and text. charset: UTF-8 when None, or unknown to Python. Raises NotText."""
    text = _decoded(content, charset)
    if form == "html":
        found = html_text(text)
    elif form == "markdown":
        text = without_front_matter(text)
        found = Text(markdown_title(text), text)
    else:
        found = Text(rst_title(text) if form == "rst" else "", text)
    if not found.text.strip():
        raise NotText("is empty")
    return found


def links(content: bytes, address: str, charset: str | None = None) -> list[str]:
    """Where the links of an HTML page at this address lead, in their order; none where it is no HTML."""
    try:
        soup = _parsed(_decoded(content, charset))
    except NotText:
        return []
    base = soup.find("base", href=True)
    found = []
    for tag in soup.find_all("a", href=True):
        try:
            start = urljoin(address, str(base["href"])) if isinstance(base, Tag) else address
            found.append(urljoin(start, str(tag["href"])))
        except ValueError:  # http://[ and the like
            continue
    return found


def html_text(markup: str) -> Text:
    """What a reader sees: blocks with blank lines between them, items and rows a line each, <pre> as it stands.

    One pass without recursion, however deep a page is nested. Raises NotText for what no parser takes.
    """
    soup = _parsed(markup)
    writer = _Writer()
    last = _Place(id(soup))
    places = {id(soup): last}
    for node in soup.descendants:
        place = places[id(node.parent)]
        if isinstance(node, Tag):
            places[id(node)] = _inside(node, place)
            if not places[id(node)].dropped:
                _begin(node, place, writer)
        elif isinstance(node, NavigableString) and not isinstance(node, PreformattedString) and not place.dropped:
            if place.verbatim or not node.isspace():
                if place.block != last.block:
                    writer.end(LINE if place.is_line and last.is_line else PARAGRAPH)
                    last = place
                if node.strip() == HEADING_LINK:
                    continue
            writer.add(str(node), verbatim=place.verbatim)
    writer.end(PARAGRAPH)
    heading = soup.find("title") or soup.find("h1")
    title = heading.get_text().replace(HEADING_LINK, " ") if heading else ""
    return Text(" ".join(title.split()), "".join(writer.parts))


class _Place(NamedTuple):
    """What an element is in. block: of the nearest element that is one, its id."""

    block: int
    is_line: bool = False
    verbatim: bool = False
    dropped: bool = False


def _inside(tag: Tag, place: _Place) -> _Place:
    if place.dropped or tag.name in DROPPED:
        return place._replace(dropped=True)
    if place.verbatim or tag.name not in BLOCKS | LINES:
        return place
    return _Place(id(tag), is_line=tag.name in LINES, verbatim=tag.name == "pre")


def _begin(tag: Tag, place: _Place, writer: _Writer) -> None:
    """What the beginning of an element does to the text before it."""
    if tag.name == "br":
        writer.add("\n", verbatim=place.verbatim, breaks=True)
    elif place.verbatim:
        return
    elif tag.name in BLOCKS:
        writer.end(PARAGRAPH)
    elif tag.name in LINES:
        writer.end(LINE)
    elif tag.name in CELLS:
        writer.add(" ", verbatim=False)


class _Writer:
    """Blocks, and what stands between them. parts: of the text so far."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._block: list[str] = []
        self._verbatim = False
        self._gap = ""

    def add(self, piece: str, *, verbatim: bool, breaks: bool = False) -> None:
        """Go on with this block. breaks: a new line that stays one."""
        if not self._block:
            self._verbatim = verbatim
        if self._verbatim and not verbatim:
            return  # blanks between </pre> and what comes next
        self._block.append(piece if verbatim or breaks else re.sub(r"\s+", " ", piece))

    def end(self, gap: str) -> None:
        """This block is over, if one has begun. gap: what there is at least before the next one."""
        whole = "".join(self._block)
        if not self._verbatim:
            whole = "\n".join(" ".join(line.split()) for line in whole.split("\n")).strip()
        elif whole.isspace():
            whole = ""
        else:
            whole = whole.strip("\n")
        self._block.clear()
        if whole:
            self.parts += [self._gap, whole] if self.parts else [whole]
            self._gap = gap
        else:
            self._gap = max(self._gap, gap, key=len)


def without_front_matter(text: str) -> str:
    """Markdown without the YAML between two lines of --- at its beginning; a mere rule there stays."""
    found = FRONT_MATTER.match(text)
    if found and (not found[1].strip() or YAML_KEY.match(found[1])):
        return text[found.end() :]
    return text


def markdown_title(text: str) -> str:
    """The first heading, # or underlined, that is not inside a block of code."""
    fence = previous = ""
    for line in text.split("\n"):
        mark = FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence):
                fence = ""
        elif mark:
            fence = mark[1]
        elif (heading := HASHES.fullmatch(line)) and heading[1]:
            return heading[1]
        elif previous.strip() and UNDERLINE.fullmatch(line):
            return previous.strip()
        previous = "" if fence or mark else line
    return ""


def rst_title(text: str) -> str:
    """The first line with a line of punctuation under it that is as long."""
    previous = ""
    for line in text.split("\n"):
        title = previous.strip()
        underlined = RST_UNDERLINE.fullmatch(line) and len(line.rstrip()) >= len(title)
        if title and underlined and not RST_UNDERLINE.fullmatch(previous):
            return title
        previous = line
    return ""


def _decoded(content: bytes, charset: str | None) -> str:
    try:
        try:
            text = content.decode(charset or "utf-8")
        except LookupError:  # no such codec, or one that is not of text
            text = content.decode("utf-8")
        text.encode("utf-8")  # UTF-7 decodes to halves of characters, which nothing can write
    except ValueError:  # UnicodeError, or a charset that no codec could have
        raise NotText(f"is no text in {charset or 'UTF-8'}") from None
    if "\0" in text:
        raise NotText("is no text")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _parsed(markup: str) -> BeautifulSoup:
    with warnings.catch_warnings():
        # Of XHTML, and of text that could be a file's name: both are read all the same.
        warnings.simplefilter("ignore")
        try:
            return BeautifulSoup(markup, "html.parser")
        except ParserRejectedMarkup:
            raise NotText("is no HTML that can be parsed") from None
