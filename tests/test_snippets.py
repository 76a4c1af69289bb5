"""A request as curl, Python and the OpenAI client: the tensors that Slipway sends, and the answer that it shows."""

from __future__ import annotations

import json
import shlex
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends import recipes
from backends.servers import Server
from backends.snippets import snippets
from backends.spec import Chat, Endpoint, Message, Sampling, Tensor
from tests.test_fastertransformer_tensors import make_tokenizer

ENDPOINT = Endpoint(http_port=8000, grpc_port=8001, metrics_port=8002, model="chat")
QUESTION = 'What\'s "up"? 你好 $HOME `id` \\n\n'
CHAT = Chat(
    messages=(Message(role="user", content=QUESTION),),
    sampling=Sampling(temperature=0.7, top_p=0.9, top_k=40, repetition_penalty=1.1, seed=7, max_tokens=9),
)
TEXT = {"template": "raw", "new_tokens": "64", "context": "256", "end_id": "2", "pad_id": "0", "streams": "true"}
IDS = {"template": "raw", "seed": "UINT64", "final_flag": "false", "context": "64", "new_tokens": "32", "end_id": "2",
       "start_id": "1"}  # fmt: skip
# engine, what its tensors are told, responses as (name, values) of each, what a person reads at the end
CASES: dict[str, tuple[str, dict[str, str], list[dict[str, Any]], str]] = {
    "transformers": ("transformers", {}, [{"text_output": b"Hel"}, {"text_output": "lo 你".encode()}, {}], "Hello 你"),
    "vllm": ("vllm", TEXT | {"tells": "true"}, [{"text_output": b"Hel"}, {"text_output": b"lo"}], "Hello"),
    "trt-ensemble": (
        "tensorrt_llm", TEXT | {"interface": "ensemble"}, [{"text_output": b"a"}, {"text_output": b"ab"}], "aab",
    ),
    "trt-bls": (
        "tensorrt_llm", TEXT | {"interface": "bls"}, [{"text_output": b"a"}, {"text_output": b"ab"}, {}], "ab",
    ),
    "trt-llmapi": (
        "tensorrt_llm", TEXT | {"interface": "llmapi"}, [{"text_output": b"a b"}, {"text_output": b" c"}], "a b c",
    ),
    "trt-ids": (
        "tensorrt_llm", TEXT | {"interface": "0.5-ids"}, [{"output_ids": [3]}, {"output_ids": [7]}], "HelloSlipway",
    ),
    "ft-gptj": ("fastertransformer", IDS | {"family": "gptj"}, [{"OUTPUT_0": b"Hello"}], "Hello"),
    "ft-t5": (
        "fastertransformer", IDS | {"family": "t5"},
        [{"output_ids": [3, 7, 0, 0], "sequence_length": [2]}], "HelloSlipway",
    ),
}  # fmt: skip


class Client:
    """Stands in for tritonclient.grpc: remembers what is sent, answers what the test says."""

    sent: dict[str, tuple[str, list[int], list[Any]]] = {}
    answers: list[dict[str, Any]] = []
    where = ("", "")

    class InferInput:
        def __init__(self, name: str, shape: list[int], datatype: str) -> None:
            self.name, self.shape, self.datatype = name, shape, datatype

        def set_data_from_numpy(self, array: np.ndarray) -> None:
            assert list(array.shape) == self.shape
            Client.sent[self.name] = (self.datatype, self.shape, array.ravel().tolist())

    def __init__(self, address: str) -> None:
        Client.sent, self.address = {}, address

    def start_stream(self, show: Any) -> None:
        self.show = show

    def async_stream_infer(self, model: str, inputs: list[Any]) -> None:
        assert {one.name for one in inputs} == Client.sent.keys()
        Client.where = (self.address, model)

    def stop_stream(self) -> None:
        for answer in Client.answers:
            arrays = {name: np.array(value if isinstance(value, list) else [value]) for name, value in answer.items()}
            self.show(types.SimpleNamespace(as_numpy=arrays.get), None)


