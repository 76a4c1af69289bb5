"""One request as programs of a person's own: curl, Python with tritonclient, the official OpenAI client. Pure.

The tensors are those that Slipway itself would send (`Session.inputs`), so what is shown is what is done.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from backends.servers import Server
from backends.sessions import Session
from backends.spec import Chat, Frozen, Tensor
from backends.text import Text

Kind = Literal["curl", "python", "openai"]
_SAMPLED = ("max_tokens", "temperature", "top_p", "seed")
_OURS = ("top_k", "repetition_penalty", "bad_words")  # not OpenAI's: its client sends them as extra_body


class Snippet(Frozen):
    """One program, and what it needs beside itself."""

    kind: Kind
    text: str
    needs: Text | None = None


def snippets(server: Server, chat: Chat, session: Session, panel: str, keyed: bool = False) -> tuple[Snippet, ...]:
    """The request in each language that fits the server. `panel` is the panel's address; `keyed`: its API wants a key.

    Servers whose answers are token ids, or that cannot stream over HTTP, have their curl through the panel's API.
    """
    found = [Snippet(kind="curl", text=_curl(server, chat, session, panel, keyed))]
    needs = 'pip install "tritonclient[grpc]"' + (" transformers" if _ids(session) else "")
    found.append(Snippet(kind="python", text=_python(server, chat, session), needs=_install(needs)))
    if server.ours:
        found.append(
            Snippet(kind="openai", text=_openai(server, chat, panel, keyed), needs=_install("pip install openai"))
        )
    return tuple(found)


# --- curl ---------------------------------------------------------------------------------------------------------


def _curl(server: Server, chat: Chat, session: Session, panel: str, keyed: bool) -> str:
    if _over_http(server, session):
        url = f"{server.endpoint.http}/v2/models/{quote(server.endpoint.model, safe='')}/{_generate(server)}"
        body: Mapping[str, Any] = {one.name: _plain(one) for one in session.inputs}
        return f"curl -N {shlex.quote(url)} \\\n  -d {shlex.quote(_json(body))}\n"
    key = ' \\\n  -H "authorization: Bearer $SLIPWAY_KEY"' if keyed else ""
    body = {"model": server.name, "messages": _turns(chat), **_sampling(chat, (*_SAMPLED, *_OURS)), "stream": True}
    return (
        f"curl -N {shlex.quote(f'{panel}/v1/chat/completions')} \\\n  -H 'content-type: application/json'{key} \\\n"
        f"  -d {shlex.quote(_json(body))}\n"
    )


def _over_http(server: Server, session: Session) -> bool:
    """Triton's generate extension is there since 23.10, and answers in text."""
    return server.engine != "fastertransformer" and not _ids(session)


def _generate(server: Server) -> str:
    return "generate" if server.told.get("streams") == "false" else "generate_stream"


def _plain(tensor: Tensor) -> Any:
    """A tensor as the generate extension takes it: one value bare, several as a list."""
    return _said(tensor.values[0]) if len(tensor.values) == 1 else [_said(value) for value in tensor.values]


# --- Python -------------------------------------------------------------------------------------------------------

_HEAD = """import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import triton_to_np_dtype
"""
_TENSOR = """

def tensor(name, datatype, shape, values):
    made = triton.InferInput(name, shape, datatype)
    made.set_data_from_numpy(np.array(values, triton_to_np_dtype(datatype)).reshape(shape))
    return made
"""


def _python(server: Server, chat: Chat, session: Session) -> str:
    ids = _ids(session)
    messages = next((one for one in session.inputs if one.name == "messages"), None)
    lines = ["import json\n\n" if messages else "", _HEAD]
    if ids:
        folder = server.told.get("tokenizer", "")
        lines.append(
            f"from transformers import AutoTokenizer\n\ntokenizer = AutoTokenizer.from_pretrained({folder!r})\n"
        )
    if messages is not None:
        turns = "".join(f"    {turn!r},\n" for turn in _turns(chat))
        lines.append(f"\nmessages = [\n{turns}]\n")
    lines += [_TENSOR, _reader(server, session)]
    given = "".join(
        f"    tensor({one.name!r}, {one.datatype!r}, {list(one.shape)}, {_values(one, one is messages)}),\n"
        for one in session.inputs
    )
    lines.append(
        f"\n\nclient = triton.InferenceServerClient({server.endpoint.grpc!r})\nclient.start_stream(show)\n"
        f"client.async_stream_infer({server.endpoint.model!r}, [\n{given}])\n"
        "client.stop_stream()  # waits for the whole answer\nprint()\n"
    )
    return "".join(lines)


