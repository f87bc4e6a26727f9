"""The pages of a site, breadth first from one of them: on the same host, in its folder and below, as robots.txt allows.

Knows nothing of what pages say but their links.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from itertools import islice
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.robotparser import RobotFileParser

import requests

from archives.indexing.reading import links
from model_configs.errors import KitError

MOST_PAGES = 500
"""Asked for, whatever comes of it."""
MOST_BYTES = 5 << 20
"""Of a page."""
MOST_REDIRECTS = 5
TIMEOUT_S = (5.0, 20.0)
"""To connect, and between two pieces of an answer."""
USER_AGENT = "ServeKit-index"
MEDIA_TYPES = ("text/html", "text/plain", "text/markdown")
PIECE_BYTES = 1 << 16
ROBOTS_PIECES = 8
"""Half a megabyte is what a crawler has to read of a robots.txt (RFC 9309, 2.5)."""
DEFAULT_PORTS = (None, 80, 443)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Page:
    """url: the one that it came from in the end. charset: as the server names it."""

    url: str
    media_type: str
    charset: str | None
    body: bytes


class _Left(Exception):
    """A page is not taken; the message says why."""


def pages(start: str, depth: int, say: Say) -> Iterator[Page]:
    """The page at start and those up to depth links away, each once.

    A password in the address is sent and goes nowhere else. Raises KitError when the first page cannot be had; of
    others that cannot, say hears.
    """
    address, login = _without_login(start)
    with requests.Session() as session:
        session.headers["User-Agent"] = USER_AGENT
        session.auth = login
        robots = _robots(session, address)
        pause_s = float(robots.crawl_delay(USER_AGENT) or 0)
        if pause_s:
            say(f"{address}: robots.txt asks for {pause_s:g} s between two pages")
        first = _first(session, address, robots)
        folder = urljoin(first.url, ".")
        known, bodies, asked, forbidden = {address, first.url}, {_sum(first)}, 1, 0

        def problem(url: str) -> str:
            return "" if _is_below(url, folder) and robots.can_fetch(USER_AGENT, url) else "which is not part of it"

        yield first
        last = [first]
        for _ in range(depth):
            found: list[Page] = []
            for url in _new_links(last, folder, known):
                if not robots.can_fetch(USER_AGENT, url):
                    forbidden += 1
                    continue
                if asked == MOST_PAGES:
                    say(f"{address}: stopped after {MOST_PAGES} pages; addresses further down reach the others")
                    return
                time.sleep(pause_s)
                asked += 1
                try:
                    page = _fetch(session, url, problem)
                except _Left as reason:
                    say(f"{url} was left out: {reason}")
                    continue
                # /, /index.html and what redirects to them are one page.
                if (page.url != url and page.url in known) or _sum(page) in bodies:
                    continue
                known.add(page.url)
                bodies.add(_sum(page))
                found.append(page)
                yield page
            last = found
        if forbidden:
            say(f"{address}: robots.txt keeps {forbidden} pages out")


def _new_links(pages: list[Page], folder: str, known: set[str]) -> Iterator[str]:
    """What these pages link to in the folder and below, and nobody knew; known grows by it."""
    for page in pages:
        if page.media_type != "text/html":
            continue
        for link in links(page.body, page.url, page.charset):
            try:
                url = _plain(link)
                new = url not in known and _is_below(url, folder)
            except ValueError:  # a port that is no number
                continue
            if new:
                known.add(url)
                yield url


def _first(session: requests.Session, address: str, robots: RobotFileParser) -> Page:
    def problem(url: str) -> str:
        if _host(url) != _host(address):
            return "which is another host"
        return "" if robots.can_fetch(USER_AGENT, url) else "which robots.txt keeps out"

    if not robots.can_fetch(USER_AGENT, address):
        raise KitError(f"{address} cannot be indexed: robots.txt keeps it out", "ask those whose site it is")
    try:
        return _fetch(session, address, problem)
    except _Left as reason:
        raise KitError(f"{address} cannot be indexed: {reason}", "try the address in a browser") from None


def _fetch(session: requests.Session, url: str, problem: Callable[[str], str]) -> Page:
    """The page at url, or where that leads. problem: what is wrong with going to an address. Raises _Left."""
    for _ in range(MOST_REDIRECTS + 1):
        try:
            with session.get(url, timeout=TIMEOUT_S, allow_redirects=False, stream=True) as response:
                target = session.get_redirect_target(response)
                if target is None:
                    return _page(url, response)
                url = _plain(urljoin(url, target))
                if reason := problem(url):
                    raise _Left(f"it leads to {url}, {reason}")
        except (requests.RequestException, ValueError) as error:
            raise _Left(_words(error)) from None
    raise _Left(f"it leads on and on, more than {MOST_REDIRECTS} times")


def _page(url: str, response: requests.Response) -> Page:
    """Raises _Left, RequestException."""
    if response.status_code != 200:
        raise _Left(f"HTTP {response.status_code}")
    header = Message()
    header["Content-Type"] = response.headers.get("Content-Type", "application/octet-stream")
    if header.get_content_type() not in MEDIA_TYPES:
        raise _Left(f"it is {header.get_content_type()}")
    body = bytearray()
    for piece in response.iter_content(PIECE_BYTES):
        body += piece
        if len(body) > MOST_BYTES:
            raise _Left(f"it is larger than {MOST_BYTES >> 20} MiB")
    return Page(url, header.get_content_type(), header.get_content_charset(), bytes(body))


def _robots(session: requests.Session, address: str) -> RobotFileParser:
    """What the site lets crawlers do. Raises KitError when it does not say, or cannot be reached."""
    url = urljoin(address, "/robots.txt")
    try:
        with session.get(url, timeout=TIMEOUT_S, stream=True) as response:
            status = response.status_code
            text = b"".join(islice(response.iter_content(PIECE_BYTES), ROBOTS_PIECES)).decode("utf-8", "replace")
    except (requests.RequestException, ValueError) as error:
        raise KitError(f"{address} cannot be reached: {_words(error)}", "try the address in a browser") from None
    if status >= 500:  # RFC 9309, 2.3.1.4: then nothing is allowed
        raise KitError(f"{url}: HTTP {status}, so nothing may be taken from there now", "try again later")
    robots = RobotFileParser(url)
    if status in (401, 403):  # as urllib.robotparser's own read has it
        text = "User-agent: *\nDisallow: /"
    robots.parse(text.splitlines() if status in (200, 401, 403) else [])
    return robots


def _words(error: Exception) -> str:
    """A line for what requests says in five."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__


def _without_login(address: str) -> tuple[str, tuple[str, str] | None]:
    """Raises KitError for what is no address."""
    try:
        parts = urlsplit(address)
        login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        if _host(address)[0]:
            return _plain(address), login
    except ValueError:
        pass
    raise KitError(f"{address} is no address of a page", "https://host/folder/")


def _plain(url: str) -> str:
    """The one spelling of an address: no fragment, no login, a path."""
    parts = urlsplit(urldefrag(url).url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2].lower(), path=parts.path or "/").geturl()


def _host(url: str) -> tuple[str, int | None]:
    """Host and port; http and https on their own ports are one. Raises ValueError."""
    parts = urlsplit(url)
    return parts.hostname or "", None if parts.port in DEFAULT_PORTS else parts.port


def _is_below(url: str, folder: str) -> bool:
    """Raises ValueError."""
    is_page = urlsplit(url).scheme in ("http", "https")
    return is_page and _host(url) == _host(folder) and urlsplit(url).path.startswith(urlsplit(folder).path)


def _sum(page: Page) -> bytes:
    return hashlib.sha256(page.body).digest()
