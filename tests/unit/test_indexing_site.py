"""A real site on this machine: how far it is followed, what is left out, and what is said of that."""

from __future__ import annotations

import base64
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from archives.indexing import site
from archives.indexing.site import pages
from archives.indexing.sources import documents
from model_configs.errors import KitError

Answer = tuple[int, dict[str, str], bytes]
HTML, TEXT = {"Content-Type": "text/html; charset=utf-8"}, {"Content-Type": "text/plain"}


class Site:
    """Answers by path; what was asked for, and by whom."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.said: list[str] = []

    def page(self, path: str, *links: str, text: str = "") -> None:
        body = f"<title>{path}</title><p>{text or path}" + "".join(f'<a href="{link}">x</a>' for link in links)
        self.answers[path] = (200, HTML, body.encode())

    def redirect(self, path: str, target: str) -> None:
        self.answers[path] = (302, {"Location": target}, b"")

    def found(self, start: str, depth: int = 2) -> list[str]:
        """The paths of the pages, as they came."""
        return [page.url.removeprefix(self.url) for page in pages(self.url + start, depth, self.said.append)]


@pytest.fixture
def web() -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.asked[self.path] += 1
            here.headers.append(dict(self.headers))
            status, headers, body = here.answers.get(self.path, (404, TEXT, b"nothing"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.replace(b"COUNT", str(here.asked[self.path]).encode()))

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield here
    server.shutdown()
    thread.join()
    server.server_close()


def test_breadth_first_to_the_depth_each_page_once(web: Site) -> None:
    web.page("/docs/", "a.html", "b.html#part", "/docs/#top", "a.html?")
    web.page("/docs/a.html", "deep/c.html", "b.html")
    web.page("/docs/b.html", "a.html", "deep/d.html")
    web.page("/docs/deep/c.html", "e.html")
    web.page("/docs/deep/d.html")
    web.page("/docs/deep/e.html", text="too deep")
    assert web.found("/docs/", 0) == ["/docs/"]
    assert web.found("/docs/", 1) == ["/docs/", "/docs/a.html", "/docs/b.html"]
    web.asked.clear()
    assert web.found("/docs/") == [
        "/docs/",
        "/docs/a.html",
        "/docs/b.html",
        "/docs/deep/c.html",
        "/docs/deep/d.html",
    ]
    assert max(web.asked.values()) == 1
    assert web.found("/docs/", 3)[-1] == "/docs/deep/e.html"


def test_only_this_host_and_folder(web: Site) -> None:
    other = web.url.replace("127.0.0.1", "localhost")
    port = web.url.replace(web.url.rsplit(":")[-1], "1")
    web.page(
        "/docs/a/start.html",
        *("../up.html", "/", f"{other}/docs/a/x.html", f"{port}/docs/a/x.html", "http://h:bad/docs/a/"),
        *(
            "mailto:me@h",
            "javascript:x()",
            "ftp://127.0.0.1/docs/a/x",
            "below.html",
            "//127.0.0.1:x/",
            "../a/./two.html",
        ),
    )
    web.page("/docs/a/below.html")
    web.page("/docs/a/two.html")
    assert web.found("/docs/a/start.html") == ["/docs/a/start.html", "/docs/a/below.html", "/docs/a/two.html"]
    assert set(web.asked) == {"/robots.txt", "/docs/a/start.html", "/docs/a/below.html", "/docs/a/two.html"}
    assert web.said == []


def test_robots_txt_is_obeyed_and_told_of(web: Site) -> None:
    web.answers["/robots.txt"] = (200, TEXT, b"User-agent: *\nDisallow: /private\nDisallow: /gate/\n")
    web.page("/", "private/a", "open", "private/b")
    web.page("/open", "/private/c")
    web.page("/private/a")
    assert web.found("/") == ["/", "/open"]
    assert [path for path in web.asked if "private" in path] == []
    assert web.said == [f"{web.url}/: robots.txt keeps 3 pages out"]
    with pytest.raises(KitError, match=r"private/a cannot be indexed: robots\.txt keeps it out"):
        web.found("/private/a")


def test_robots_txt_may_name_this_crawler(web: Site) -> None:
    web.answers["/robots.txt"] = (200, TEXT, f"User-agent: {site.USER_AGENT}\nDisallow: /a\n".encode())
    web.page("/", "a", "b")
    web.page("/a")
    web.page("/b")
    assert web.found("/") == ["/", "/b"]
    assert {headers["User-Agent"] for headers in web.headers} == {site.USER_AGENT}


@pytest.mark.parametrize(("status", "message"), [(403, "robots.txt keeps it out"), (503, "robots.txt: HTTP 503")])
def test_a_robots_txt_that_cannot_be_had_forbids(web: Site, status: int, message: str) -> None:
    web.answers["/robots.txt"] = (status, TEXT, b"")
    web.page("/")
    with pytest.raises(KitError, match=message):
        web.found("/")
    assert set(web.asked) == {"/robots.txt"}


def test_a_pause_that_robots_txt_asks_for_is_made(web: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("archives.indexing.site.time.sleep", slept.append)
    web.answers["/robots.txt"] = (200, TEXT, b"User-agent: *\nCrawl-delay: 7\n")
    web.page("/", "a", "b")
    web.page("/a")
    web.page("/b")
    assert len(web.found("/")) == 3
    assert slept == [7.0, 7.0]
    assert web.said == [f"{web.url}/: robots.txt asks for 7 s between two pages"]


def test_redirects_inside_are_followed_and_others_are_not(web: Site) -> None:
    other = web.url.replace("127.0.0.1", "localhost")
    web.page("/docs/", "in", "out", "away", "loop", "again")
    web.redirect("/docs/in", "/docs/target")
    web.redirect("/docs/again", "target")
    web.page("/docs/target")
    web.redirect("/docs/out", f"{other}/docs/x")
    web.redirect("/docs/away", "/elsewhere")
    web.page("/elsewhere")
    web.redirect("/docs/loop", "loop")
    assert web.found("/docs/") == ["/docs/", "/docs/target"]
    assert web.asked["/elsewhere"] == web.asked["/docs/x"] == 0
    assert len(web.said) == 3
    assert f"{web.url}/docs/out was left out: it leads to {other}/docs/x, which is not part of it" in web.said


def test_where_the_first_page_leads_is_where_the_site_is(web: Site) -> None:
    web.redirect("/docs", "/docs/en/")
    web.page("/docs/en/", "a", "/docs/de/b")
    web.page("/docs/en/a")
    web.page("/docs/de/b")
    assert web.found("/docs") == ["/docs/en/", "/docs/en/a"]
    web.redirect("/gone", web.url.replace("127.0.0.1", "localhost") + "/x")
    with pytest.raises(KitError, match="it leads to http://localhost.*, which is another host"):
        web.found("/gone")


def test_the_same_page_by_another_name_counts_once(web: Site) -> None:
    web.page("/", "index.html", "a", text="same")
    web.answers["/index.html"] = web.answers["/"]
    web.page("/a", "/b", text="seen COUNT times")  # another text each time
    web.redirect("/b", "/a")
    assert web.found("/") == ["/", "/a"]


def test_what_is_no_text_or_too_large_or_broken_is_told_of(web: Site) -> None:
    web.page("/", "a.png", "untyped", "big", "missing", "text", "notes.md", "broken", "latin")
    web.answers["/a.png"] = (200, {"Content-Type": "image/png"}, b"\x89PNG")
    web.answers["/untyped"] = (200, {}, b"words")
    web.answers["/big"] = (200, TEXT, b"x" * (site.MOST_BYTES + 1))
    web.answers["/text"] = (200, TEXT, b"<p>just text</p> <a href='unseen'>")
    web.answers["/notes.md"] = (200, {"Content-Type": "text/markdown"}, b"# Notes\nwords")
    web.answers["/broken"] = (200, {**TEXT, "Content-Encoding": "gzip"}, b"this is not gzip")
    web.answers["/latin"] = (200, {"Content-Type": "text/html; charset=ISO-8859-1"}, b"<p>caf\xe9")
    said: list[str] = []
    found = {each.source.removeprefix(web.url): each for each in documents(web.url + "/", 2, said.append)}
    assert list(found) == ["/", "/text", "/notes.md", "/latin"]
    assert found["/text"].text.startswith("<p>just")
    assert (found["/notes.md"].title, found["/latin"].text) == ("Notes", "café")
    assert found["/text"].title == f"{web.url}/text"
    reasons = [line.removeprefix(web.url).replace(" was left out: ", " ") for line in said]
    assert reasons == [
        "/a.png it is image/png",
        "/untyped it is application/octet-stream",
        "/big it is larger than 5 MiB",
        "/missing HTTP 404",
        "/broken ContentDecodingError",
    ]


def test_pages_without_words_are_left_out_and_a_site_of_those_is_an_error(web: Site) -> None:
    web.answers["/"] = (200, HTML, b"<script>render()</script>")
    said: list[str] = []
    with pytest.raises(KitError, match="has no documents"):
        list(documents(web.url, 2, said.append))
    assert said == [f"{web.url}/ was left out: it is empty"]


def test_so_many_pages_and_no_more(web: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "MOST_PAGES", 4)
    web.page("/", *(f"p{number}" for number in range(9)))
    for number in range(9):
        web.page(f"/p{number}")
    assert len(web.found("/")) == 4
    assert sum(web.asked.values()) == 5
    assert "stopped after 4 pages" in web.said[0]


def test_a_password_is_sent_and_goes_nowhere_else(web: Site) -> None:
    web.page("/", "a")
    web.page("/a")
    address = web.url.replace("http://", "http://me:s%40crt@")
    found = [page.url for page in pages(address, 1, web.said.append)]
    assert found == [f"{web.url}/", f"{web.url}/a"]
    wanted = "Basic " + base64.b64encode(b"me:s@crt").decode()
    assert {headers.get("Authorization") for headers in web.headers} == {wanted}
    web.answers["/"] = (500, TEXT, b"")
    with pytest.raises(KitError, match="HTTP 500") as caught:
        list(pages(address, 1, web.said.append))
    assert "crt" not in str(caught.value)


def test_what_cannot_be_reached_is_a_line(web: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KitError, match=r"/nothing cannot be indexed: HTTP 404"):
        web.found("/nothing")
    with pytest.raises(KitError, match=r"http://127\.0\.0\.1:1/x cannot be reached: no connection"):
        list(pages("http://127.0.0.1:1/x", 1, print))
    for wrong in ("http://", "http://[", "http://h:port/"):
        with pytest.raises(KitError, match="is no address"):
            list(pages(wrong, 1, print))


def test_a_server_that_does_not_answer_is_left(web: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(site, "TIMEOUT_S", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(KitError, match="cannot be reached: no answer in time"):
            list(pages(address, 1, print))
