"""The page in Gradio: its blocks, the one event, the mount. Gradio is imported through fast_gradio.py."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from fastapi import FastAPI

from app.answering import trouble
from app.control import Control
from app.settings import ASSETS
from app.ui import views, watch
from app.ui.fast_gradio import gr
from app.ui.history import History
from app.ui.side import Side
from app.ui.wizard import Wizard
from app.ui.words import TABS
from backends.errors import SlipwayError
from backends.text import LANGUAGES, Language, Text

log = logging.getLogger(__name__)

Act = Callable[[Mapping[str, Any], Language], dict[str, Any]]
ASSET_URL = "/slipway/ui"
STYLES = ("tokens.css", "parts.css", "chat.css", "gradio.css")
PARTS = ("header", "stepper", "detect", "model", "engine", "review", "rail", "launch", "chat", "monitor", "history")
BUS = "slipway.bus(trigger)"
# Gradio looks into its queue each millisecond, 4 % of a core for nothing, and ten times less often for the progress of
# what runs, which nothing of ours tells there.
SLEEPS_S = {"sleep_when_free": 0.02, "progress_update_sleep_when_free": 1.0}


def build(control: Control) -> gr.Blocks:
    """The page over `control`. Every part is HTML; what a person decides comes back by one private event."""
    acts = all_acts(control)
    html: dict[str, gr.HTML] = {}

    def part(name: str, value: str = "") -> None:
        html[name] = gr.HTML(value, elem_id=f"sw-{name}", js_on_load=None, apply_default_css=False)

    def tab(name: str) -> gr.Tab:
        return gr.Tab(gr.I18n()(f"tab_{name}"), id=name, elem_id=f"tab-{name}")

    page: gr.Blocks
    with gr.Blocks(title="Slipway", analytics_enabled=False, fill_width=True) as page:
        bus = gr.HTML("", elem_id="sw-bus", apply_default_css=False, js_on_load=BUS)
        reply = gr.HTML(
            "",
            html_template="<i></i>",
            elem_id="sw-reply",
            apply_default_css=False,
            js_on_load="watch('value', () => slipway.reply(props.value))",
        )
        part("header", BRAND)
        with gr.Tabs(elem_id="nav", selected="wizard"):
            with tab("wizard"):
                part("stepper")
                with gr.Row(elem_classes=["sw-cols"], elem_id="sw-stages"):
                    with gr.Column(elem_classes=["sw-main"]):
                        part("detect")
                        part("model")
                        part("engine")
                        part("review")
                    part("rail")
                part("launch")
            with tab("chat"):
                part("chat")
            with tab("monitor"):
                part("monitor")
            with tab("history"):
                part("history")

        def act(event: gr.EventData) -> dict[Any, Any]:
            told = event._data if isinstance(event._data, Mapping) else {}
            answer = carry_out(acts, told)
            said = answer.pop("reply")
            return {**{html[name]: value for name, value in answer.items()}, reply: json.dumps(said)}

        bus.click(
            act,
            outputs=[*html.values(), reply],
            api_visibility="private",
            concurrency_limit=None,
            trigger_mode="multiple",
            show_progress="hidden",
        )
    return page


def all_acts(control: Control) -> dict[str, Act]:
    """What the page can ask for, by name."""
    wizard = Wizard(control)
    history = History(control, wizard.filled)

    def boot(told: Mapping[str, Any], language: Language) -> dict[str, Any]:
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


def carry_out(acts: Mapping[str, Act], told: Mapping[str, Any]) -> dict[str, Any]:
    """One request of the page: parts by name, and always a reply. What goes wrong is said, never traced."""
    language: Language = "zh" if told.get("language") == "zh" else "en"
    serial = told.get("serial")
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
    answer["reply"] = {"do": name, **answer.get("reply", {}), "serial": serial, "mark": secrets.token_hex(4)}
    return answer


def mount(app: FastAPI, control: Control) -> FastAPI:
    """Puts the page at "/"."""
    page = build(control)
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page,
        path="/",
        show_error=False,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        i18n=gr.I18n(**translations()),
        theme=gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        head=head(),
        favicon_path=str(ASSETS / "ui" / "favicon.svg"),
        blocked_paths=[str(control.settings.home)],
        max_file_size=1,
        enable_monitoring=False,
    )
    queue: Any = getattr(page, "_queue", None)
    for name, seconds in SLEEPS_S.items():
        if hasattr(queue, name):
            setattr(queue, name, seconds)
    return mounted


def translations() -> dict[str, dict[str, str]]:
    """The tabs' labels for Gradio's own translation, by locale."""
    return {
        locale: {f"tab_{name}": text.of(language) for name, text in TABS.items()}
        for language, locale in zip(LANGUAGES, ("en", "zh-CN"), strict=True)
    }


def head() -> str:
    """Styles and scripts of the page, all from this host. A digest in each address makes an update seen."""
    mark = version()
    links = "".join(f'<link rel="stylesheet" href="{ASSET_URL}/{name}?{mark}">' for name in STYLES)
    return (
        f'<link rel="icon" href="{ASSET_URL}/favicon.svg" type="image/svg+xml">{links}'
        f'<script type="module" src="{ASSET_URL}/js/main.js?{mark}"></script>'
    )


def version() -> str:
    """A digest of all files of the page."""
    digest = sha256()
    for path in sorted((ASSETS / "ui").rglob("*.[cj]s*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


BRAND = (
    f'<div class="sw-bar"><a class="sw-brand" href="/"><img src="{ASSET_URL}/logo.svg" alt="" width="28" height="28">'
    "Slipway</a></div>"
)