def shown(name: str, tmp_path: Path) -> tuple[Server, Any, dict[str, str]]:
    engine, told, _, _ = CASES[name]
    told = told | {"tokenizer": make_tokenizer(tmp_path / "model")}
    server = Server(id="run-1", name="mine", engine=engine, model="m", endpoint=ENDPOINT, told=told)
    chat, tensors = CHAT, recipes.TENSORS[server.engine]
    if tensors.no_bad_words(told) is None:
        chat = CHAT.model_copy(update={"sampling": CHAT.sampling.model_copy(update={"bad_words": ("a", 'b "c"')})})
    session = tensors.session(chat, told)
    return server, session, {one.kind: one.text for one in snippets(server, chat, session, "http://panel:1")}


def plain(tensor: Tensor) -> list[Any]:
    return [value.decode() if isinstance(value, bytes) else value for value in tensor.values]


@pytest.mark.parametrize("name", CASES)
def test_the_python_program_sends_what_slipway_sends_and_shows_what_it_shows(name, tmp_path, monkeypatch, capsys):
    _, _, Client.answers, read = CASES[name]
    _, session, texts = shown(name, tmp_path)
    monkeypatch.setattr("tritonclient.grpc.InferenceServerClient", Client)
    monkeypatch.setattr("tritonclient.grpc.InferInput", Client.InferInput)
    exec(compile(texts["python"], "snippet", "exec"), {})
    assert Client.where == ("127.0.0.1:8001", "chat")
    for tensor in session.inputs:
        kind, shape, values = Client.sent.pop(tensor.name)
        assert (kind, shape) == (tensor.datatype, list(tensor.shape))
        if tensor.name == "messages":
            assert json.loads(values[0]) == json.loads(tensor.values[0])
        else:
            assert values == pytest.approx(plain(tensor)) if kind.startswith("FP") else values == plain(tensor)
    assert not Client.sent
    assert capsys.readouterr().out.split("\r")[-1] == f"{read}\n"


@pytest.mark.parametrize("name", CASES)
def test_the_curl_line_is_one_command_with_the_same_values(name: str, tmp_path: Path) -> None:
    server, session, texts = shown(name, tmp_path)
    words = shlex.split(texts["curl"].replace("\\\n", " "))
    body = json.loads(words[words.index("-d") + 1])
    if server.engine == "fastertransformer" or name == "trt-ids":
        assert words[2] == "http://panel:1/v1/chat/completions"
        assert body["messages"] == [{"role": "user", "content": QUESTION}]
        assert (body["model"], body["top_k"], body["stream"]) == ("mine", 40, True)
        assert body.get("bad_words") == (None if name == "trt-ids" else ["a", 'b "c"'])
    else:
        assert words[2] == "http://127.0.0.1:8000/v2/models/chat/generate_stream"
        lists = {one.name: plain(one) for one in session.inputs}
        assert body == {name: values if len(values) > 1 else values[0] for name, values in lists.items()}


def test_the_openai_program_sends_what_is_not_openai_s_beside_it(tmp_path: Path) -> None:
    texts = shown("vllm", tmp_path)[2]
    compile(texts["openai"], "snippet", "exec")
    ours = {"top_k": 40, "repetition_penalty": 1.1, "bad_words": ["a", 'b "c"']}
    assert f"extra_body={ours!r}" in texts["openai"]
    assert "model='mine'" in texts["openai"]


def test_a_panel_that_asks_for_a_key_has_it_read_from_the_environment(tmp_path: Path) -> None:
    server, session, _ = shown("ft-gptj", tmp_path)
    texts = {one.kind: one.text for one in snippets(server, CHAT, session, "http://panel:1", keyed=True)}
    assert "Bearer $SLIPWAY_KEY" in texts["curl"]
    assert 'os.environ["SLIPWAY_KEY"]' in texts["openai"]


def test_a_server_of_others_has_no_openai_program(tmp_path: Path) -> None:
    server, session, _ = shown("vllm", tmp_path)
    others = server.model_copy(update={"ours": False})
    assert {one.kind for one in snippets(others, CHAT, session, "http://panel:1")} == {"curl", "python"}