def _reader(server: Server, session: Session) -> str:
    """The function that shows each response, as this server's responses are made."""
    begin = "\n\ndef show(result, error):\n"
    failed = "    if error:\n        print(error)\n        return\n"
    if _ids(session):
        return _ids_reader(server, session, begin, failed)
    name = "OUTPUT_0" if "OUTPUT_0" in session.outputs else "text_output"
    read = f"    text = result.as_numpy({name!r})\n    if text is None or not text.size:\n        return\n"
    word = '    text = text.flat[0].decode("utf-8", "replace")\n'
    interface = server.told.get("interface", "")
    if interface.startswith("bls") or interface == "llmapi":  # all text so far, or what is new, by version
        return (
            f'\n\nsaid = ""\n{begin}    global said\n{failed}{read}{word}'
            "    new = text[len(said):] if text.startswith(said) else text\n    said += new\n"
            '    print(new, end="", flush=True)\n'
        )
    return f'{begin}{failed}{read}{word}    print(text, end="", flush=True)\n'


def _ids_reader(server: Server, session: Session, begin: str, failed: str) -> str:
    prompt = next((len(one.values) for one in session.inputs if one.name == "input_ids"), 0)
    decode = '    print("\\r" + tokenizer.decode(said, skip_special_tokens=True), end="", flush=True)\n'
    if "sequence_length" in session.outputs:  # all ids so far, the prompt's first where the model is a decoder
        skip = prompt if server.told.get("family") == "llama" else 0
        return (
            f'{begin}{failed}    count = int(result.as_numpy("sequence_length").flat[0])\n'
            f'    said = result.as_numpy("output_ids").ravel()[{skip}:count]\n{decode}'
        )
    skip = prompt if server.told.get("streams") != "true" else 0
    return (
        f"\n\nsaid = []\n{begin}{failed}"
        f'    said.extend(result.as_numpy("output_ids").ravel()[{skip}:].tolist())\n{decode}'
    )


def _values(tensor: Tensor, are_messages: bool) -> str:
    return "[json.dumps(messages)]" if are_messages else repr([_said(value) for value in tensor.values])


# --- the OpenAI client --------------------------------------------------------------------------------------------


def _openai(server: Server, chat: Chat, panel: str, keyed: bool) -> str:
    turns = "".join(f"        {turn!r},\n" for turn in _turns(chat))
    drawn = "".join(f"    {name}={value!r},\n" for name, value in _sampling(chat, _SAMPLED).items())
    ours = {name: value for name, value in _sampling(chat, _OURS).items() if name in _OURS}
    drawn += f"    extra_body={ours!r},\n" if ours else ""
    key = 'os.environ["SLIPWAY_KEY"]' if keyed else '"none"'
    return (
        f"{'import os' + chr(10) * 2 if keyed else ''}from openai import OpenAI\n\n"
        f"client = OpenAI(base_url={panel + '/v1'!r}, api_key={key})\n"
        f"stream = client.chat.completions.create(\n    model={server.name!r},\n    messages=[\n{turns}    ],\n{drawn}"
        "    stream=True,\n)\nfor part in stream:\n    if part.choices:\n"
        '        print(part.choices[0].delta.content or "", end="", flush=True)\nprint()\n'
    )


# --- shared -------------------------------------------------------------------------------------------------------


def _turns(chat: Chat) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.content} for turn in chat.messages]


def _sampling(chat: Chat, names: Sequence[str]) -> dict[str, Any]:
    given = chat.sampling.model_dump(mode="json", include=set(names))  # tuples become lists
    told = {name: given[name] for name in names}
    if chat.sampling.stop and "seed" in names:
        told["stop"] = list(chat.sampling.stop)
    return {name: value for name, value in told.items() if value not in (None, [])}


def _ids(session: Session) -> bool:
    return "output_ids" in session.outputs


def _said(value: str | bytes | int | float | bool) -> str | int | float | bool:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _json(body: Mapping[str, Any]) -> str:
    return json.dumps(body, ensure_ascii=False, indent=2)


def _install(command: str) -> Text:
    return Text(en=f"Install with {command}", zh=f"安装：{command}")
