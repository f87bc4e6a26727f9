"""Keys that clients of the gateway send as `Authorization: Bearer`: made, listed, revoked.

A folder holds one small file a key, so that nginx looks one up by its id, a key that is added or revoked counts for
the next request, and nothing is reloaded. A file holds the key's SHA-256 alone. A key has 256 random bits: no list of
guesses, salted or slow, comes near it, so that a slow hash would only cost every request. templates/gateway.js
compares. Knows nothing of nginx.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import string
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from deploy import RUN_DIR
from model_configs.errors import KitError

KEYS_DIR = RUN_DIR / "keys"
ID_LENGTH = 12
ID = re.compile(rf"[a-z0-9]{{{ID_LENGTH}}}")
SECRET_BYTES = 32
ISO = "%Y-%m-%dT%H:%M:%S%z"


@dataclass(frozen=True)
class Key:
    """What is kept of a key. models: names, empty for all; times: ISO 8601 in UTC, expires None for never."""

    id: str
    name: str
    sha256: str
    models: tuple[str, ...]
    created: str
    expires: str | None

    def expired(self, now: datetime) -> bool:
        """Whether it lets nobody in any more."""
        return self.expires is not None and datetime.strptime(self.expires, ISO) <= now


def add(folder: Path, name: str, models: tuple[str, ...] = (), days: float | None = None) -> tuple[Key, str]:
    """Make a key. Returns what is kept of it, and the key itself, which is not kept. Raises KitError."""
    if not name.strip() or any(not character.isprintable() for character in name):
        raise KitError(f"{name!r} is no name for a key", "a word that says whose it is")
    if days is not None and not days > 0:
        raise KitError(f"{days:g} days: the key would be expired already", "--days 90")
    now = datetime.now(timezone.utc)
    key_id = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(ID_LENGTH))
    text = f"sk-{key_id}-{secrets.token_urlsafe(SECRET_BYTES)}"
    expires = _iso(now + timedelta(days=days)) if days is not None else None
    key = Key(key_id, name, hashlib.sha256(text.encode()).hexdigest(), models, _iso(now), expires)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # In one step: nginx may read while this is written.
    fresh = folder / f"{key_id}.new"
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(key), file)
    fresh.replace(folder / f"{key_id}.json")
    return key, text


def keys(folder: Path) -> list[Key]:
    """All keys, the oldest first; one that has expired is among them. Raises KitError for a file that holds none."""
    found = [_read(path) for path in folder.glob("*.json")]
    return sorted(found, key=lambda key: (key.created, key.id))


def revoke(folder: Path, key_id: str) -> Key:
    """Let nobody in with this key any more. Raises KitError when there is none of this id or, if only one, name."""
    found = [key for key in keys(folder) if key_id in (key.id, key.name)]
    if len(found) > 1:
        raise KitError(f"{len(found)} keys have the name {key_id}", "kit.py keys list, then revoke one by its id")
    if not found:
        raise KitError(f"there is no key {key_id} in {folder}", "kit.py keys list")
    (folder / f"{found[0].id}.json").unlink()
    return found[0]


def _iso(time: datetime) -> str:
    """In a form that nginx's JavaScript reads too."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _read(path: Path) -> Key:
    try:
        held = json.loads(path.read_text())
        key = Key(**{**held, "models": tuple(held["models"])})
    except (ValueError, TypeError, KeyError):
        raise KitError(f"{path} holds no key", "remove it, and make another with kit.py keys add NAME") from None
    if path.stem != key.id or not ID.fullmatch(key.id):
        raise KitError(f"{path}: the file's name is not its key's id", "remove it, and make another key")
    return key
