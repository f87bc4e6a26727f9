"""What files and pages say: HTML with its blocks apart, Markdown's titles, and bytes that are no text."""

from __future__ import annotations

import time

import pytest
from bs4.exceptions import ParserRejectedMarkup
from hypothesis import given
from hypothesis import strategies as st

from archives.indexing import reading
from archives.indexing.reading import (
    NotText,
    html_text,
    links,
    markdown_title,
    read,
    rst_title,
    without_front_matter,
)


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("<p>one<p>two", "one\n\ntwo"),
        ("<p>one\n  <b>two</b>\tthree</p>", "one two three"),
        ("<b>no</b>blank", "noblank"),
        ("<div>a<div></div>b</div>", "a\n\nb"),
        ("<div>a<p>b</p>c</div>", "a\n\nb\n\nc"),
        ("<p>a<br>b<br/> c</p>", "a\nb\nc"),
        ("a<hr>b", "a\n\nb"),
        ("<h2>Title<a href='#t'>¶</a></h2>text", "Title\n\ntext"),
        ("<p>x</p><ul>\n<li>a</li>\n <li>b <i>c</i></li>\n</ul><p>y</p>", "x\n\na\nb c\n\ny"),
        ("<ul><li>a<li>b</ul>", "a\nb"),
        ("<table><tr><th>n</th><th>m</th></tr>\n<tr><td>1</td><td>2</td></tr></table>", "n m\n1 2"),
        ("x<pre>\n  if a:\n      <b>b</b>()\n\n\n  c\n</pre>y", "x\n\n  if a:\n      b()\n\n\n  c\n\ny"),
        ("<pre>a<br>b<div>c</div></pre> \n<p>d", "a\nbc\n\nd"),
        ("<pre>  \n </pre>a", "a"),
        ("a<!-- no --><script>no</script><style>no</style><nav>no<p>no</p></nav><footer>no</footer>b", "ab"),
        ("<template>no</template><noscript>no</noscript><!DOCTYPE html><p>yes", "yes"),
        ("&lt;tag&gt; &amp; &nbsp; &#8211; &eacute;", "<tag> & – é"),
        ("<head><title>no</title><p>a head that never ends", "a head that never ends"),
    ],
)
def test_html_is_what_a_reader_sees(markup: str, text: str) -> None:
    assert html_text(markup).text == text


@pytest.mark.parametrize(
    ("markup", "title"),
    [
        ("<title> The\n title </title><h1>no</h1>", "The title"),
        ("<p>x<h1>The <i>first</i><a>¶</a></h1><h1>no</h1>", "The first"),
        ("<p>x", ""),
    ],
)
def test_the_title_of_html(markup: str, title: str) -> None:
    assert html_text(markup).title == title


def test_entities_bring_nothing_that_cannot_be_written() -> None:
    title, text = html_text("<title>a&#xD800;b</title>c&#0;d&#xDFFF;e&#57343;")
    (title + text).encode()
    assert "\0" not in title + text
    assert text.startswith("c")
    assert text.replace("\ufffd", "").replace("?", "") == "cde"


def test_what_no_parser_takes_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:  # which markup that is depends on Python's patch level
        raise ParserRejectedMarkup("unknown status keyword")

    monkeypatch.setattr(reading, "BeautifulSoup", refuse)
    with pytest.raises(NotText, match="is no HTML"):
        html_text("<p>a")
    assert links(b"<a href='/'>", "http://h/") == []


def test_a_page_nested_ten_thousand_deep_is_read_in_no_time() -> None:
    started = time.perf_counter()
    assert html_text("<div>a" * 10_000).text == "\n\n".join("a" * 10_000)
    assert html_text("<b>a" * 10_000).text == "a" * 10_000
    assert time.perf_counter() - started < 10


@given(st.text(alphabet="ab <>/p\n&;!-#x0", max_size=60))
def test_any_markup_is_read_or_refused(markup: str) -> None:
    try:
        text = html_text(markup).text
    except NotText:
        return
    text.encode()
    assert text == text.strip() or "<pre" in markup
    assert "\n\n\n" not in text


