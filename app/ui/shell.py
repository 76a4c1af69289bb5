"""The page in Gradio: its blocks and the mount. Gradio is imported through fast_gradio.py."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI

from app.control import Control
from app.settings import ASSETS
from app.ui.fast_gradio import gr
from app.ui.opening import version
from app.ui.words import TABS
from backends.text import LANGUAGES

ASSET_URL = "/slipway/ui"
STYLES = ("tokens.css", "parts.css", "chat.css", "gradio.css")
# Gradio looks into its queue each millisecond, 4 % of a core for nothing, and ten times less often for the progress of
# what runs, which nothing of ours tells there.
SLEEPS_S = {"sleep_when_free": 0.02, "progress_update_sleep_when_free": 1.0}


def build() -> gr.Blocks:
    """The page. Every part is HTML that the page's own script fills (assets/ui/js/boot.js).

    What a person decides goes to a route of ours (acts.py) and not through Gradio's events: its client loses the answer
    of an event that comes while the one before it ends, and all of them once a request was lost on its way.
    """

    def part(name: str, value: str = "") -> None:
        hand_over = f"slipway.part({json.dumps(name)}, props, watch)"
        gr.HTML(value, elem_id=f"sw-{name}", js_on_load=hand_over, apply_default_css=False)

    def tab(name: str) -> gr.Tab:
        return gr.Tab(gr.I18n()(f"tab_{name}"), id=name, elem_id=f"tab-{name}")

    page: gr.Blocks
    with gr.Blocks(title="Slipway", analytics_enabled=False, fill_width=True) as page:
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
    return page


def mount(app: FastAPI, control: Control) -> FastAPI:
    """Puts the page at "/"."""
    page = build()
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


BRAND = (
    f'<div class="sw-bar"><a class="sw-brand" href="/"><img src="{ASSET_URL}/logo.svg" alt="" width="28" height="28">'
    "Slipway</a></div>"
)
