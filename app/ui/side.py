"""The Monitor's drawers: keys of the API, how a server is called, servers by address, thresholds of alerts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from app.alerts import Thresholds
from app.control import Control
from app.ui import calls
from app.ui.render import page
from backends.errors import BadInput
from backends.keys import NewKey
from backends.reading import read
from backends.text import Language, Text
from backends.watched import WatchedServer

Act = Callable[[Mapping[str, Any], Language], dict[str, Any]]
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-:\[\]]{1,260}")
THRESHOLDS: tuple[tuple[str, Text, str], ...] = (
    ("failed_percent", Text(en="Failed requests", zh="失败请求"), "%"),
    ("queued", Text(en="Requests that wait", zh="排队请求数"), ""),
    ("first_token_ms", Text(en="First token of 95 in 100, ms", zh="首 token p95（ms）"), ""),
    ("queue_ms", Text(en="Half wait longer than, ms", zh="排队 p50（ms）"), ""),
    ("ram_percent", Text(en="Memory in use", zh="内存使用"), "%"),
    ("gpu_memory_percent", Text(en="GPU memory in use", zh="显存使用"), "%"),
    ("gpu_temperature_c", Text(en="GPU temperature", zh="GPU 温度"), "°C"),
)


class Side:
    """What the drawers show and do, over one control."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def acts(self) -> dict[str, Act]:
        """What the page can ask for, by name."""
        return {
            "keys": self.keys,
            "key-make": self.make_key,
            "key-revoke": self.revoke_key,
            "api": self.api,
            "watching": self.watching,
            "watch-add": self.watch,
            "watch-remove": self.unwatch,
            "alerting": self.alerting,
            "alerts-save": self.set_alerts,
        }

    # --- keys and calls -------------------------------------------------------------------------------------------

    def keys(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """Every key, and the field for a new one."""
        return _drawer(self._keys(told, language))

    def make_key(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """A new key; its token is in this one answer and nowhere else."""
        with _field_of("key"):
            made = self._control.make_key(str(told.get("key.name") or "").strip())
        return _drawer(self._keys(told, language, made), "#new-key")

    def revoke_key(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """Ends a key at once."""
        key = self._control.revoke_key(str(told.get("run")))
        words = Text(en=f"“{key.name}” is revoked", zh=f"“{key.name}”已吊销").of(language)
        answer = _drawer(self._keys(told, language))
        answer["reply"]["toast"] = words
        return answer

    def api(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """How programs call a server: address, name of the model, and code that works as it stands."""
        run = self._control.run(str(told.get("run")))
        base, needs_key = self._base(told), self._needs_key()
        call = (base, run.name, Text(en="Hello", zh="你好").of(language), needs_key)
        facts = {"run": run, "base": base, "needs_key": needs_key}
        return _drawer(page("side_api", language, curl=calls.curl(*call), python=calls.python(*call), **facts))

    def _keys(self, told: Mapping[str, Any], language: Language, made: NewKey | None = None) -> str:
        keys = self._control.keys()
        facts = {"made": made, "keys": keys, "base": self._base(told), "needs_key": self._needs_key()}
        return page("side_keys", language, **facts)

    def _base(self, told: Mapping[str, Any]) -> str:
        """The API's address as the visitor's browser reaches the panel."""
        settings = self._control.settings
        origin = str(told.get("origin") or "")
        return (origin if _ORIGIN.fullmatch(origin) else f"http://{settings.host}:{settings.port}") + "/v1"

    def _needs_key(self) -> bool:
        return self._control.settings.require_key or not self._control.settings.loopback

    # --- servers by address ---------------------------------------------------------------------------------------

    def watching(self, _told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """The form for a server that Slipway did not start."""
        hosts = self._control.settings.watch_hosts
        return _drawer(page("side_watch", language, watched=self._control.watched(), hosts=hosts))

    def watch(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """Watches it."""
        given = {name.removeprefix("watch."): str(value).strip() for name, value in told.items() if "watch." in name}
        with _field_of("watch"):
            server = read(WatchedServer, {name: value for name, value in given.items() if value})
            self._control.add_watched(server)
        words = Text(en=f"{server.name} is watched", zh=f"正在监控 {server.name}").of(language)
        return {"reply": {"slots": {"side": ""}, "toast": words, "closed": True}}

    def unwatch(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """Watches it no longer."""
        self._control.remove_watched(str(told.get("run")))
        return {"reply": {"toast": Text(en="No longer watched", zh="已停止监控").of(language)}}

    # --- alerts ---------------------------------------------------------------------------------------------------

    def alerting(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """The thresholds as they are, and where scrapers find the figures."""
        now, usual = self._control.thresholds(), Thresholds()
        fields = [
            (name, words.of(language), unit, _plain(getattr(now, name)), _plain(getattr(usual, name)))
            for name, words, unit in THRESHOLDS
        ]
        base = self._base(told).removesuffix("/v1")
        scrape = calls.scrape(base, self._needs_key())
        return _drawer(page("side_alerts", language, fields=fields, base=base, scrape=scrape))

    def set_alerts(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """Keeps other thresholds; an empty field means never."""
        given = {name: str(told.get(f"alerts.{name}") or "").strip() or None for name, _, _ in THRESHOLDS}
        with _field_of("alerts"):
            self._control.set_thresholds(read(Thresholds, given))
        words = Text(en="Thresholds saved", zh="阈值已保存").of(language)
        return {"reply": {"slots": {"side": ""}, "toast": words, "closed": True}}


def _drawer(html: str, focus: str = ".drawer h2") -> dict[str, Any]:
    return {"reply": {"slots": {"side": html}, "focus": focus}}


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


@contextmanager
def _field_of(form: str) -> Iterator[None]:
    """Names the field of the page's form in what is wrong."""
    try:
        yield
    except BadInput as bad:
        raise BadInput(f"{form}.{bad.field}", bad.message, bad.hint) from None
