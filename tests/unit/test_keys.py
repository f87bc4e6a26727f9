"""Keys of the gateway: made, kept as digests alone, listed, revoked."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from deploy import keys
from model_configs.errors import KitError


@pytest.mark.parametrize(
    ("name", "days", "words"),
    [
        ("", None, "no name"),
        ("  ", None, "no name"),
        ("a\nb", None, "no name"),
        ("a", 0.0, "expired"),
        ("a", -1.0, "expired"),
    ],
)
def test_what_cannot_be_a_key(tmp_path: Path, name: str, days: float | None, words: str) -> None:
    with pytest.raises(KitError, match=words):
        keys.add(tmp_path, name, days=days)
    assert list(tmp_path.iterdir()) == []


def test_a_key_is_not_kept_but_its_digest_is(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "keys"
    key, text = keys.add(folder, "alice", ("m",), days=30)
    assert re.fullmatch(r"sk-[a-z0-9]{12}-[A-Za-z0-9_-]{43}", text)
    (file,) = folder.iterdir()
    assert file.name == f"{key.id}.json"
    assert text.rsplit("-", 1)[-1] not in file.read_text()
    assert json.loads(file.read_text())["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    assert keys.keys(folder) == [key]
    assert key.expires
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", key.expires)


def test_expiry(tmp_path: Path) -> None:
    now = datetime.now(timezone.utc)
    limited, _ = keys.add(tmp_path, "limited", days=1)
    unlimited, _ = keys.add(tmp_path, "unlimited")
    assert [key.expired(now) for key in (limited, unlimited)] == [False, False]
    assert [key.expired(now + timedelta(days=2)) for key in (limited, unlimited)] == [True, False]


def test_keys_differ(tmp_path: Path) -> None:
    texts = {keys.add(tmp_path, "same")[1] for _ in range(20)}
    assert len(texts) == len(keys.keys(tmp_path)) == 20


def test_revoking(tmp_path: Path) -> None:
    one, _ = keys.add(tmp_path, "one")
    first, _ = keys.add(tmp_path, "two")
    second, _ = keys.add(tmp_path, "two")
    assert keys.revoke(tmp_path, "one") == one
    with pytest.raises(KitError, match="2 keys have the name two"):
        keys.revoke(tmp_path, "two")
    with pytest.raises(KitError, match="there is no key one"):
        keys.revoke(tmp_path, "one")
    keys.revoke(tmp_path, first.id)
    assert keys.keys(tmp_path) == [second]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "x"}', '{"models": null}'])
def test_a_file_that_is_no_key_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "abcdefghijkl.json").write_text(text)
    with pytest.raises(KitError, match=r"abcdefghijkl.json holds no key"):
        keys.keys(tmp_path)


def test_a_renamed_file_is_told(tmp_path: Path) -> None:
    key, _ = keys.add(tmp_path, "a")
    (tmp_path / f"{key.id}.json").rename(tmp_path / "abcdefghijkl.json")
    with pytest.raises(KitError, match="not its key's id"):
        keys.keys(tmp_path)


def test_no_folder_is_no_key(tmp_path: Path) -> None:
    assert keys.keys(tmp_path / "none") == []
