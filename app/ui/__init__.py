"""The page. Gradio carries decisions (one private event), HTML comes from pure renderers, the live stream the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.control import Control


def mount(app: FastAPI, control: Control) -> FastAPI:
    """Puts the page at "/" behind the routes that `app` already has."""
    from app.ui import shell  # late: Gradio takes a second to import, and only a panel needs it

    return shell.mount(app, control)
