"""The Monitor's drawers without a browser: keys, calls, servers by address, thresholds; what the page shows of them."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from typing import Any

import pytest

from app.alerts import Thresholds, alerts
from app.monitor import Monitor, ServerSample
from app.ui import watch
from app.ui.acts import all_acts, carry_out
from backends.spec import Piece
from backends.text import LANGUAGES
from backends.watched import WatchedServer
from tests.live.browser import panel_of
from tests.ui.conftest import StillControl

EVIL = "<img src=x onerror=alert(1)>"
DOWN = ServerSample(run="r-1", name="down", engine="vllm", model="m", ready=False)


def ask(control: StillControl, do: str, **told: Any) -> dict[str, Any]:
    return carry_out(all_acts(control), {"do": do, "language": "en", "serial": 1, **told})["reply"]


def drawer(control: StillControl, do: str, **told: Any) -> str:
    return ask(control, do, **told)["slots"]["side"]


def test_a_key_is_shown_once_and_works_until_it_is_revoked(control: StillControl) -> None:
    html = drawer(control, "key-make", **{"key.name": " my editor "})
    (token,) = re.findall(r"sk-slipway-[0-9a-f]{8}[\w-]{43}", html)
    assert control.knows_key(token)
    (key,) = control.keys()
    assert key.name == "my editor"
    again = drawer(control, "keys")
    assert token not in again
    assert f"sk-slipway-{key.id}…" in again
    gone = drawer(control, "key-revoke", run=key.id)
    assert not control.knows_key(token)
    assert 'data-do="key-revoke"' not in gone


@pytest.mark.parametrize("name", ["", "  ", "x" * 65, "a\u0000b"])
def test_a_key_without_a_name_that_can_be_shown_is_refused_at_its_field(control: StillControl, name: str) -> None:
    assert ask(control, "key-make", **{"key.name": name})["trouble"]["field"] == "key.name"
    assert control.keys() == ()


def test_a_key_s_name_is_text(control: StillControl) -> None:
    assert "<img" not in drawer(control, "key-make", **{"key.name": EVIL})


def test_the_code_of_a_call_works_as_it_stands(control: StillControl) -> None:
    run = control.served("talks")
    control.answers = [Piece(text="Well "), Piece(text="met."), Piece(finish="stop", completion_tokens=2)]
    with panel_of(control) as address:
        html = drawer(control, "api", run=run.id, origin=address, language="zh")
        curl, script = (unescape(code) for code in re.findall(r"<pre[^>]*>(.*?)</pre>", html, flags=re.DOTALL))
        said = subprocess.run(("sh", "-c", curl), capture_output=True, text=True, timeout=120, check=True).stdout
        assert '"content":"Well met."' in said.replace(": ", ":")
        ran = subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, timeout=120, check=True)
        assert ran.stdout == "Well met.\n"
    assert {chat.messages[0].content for chat in control.heard} == {"你好"}


def test_where_a_key_is_needed_the_code_shows_where_to_put_it(control: StillControl) -> None:
    run = control.served()
    assert "YOUR_KEY" not in drawer(control, "api", run=run.id)
    control.settings = control.settings.model_copy(update={"require_key": True})
    html = unescape(drawer(control, "api", run=run.id))
    assert "Authorization: Bearer YOUR_KEY" in html
    assert 'api_key="YOUR_KEY"' in html
    assert "credentials: YOUR_KEY" in drawer(control, "alerting")


@pytest.mark.parametrize("origin", ["", "javascript:alert(1)", "http://a b", 'http://x";evil', "http://x/y", None])
def test_an_address_that_is_none_is_not_put_into_code(control: StillControl, origin: object) -> None:
    assert "http://127.0.0.1:7860/v1" in drawer(control, "api", run=control.served().id, origin=origin)


def test_a_server_is_watched_by_address_and_let_go(control: StillControl) -> None:
    told = {"watch.name": "next door", "watch.host": "127.0.0.1", "watch.http_port": "9000", "watch.metrics_port": ""}
    assert ask(control, "watch-add", **told)["closed"]
    (one,) = control.watched()
    assert (one.server.name, one.endpoint.http_port, one.endpoint.metrics_port) == ("next door", 9000, 8002)
    assert "next door" in drawer(control, "watching")
    ask(control, "watch-remove", run=one.id)
    assert control.watched() == ()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"watch.name": ""}, "watch.name"),
        ({"watch.host": "169.254.169.254"}, "watch.host"),
        ({"watch.host": "http://127.0.0.1:8000"}, "watch.host"),
        ({"watch.http_port": "eighty"}, "watch.http_port"),
        ({"watch.grpc_port": "70000"}, "watch.grpc_port"),
    ],
)
def test_a_wrong_address_is_said_at_its_field(control: StillControl, change: dict[str, str], field: str) -> None:
    reply = ask(control, "watch-add", **({"watch.name": "x", "watch.host": "127.0.0.1"} | change))
    assert reply["trouble"]["field"] == field
    assert control.watched() == ()


def test_thresholds_are_seen_changed_and_left_out(control: StillControl) -> None:
    html = drawer(control, "alerting")
    assert re.search(r'name="alerts.queued"[^>]*value="32"', html)
    assert ask(control, "alerts-save", **{"alerts.queued": "5", "alerts.ram_percent": ""})["closed"]
    assert control.thresholds().queued == 5
    assert control.thresholds().ram_percent is None
    assert re.search(r'name="alerts.queued"[^>]*value="5"', drawer(control, "alerting"))


@pytest.mark.parametrize("value", ["many", "-1", "nan", "101"])
def test_a_wrong_threshold_is_said_at_its_field_and_nothing_is_kept(control: StillControl, value: str) -> None:
    reply = ask(control, "alerts-save", **{"alerts.failed_percent": value})
    assert reply["trouble"]["field"] == "alerts.failed_percent"
    assert control.thresholds() == Thresholds()


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_alert_is_shown_with_what_to_do(language) -> None:
    (alert,) = raised = alerts(Monitor(servers=(DOWN,)), Thresholds())
    slots = watch.slots(watch.Watched(Monitor(servers=(DOWN,)), (), (), raised), language)
    assert alert.text.of(language) in slots["alerts"]
    assert alert.hint.of(language) in slots["alerts"]
    assert slots["alert-count"] == {"en": "1 alert", "zh": "1 条告警"}[language]
    assert watch.slots(watch.Watched(Monitor(), ()), language)["alert-count"] == ""


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_watched_server_has_its_card_and_its_lines(control: StillControl, language) -> None:
    one = control.add_watched(WatchedServer(name=EVIL[:60]))
    points = ((1.0, 2.0), (2.0, 3.0))
    sample = ServerSample(run=one.id, name=one.server.name, engine="triton", model="", ready=True, requests=7.0,
                          history={"requests_per_s": points})  # fmt: skip
    watched = watch.Watched(Monitor(at=3.0, others=(sample,)), (), (one,))
    (card,) = watch.cards(watched, language)
    assert {name: unit for name, _, unit in card.figures}["TTFT p50"] == {"en": "not told", "zh": "不提供"}[language]
    html = watch.slots(watched, language)["servers"]
    assert "<img" not in html
    assert 'data-do="watch-remove"' in html
    plots = watch.message(watched, language, whole=True)["plots"]
    assert plots["requests"]["series"][0]["points"] == [(1.0, 2.0), (2.0, 3.0)]
    assert not plots["requests"]["series"][0]["untold"]
    assert plots["speed"]["series"][0]["untold"]
    assert not plots["compute"]["series"][0]["untold"]
    own = sample.model_copy(update={"tokens": 1.0})
    plots = watch.message(watch.Watched(Monitor(servers=(own,)), ()), language, whole=True)["plots"]
    assert plots["compute"]["series"][0]["untold"]
    assert not plots["speed"]["series"][0]["untold"]
