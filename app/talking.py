"""The use cases that talk to servers: a chat, its prompt, its code. A part of Control."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import httpx

from app.kept import Kept
from backends import client, recipes, snippets
from backends.errors import BadInput, CannotDo, Conflict, Refused
from backends.probes import model_configs
from backends.runs import Run, State
from backends.servers import Server, spoken
from backends.snippets import Snippet
from backends.spec import Chat, Endpoint, Piece
from backends.steps import Ask, fill_step
from backends.targets.base import Target
from backends.text import Text
from backends.watched import Watched
from storage.store import Store


class Talking(Kept):
    """Talks to what runs; starts and stops nothing."""

    def __init__(self, store: Store, targets: Mapping[str, Target]) -> None:
        super().__init__(store)
        self._targets = targets

    async def chat(self, run_id: str, chat: Chat) -> AsyncGenerator[Piece, None]:
        """Streams the answer of a running deployment or a watched server. Closing the iterator ends the generation.

        Raises as `server` does, BadInput and Refused for what the model refuses.
        """
        server = await asyncio.to_thread(self.server, run_id)
        async with aclosing(talk(server.engine, server.endpoint, chat, server.told)) as pieces:
            async for piece in pieces:
                yield piece

    def server(self, server_id: str) -> Server:
        """A server to talk to: a deployment that serves, or one that is watched by address and whose model is known.

        Raises NotFound, Conflict where a deployment does not serve, Unreachable, CannotDo for a model of other tensors.
        """
        watched = next((one for one in self._store.watched() if one.id == server_id), None)
        if watched is not None:
            return _of_others(watched)
        run = self._store.run(server_id)
        if run.state is not State.SERVING or run.endpoint is None:
            raise Conflict(
                Text(en=f"{run.name} is not running ({run.state}).", zh=f"{run.name} 未在运行。"),
                Text(en="Deploy it again, or choose a running server.", zh="请重新部署，或选择正在运行的服务。"),
                "run",
            )
        return Server(id=run.id, name=run.name, engine=run.spec.engine, model=run.spec.model.id,
                      endpoint=run.endpoint, told=self._told(run))  # fmt: skip

    def prompt(self, server: Server, chat: Chat) -> str:
        """The text that the model is given to continue. Raises BadInput for what its template refuses."""
        return recipes.TENSORS[server.engine].prompt(chat, server.told)

    def code(self, server: Server, chat: Chat, panel: str, keyed: bool) -> tuple[Snippet, ...]:
        """The same request in programs of a person's own; `panel` is the address at which this panel answers."""
        session = recipes.TENSORS[server.engine].session(chat, server.told)
        return snippets.snippets(server, chat, session, panel, keyed)

    def _told(self, run: Run) -> dict[str, str]:
        """What the engine's tensors must know of a run: as its first question was told, places filled."""
        asked = next((step for step in run.plan.steps if isinstance(step, Ask)), None)
        if asked is None or run.endpoint is None:
            return {}
        return fill_step(asked, self._targets[run.spec.target].places(run.id, run.endpoint, run.spec.bind)).talk


def _of_others(watched: Watched) -> Server:
    with httpx.Client(trust_env=False) as http:
        endpoint, config = model_configs.chosen(http, watched.endpoint)
    found = spoken(config)
    if isinstance(found, Text):
        raise CannotDo(
            Text(en=f"{watched.server.name} cannot be chatted with.", zh=f"无法与 {watched.server.name} 对话。"),
            (found,),
        )
    return Server(id=watched.id, name=watched.server.name, engine=found.engine, model=endpoint.model,
                  endpoint=endpoint, told=found.told, ours=False)  # fmt: skip


async def talk(
    engine: str, endpoint: Endpoint, chat: Chat, told: Mapping[str, str] | None = None
) -> AsyncGenerator[Piece, None]:
    """A chat through the engine's tensors and the client. `told` is what the plan says of the deployment, filled in.

    An answer that is over before the server is (a stop text, an end that the server does not mark) ends the stream.
    """
    tensors = {str(name): one for name, one in recipes.TENSORS.items()}.get(engine)
    if tensors is None:
        raise BadInput("engine", Text(en=f"There is no engine “{engine}”.", zh=f"没有引擎“{engine}”。"))
    told = told or {}
    session = await asyncio.to_thread(tensors.session, chat, told)  # a tokenizer may have to be loaded first
    stream = client.stream(endpoint, session.inputs, session.outputs, session.final_flag)
    try:
        async with aclosing(stream) as responses:
            async for outputs in responses:
                piece = session.decode(outputs)
                if piece is not None:
                    yield piece
                    if piece.finish is not None and session.cuts:
                        return
        last = session.finish()
        if last is not None:
            yield last
        return
    except Refused as refusal:
        corrected = recipes.CORRECTED[engine](told, refusal.words) if engine in recipes.CORRECTED else None
        if corrected is None:
            raise tensors.refused(refusal.words) from None
    async with aclosing(talk(engine, endpoint, chat, corrected)) as pieces:
        async for piece in pieces:
            yield piece
