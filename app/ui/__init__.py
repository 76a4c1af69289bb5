"""The page: Gradio's blocks, HTML from pure renderers, acts for what a person does, the live stream for the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from app.control import Control


def mount(app: FastAPI, control: Control) -> FastAPI:
    """Puts the page at "/" behind the routes that `app` already has."""
    from app.ui import shell  # late: Gradio takes a second to import, and only a panel needs it

    return shell.mount(app, control)
