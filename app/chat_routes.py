"""The routes of the Chat page: /slipway/chat (a question and its streamed answer), /slipway/conversations (the list,
one of them, its export), /slipway/servers/{id} (whether it can be talked to), /slipway/code (a request as programs)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.answering import lines
from app.api import Stream
from app.asked import json_body, language_of
from app.control import Control
from app.talks import Question
from app.ui.words import ENGINES
from backends.conversations import Conversation, ConversationSummary, Said
from backends.errors import BadInput, SlipwayError
from backends.reading import read
from backends.recipes import TENSORS
from backends.servers import Server
from backends.spec import Chat, Frozen
from backends.text import Language, Text

PAGE = 30
KINDS = {"markdown": ("md", "text/markdown"), "json": ("json", "application/json")}


class Change(Frozen):
    """What is changed of a conversation: its name, or the branch that is shown."""

    name: str | None = None
    branch: int | None = None


class Shown(Frozen):
    """A request to be shown as code."""

    server: str
    chat: Chat


def routes(control: Control) -> APIRouter:
    """The router."""
    router = APIRouter(prefix="/slipway")

    @router.post("/chat")
    async def _chat(request: Request) -> Response:
        asked = read(Question, await json_body(request))
        server = await asyncio.to_thread(control.server, asked.server)
        begun = await asyncio.to_thread(control.begin_answer, server, asked)
        answer = lines(control, begun, server.id, language_of(request))
        return Stream(answer, media_type="application/x-ndjson", headers={"cache-control": "no-store"})

    @router.get("/conversations")
    async def _list(query: str = "", at: datetime | None = None, id: str = "") -> dict[str, Any]:  # noqa: A002
        before = None if at is None else (at, id)
        rows = await asyncio.to_thread(control.conversations, query, PAGE + 1, before)
        total = await asyncio.to_thread(control.count_conversations, query)
        names = {one.id: one.server.name for one in await asyncio.to_thread(control.watched)}
        return {"rows": [_row(row, names) for row in rows[:PAGE]], "total": total, "more": len(rows) > PAGE}

    @router.get("/conversations/{conversation_id}")
    async def _one(conversation_id: str) -> dict[str, Any]:
        return shown(await asyncio.to_thread(control.conversation, conversation_id))

    @router.patch("/conversations/{conversation_id}")
    async def _change(conversation_id: str, request: Request) -> dict[str, Any]:
        change = read(Change, await json_body(request))
        if change.name is not None:
            await asyncio.to_thread(control.rename_conversation, conversation_id, change.name)
        if change.branch is not None:
            await asyncio.to_thread(control.show_branch, conversation_id, change.branch)
        return shown(await asyncio.to_thread(control.conversation, conversation_id))

    @router.delete("/conversations/{conversation_id}")
    async def _delete(conversation_id: str) -> dict[str, Any]:
        await asyncio.to_thread(control.delete_conversation, conversation_id)
        return {"deleted": conversation_id}

    @router.get("/conversations/{conversation_id}/export")
    async def _export(conversation_id: str, request: Request) -> Response:
        kind = request.query_params.get("as", "markdown")
        if kind not in KINDS:
            raise BadInput("as", Text(en="as: markdown or json.", zh="as：只能是 markdown 或 json。"))
        ending, media = KINDS[kind]
        told: Literal["json", "markdown"] = "json" if kind == "json" else "markdown"
        text = await asyncio.to_thread(control.export_conversation, conversation_id, told, language_of(request))
        name = quote(f"{await asyncio.to_thread(_file_name, control, conversation_id)}.{ending}")
        headers = {"content-disposition": f"attachment; filename*=UTF-8''{name}"}
        return Response(text, media_type=f"{media}; charset=utf-8", headers=headers)

    @router.get("/servers/{server_id}")
    async def _server(server_id: str, request: Request) -> dict[str, Any]:
        server = await asyncio.to_thread(control.server, server_id)
        why = TENSORS[server.engine].no_bad_words(server.told)
        return {"id": server.id, "name": server.name, "engine": server.engine, "model": server.endpoint.model,
                "no_bad_words": why and why.of(language_of(request))}  # fmt: skip

    @router.post("/code")
    async def _code(request: Request) -> dict[str, Any]:
        asked = read(Shown, await json_body(request))
        server = await asyncio.to_thread(control.server, asked.server)
        settings = control.settings
        keyed = settings.require_key or not settings.loopback
        panel = str(request.base_url).rstrip("/")
        found = await asyncio.to_thread(control.code, server, asked.chat, panel, keyed)
        language = language_of(request)
        programs = [
            {"kind": one.kind, "text": one.text, "needs": one.needs and one.needs.of(language)} for one in found
        ]
        return {"programs": programs, **await asyncio.to_thread(_prompt, control, server, asked.chat, language)}

    return router


def shown(conversation: Conversation) -> dict[str, Any]:
    """A conversation as the page takes it: the branch that is shown, and what stands beside each message."""
    told = conversation.model_dump(mode="json", exclude={"messages", "sampling"})
    sampling = conversation.sampling.model_dump(mode="json", exclude_none=True)
    thread = [_said(one, conversation) for one in conversation.thread()]
    return {**told, "sampling": sampling, "thread": thread}


def _said(one: Said, conversation: Conversation) -> dict[str, Any]:
    return {**one.model_dump(mode="json"), "beside": conversation.beside(one.id)}


def _row(row: ConversationSummary, names: Mapping[str, str]) -> dict[str, Any]:
    """A row of the list; `names` are those of watched servers, a deployment's stands in its id."""
    run = row.run or ""
    server = names.get(run) or run.rpartition("-")[0]
    engine = ENGINES[row.engine].en if row.engine in ENGINES else row.engine
    return {**row.model_dump(mode="json"), "about": " · ".join(filter(None, [server, engine]))}


def _file_name(control: Control, conversation_id: str) -> str:
    name = control.conversation(conversation_id).name
    safe = "".join(letter if letter.isalnum() or letter in " -_" else " " for letter in name)
    return "-".join(safe.split())[:60] or "conversation"


def _prompt(control: Control, server: Server, chat: Chat, language: Language) -> dict[str, Any]:
    """The text that the model is given, or why it cannot be shown."""
    try:
        return {"prompt": control.prompt(server, chat), "no_prompt": None}
    except SlipwayError as error:
        return {"prompt": None, "no_prompt": error.of(language)}
