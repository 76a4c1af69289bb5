"""Keys of the API: shown once, kept as a digest, good until revoked, asked for where they are needed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from app.api import api
from app.guard import COOKIE, Guard, Login
from app.kept import Kept
from app.settings import settings
from backends import keys
from backends.errors import BadInput, NotFound
from backends.targets.base import redact
from storage import keys as stored
from storage.store import Store
from tests.test_cli import slipway
from tests.ui.conftest import StillControl, control  # noqa: F401  the fixture

ORIGIN = "http://127.0.0.1:7860"


@pytest.fixture
def kept(store: Store) -> Kept:
    return Kept(store)


def test_a_key_is_good_until_it_is_revoked(kept: Kept) -> None:
    made = kept.make_key("laptop")
    assert kept.knows_key(made.token)
    assert kept.revoke_key(made.key.id).revoked_at is not None
    assert not kept.knows_key(made.token)
    (listed,) = kept.keys()
    assert listed.name == "laptop"


def test_a_key_that_was_revoked_keeps_its_moment(kept: Kept) -> None:
    made = kept.make_key("laptop")
    assert kept.revoke_key(made.key.id) == kept.revoke_key(made.key.id)


def test_a_key_that_is_not_there_cannot_be_revoked(kept: Kept) -> None:
    with pytest.raises(NotFound):
        kept.revoke_key("00000000")


def test_no_part_of_a_token_is_accepted_for_it(kept: Kept) -> None:
    token, other = kept.make_key("a").token, kept.make_key("b").token
    changed = token[:-1] + ("A" if token[-1] != "A" else "B")
    mixed = token[:19] + other[19:]  # one key's name, another's secret
    for wrong in ("", token[:-1], changed, mixed, token + "A", token.upper(), f" {token}", keys.digest_of(token), "%"):
        assert not kept.knows_key(wrong)
    assert kept.knows_key(token)


def test_tokens_are_random_and_long_enough_not_to_be_guessed(kept: Kept) -> None:
    tokens = {kept.make_key("a").token for _ in range(50)}
    assert len({token[19:] for token in tokens}) == 50
    assert all(len(token[19:]) * 6 >= 256 for token in tokens)


def test_no_token_lies_on_the_disk(kept: Kept, home: Path) -> None:
    made = kept.make_key("laptop")
    assert kept.knows_key(made.token)
    there = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert made.token.encode() not in there
    assert made.token[19:].encode() not in there
    assert keys.digest_of(made.token).encode() in there


def test_a_token_in_a_log_is_taken_for_a_secret(kept: Kept) -> None:
    made = kept.make_key("laptop")
    assert made.token[19:] not in redact(f"GET /v1/models {made.token} 200")
    assert made.token not in repr(made)


def test_the_last_use_is_noted_once_a_minute(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    made = kept.make_key("laptop")
    assert kept.keys()[0].last_used_at is None
    kept.knows_key(made.token)
    first = kept.keys()[0].last_used_at
    assert first is not None and datetime.now(UTC) - first < timedelta(minutes=1)
    kept.knows_key(made.token)
    assert kept.keys()[0].last_used_at == first
    monkeypatch.setattr(stored, "USE_NOTED_S", -1)
    kept.knows_key(made.token)
    assert kept.keys()[0].last_used_at > first


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "a\x1b[31m", "x" * 65])
def test_a_key_s_name_can_be_shown(kept: Kept, name: str) -> None:
    with pytest.raises(BadInput) as refused:
        kept.make_key(name)
    assert refused.value.field == "name"


# --- at the gate ------------------------------------------------------------------------------------------------------


def gate(control: StillControl, login: Login | None, always: bool = False) -> TestClient:  # noqa: F811
    """The API behind the gate, as the panel has it."""
    app = Starlette(routes=[Mount("/v1", api(control)), Mount("/", Starlette())])
    host = "127.0.0.1" if login is None else "0.0.0.0"
    guard = Guard(app, host=host, login=login, knows_key=control.knows_key, key_always=always)
    return TestClient(guard, base_url=ORIGIN)


def asks(client: TestClient, token: str) -> list[str]:
    openai_client = OpenAI(base_url=f"{ORIGIN}/v1", api_key=token, http_client=client, max_retries=0)
    return [model.id for model in openai_client.models.list()]


@pytest.fixture(params=["off loopback", "on loopback, required"])
def guarded(request, control: StillControl) -> Iterator[TestClient]:  # noqa: F811
    control.served()
    login = Login("open sesame") if request.param == "off loopback" else None
    with gate(control, login, always=login is None) as client:
        yield client


def test_a_key_opens_the_api(guarded: TestClient, control: StillControl) -> None:  # noqa: F811
    assert asks(guarded, control.make_key("laptop").token) == ["demo"]


def test_without_a_good_key_the_api_is_shut(guarded: TestClient, control: StillControl) -> None:  # noqa: F811
    revoked = control.make_key("old")
    control.revoke_key(revoked.key.id)
    for token in ("none", revoked.token, revoked.token[:-1]):
        with pytest.raises(openai.AuthenticationError) as refused:
            asks(guarded, token)
        assert refused.value.code == "invalid_api_key"
    assert guarded.get("/v1/models").status_code == 401
    assert guarded.get("/v1/models", headers={"authorization": "Basic eDp5"}).headers["www-authenticate"] == "Bearer"


def test_on_loopback_nobody_is_asked_for_a_key(control: StillControl) -> None:  # noqa: F811
    control.served()
    with gate(control, None) as client:
        assert asks(client, "none") == ["demo"]


def test_a_key_opens_the_api_and_nothing_else(control: StillControl) -> None:  # noqa: F811
    token = control.make_key("laptop").token
    with gate(control, Login("open sesame")) as client:
        for path in ("/", "/slipway/stream", "/v1", "/v1x", "/config"):
            assert client.get(path, headers={"authorization": f"Bearer {token}"}).status_code == 401


def test_who_is_logged_in_needs_no_key(control: StillControl) -> None:  # noqa: F811
    login = Login("open sesame")
    control.served()
    with gate(control, login) as client:
        client.cookies.set(COOKIE, login.enter("me", "open sesame"))
        assert asks(client, "none") == ["demo"]


# --- on the command line ----------------------------------------------------------------------------------------------


def test_the_command_line_makes_lists_and_revokes(home: Path) -> None:
    made = json.loads(slipway("keys", "make", "CI server", "--json", home=home).stdout)
    assert keys.key_id_of(made["token"]) == made["id"]
    listed = json.loads(slipway("keys", "--json", home=home).stdout)
    assert [(key["name"], key["revoked_at"]) for key in listed] == [("CI server", None)]
    assert "token" not in listed[0] and "digest" not in listed[0]
    assert slipway("keys", "revoke", made["id"], home=home).returncode == 0
    assert slipway("keys", "revoke", "nothing", home=home).returncode == NotFound.exit_code
    assert slipway("keys", "make", home=home).returncode == BadInput.exit_code


def test_the_setting_is_yes_or_no(home: Path) -> None:
    assert settings({"home": home}, {"SLIPWAY_REQUIRE_KEY": "1"}).require_key
    assert not settings({"home": home}, {}).require_key
    with pytest.raises(BadInput, match="require_key"):
        settings({"home": home}, {"SLIPWAY_REQUIRE_KEY": "perhaps"})
