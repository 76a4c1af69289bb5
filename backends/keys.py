"""Keys of the API: what a token looks like, what is kept of it. Pure.

A token is `sk-slipway-`, eight letters that name the key, and 256 random bits. Only its SHA-256 is kept. A slow hash
(bcrypt, Argon2) or a salt would add nothing: they protect passwords, which can be guessed one after another; nobody
guesses 256 random bits, however fast the hash, and no two tokens are alike. The start `sk-` is what our logs take for
a secret, and what other programs' scanners know.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, Field

from backends.spec import Frozen, refusal

_TOKEN = re.compile(r"sk-slipway-([0-9a-f]{8})([A-Za-z0-9_-]{43})")


def _shown(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise refusal("Write a name of letters that can be shown.", "请填写由可见字符组成的名称。")
    return name.strip()


class KeyName(Frozen):
    """What a person calls a key, such as the program that will use it."""

    name: Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_shown)]


class Key(Frozen):
    """One key as it is listed; its token is not known any more. Times are aware UTC."""

    id: str
    name: str
    created_at: datetime
    last_used_at: datetime | None = None  # to the minute
    revoked_at: datetime | None = None


class NewKey(Frozen):
    """A key that has just been made. `token` is shown now and never again."""

    key: Key
    token: str = Field(repr=False)


def token_of(key_id: str, secret: str) -> str:
    """The token of a key: `key_id` is 8 hexadecimal letters, `secret` 43 of URL-safe base64 (256 bits)."""
    token = f"sk-slipway-{key_id}{secret}"
    if not _TOKEN.fullmatch(token):
        raise ValueError("a token has 8 hexadecimal letters and 43 of base64")
    return token


def key_id_of(token: str) -> str | None:
    """Which key a token says it is; None for what is no token of ours."""
    found = _TOKEN.fullmatch(token)
    return found[1] if found else None


def digest_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def matches(token: str, digest: str) -> bool:
    """True for the token of that digest; takes the same time wherever they differ."""
    return hmac.compare_digest(digest_of(token), digest)