def test_xhtml_and_what_looks_like_a_file_s_name_raise_no_warning() -> None:
    assert html_text('<?xml version="1.0"?><html xmlns="x"><p>a').text == "a"
    assert html_text("some/file.txt").text == "some/file.txt"


def test_links_are_absolute_and_in_order() -> None:
    page = b'<a href="b.html#x">1</a><a>no</a><a href="/c?d=1">2</a><a href="http://[">no</a><a href="mailto:x">3</a>'
    assert links(page, "http://h/a/") == ["http://h/a/b.html#x", "http://h/c?d=1", "mailto:x"]
    assert links(b'<base href="/z/">' + page, "http://h/a/")[0] == "http://h/z/b.html#x"
    assert links(b"\xff", "http://h/a/") == []


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("---\ntitle: a\n---\n# b\n", "# b\n"),
        ("---\n# comment\n\n'my-key': [1]\n...\nb", "b"),
        ("---\n---\nb", "b"),
        ("---\ndate: 2024-99-99\nbad: [\n---\nb", "b"),
        ("---\ntitle: a\n---", ""),
        ("---\n\nA rule, and then text\n\n---\nb", None),
        ("---\ntitle: a\nthat never ends", None),
        ("text\n---\ntitle: a\n---\n", None),
    ],
)
def test_front_matter_goes_and_rules_stay(text: str, rest: str | None) -> None:
    assert without_front_matter(text) == (text if rest is None else rest)


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("x\n\n## The *title* ##\n# no", "The *title*"),
        ("```\n# no\n```\n# yes", "yes"),
        ("````\n```\n# no\n````\n# yes", "yes"),
        ("~~~py\n# no\n```\n~~~\n# yes", "yes"),
        ("    # no\n#no\n#\nYes\n===", "Yes"),
        ("Yes\n---\n# no", "Yes"),
        ("\n---\n\n# yes", "yes"),
        ("- no\n-\n", ""),
        ("```\nno\n---\n", ""),
    ],
)
def test_the_first_heading_of_markdown(text: str, title: str) -> None:
    assert markdown_title(text) == title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Title\n=====\n", "Title"),
        ("=======\n Title\n=======\n", "Title"),
        (".. _label:\n\nx\n\nTitle\n~~~~~~\n", "Title"),
        ("A title that is longer\n=====\n", ""),
        ("=====\n=====\n", ""),
    ],
)
def test_the_first_title_of_restructuredtext(text: str, title: str) -> None:
    assert rst_title(text) == title


def test_bytes_are_utf_8_with_or_without_a_mark_and_any_line_ends() -> None:
    assert read(b"\xef\xbb\xbf# a\r\nb\rc\n", "markdown") == ("a", "# a\nb\nc\n")
    assert read("é".encode(), "plain") == ("", "é")
    assert read(b"Title\r\n-----\r\nx", "rst").title == "Title"
    assert read(b"<title>a</title>b", "html") == ("a", "b")


def test_a_charset_that_is_named_is_used_if_it_is_one() -> None:
    assert read(b"caf\xe9", "plain", "iso-8859-1").text == "café"
    for unknown in ("klingon", "hex"):
        assert read("é".encode(), "plain", unknown).text == "é"


@pytest.mark.parametrize(
    ("content", "form", "charset", "problem"),
    [
        (b"caf\xe9", "plain", None, "is no text in UTF-8"),
        (b"\xff\xfea\0", "plain", None, "is no text in UTF-8"),
        (b"a\0b", "plain", None, "is no text"),
        (b"+2AA-", "plain", "utf-7", "is no text in utf-7"),
        (b"a", "plain", "a\0b", "is no text in a"),
        (b" \n\t", "plain", None, "is empty"),
        (b"\xef\xbb\xbf", "plain", None, "is empty"),
        (b"---\na: b\n---\n", "markdown", None, "is empty"),
        (b"<title>only</title><script>x</script>", "html", None, "is empty"),
    ],
)
def test_what_is_no_text_says_why(content: bytes, form: str, charset: str | None, problem: str) -> None:
    with pytest.raises(NotText, match=problem):
        read(content, form, charset)  # type: ignore[arg-type]
