"""What the page asks for: its acts by name, each request carried out once, and what goes wrong said in words."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from app.answering import trouble
from app.control import Control
from app.ui import views, watch
from app.ui.history import History
from app.ui.side import Side
from app.ui.wizard import Wizard
from backends.errors import SlipwayError
from backends.text import Language, Text

log = logging.getLogger(__name__)

Told = Mapping[str, Any]
Act = Callable[[Told, Language], dict[str, Any]]
KEPT_S = 120.0  # a page asks again for a minute: assets/ui/js/boot.js
MOST_KEPT = 256
AT_ONCE = 32  # some wait for a hub or for Docker
LONGEST_KEY = 64


class Answering(NamedTuple):
    """A request that is carried out or was, and when it came, in seconds of the monotonic clock."""

    task: asyncio.Future[dict[str, Any]]
    came: float


class Acts:
    """Carries out what pages ask for. A request whose answer was lost on its way is sent again under the same key, and
    gets the answer of the first: nothing is launched or deleted twice."""

    def __init__(self, control: Control) -> None:
        self._acts = all_acts(control)
        self._asked: dict[str, Answering] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE, "act")

    async def answer(self, told: Told) -> dict[str, Any]:
        """The answer to a request, as `carry_out` gives it."""
        key = str(told.get("key") or secrets.token_hex(8))[:LONGEST_KEY]
        if key not in self._asked:
            self._forget()
            task = asyncio.get_running_loop().run_in_executor(self._threads, carry_out, self._acts, told)
            self._asked[key] = Answering(task, time.monotonic())
        return await asyncio.shield(self._asked[key].task)  # a page that leaves ends nothing

    def _forget(self) -> None:
        """Lets go of answers that no page can still ask for."""
        oldest = time.monotonic() - KEPT_S
        over = [key for key, one in self._asked.items() if one.task.done()]
        for number, key in enumerate(over):
            if self._asked[key].came < oldest or number < len(over) - MOST_KEPT:
                del self._asked[key]


def all_acts(control: Control) -> dict[str, Act]:
    """What the page can ask for, by name."""
    wizard = Wizard(control)
    history = History(control, wizard.filled)

    def boot(told: Told, language: Language) -> dict[str, Any]:
        serving = control.serving()
        first = wizard.boot(told, language)
        launching = sum(run.id not in {one.id for one in serving} for run in control.open_runs())
        return {
            "header": views.header(control.detect(), len(serving), launching, language),
            "stepper": views.stepper(language),
            "chat": watch.chat(serving, control.watched(), language),
            "monitor": watch.monitor(watch.look(control), language),
            "history": history.whole(language),
            **first,
        }

    return {"boot": boot, **wizard.acts(), **history.acts(), **Side(control).acts()}


def carry_out(acts: Mapping[str, Act], told: Told) -> dict[str, Any]:
    """One request of the page: parts by name, and always a reply. What goes wrong is said, never traced."""
    language: Language = "zh" if told.get("language") == "zh" else "en"
    name = str(told.get("do"))
    answer: dict[str, Any]
    try:
        answer = dict(acts[name](told, language)) if name in acts else {}
    except SlipwayError as error:
        answer = {"reply": {"trouble": trouble(error, language)}}
    except Exception:
        code = secrets.token_hex(4)
        log.exception("the page asked for %r and it failed (%s)", name, code)
        title = Text(en="Something in the panel failed.", zh="面板内部出错。").of(language)
        hint = Text(
            en=f"Nothing was lost. The panel's terminal tells more under the mark {code}.",
            zh=f"没有数据丢失，面板终端中标记 {code} 处有详细信息。",
        ).of(language)
        answer = {"reply": {"trouble": {"title": title, "hint": hint, "reasons": [], "field": None}}}
    return {**answer, "reply": {"do": name, **answer.get("reply", {}), "serial": told.get("serial")}}
