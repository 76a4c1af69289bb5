"""How a conversation becomes one text, for models whose tokenizer brings no template. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from backends.errors import BadInput
from backends.spec import Message
from backends.text import Text


def llama2(messages: Sequence[Message]) -> str:
    """LLaMA 2's chat template: [INST] and <<SYS>>; the start token is added while the text is tokenised.

    Source: the model card and reference code of Llama-2-chat. Raises BadInput where turns do not alternate.
    """
    system, turns = _parted(messages)
    text = ""
    for number, message in enumerate(turns):
        if message.role == "user":
            asked = f"<<SYS>>\n{system}\n<</SYS>>\n\n{message.content}" if system and number == 0 else message.content
            text += ("<s>" if number else "") + f"[INST] {asked.strip()} [/INST]"
        else:
            text += f" {message.content.strip()} </s>"
    return text


def atom(messages: Sequence[Message]) -> str:
    """The template of FlagAlpha's Chinese LLaMA models (Atom, Llama2-Chinese): Human and Assistant, each turn closed.

    Source: the models' cards. The first start token is added while the text is tokenised. Raises BadInput as `llama2`.
    """
    system, turns = _parted(messages)
    text = f"System: {system}\n</s><s>" if system else ""
    for number, message in enumerate(turns):
        who = "Human" if message.role == "user" else "Assistant"
        text += ("<s>" if number else "") + f"{who}: {message.content}\n</s>"
    return text + "<s>Assistant: "


def chatml(messages: Sequence[Message], system: str = "You are a helpful assistant.") -> str:
    """Qwen's chat format: every turn between <|im_start|> and <|im_end|>, the answer's beginning at the end.

    Source: Qwen's own chat code, which puts `system` where the conversation brings none.
    """
    turns = list(messages)
    if not turns or turns[0].role != "system":
        turns.insert(0, Message(role="system", content=system))
    said = "".join(f"<|im_start|>{turn.role}\n{turn.content}<|im_end|>\n" for turn in turns)
    return f"{said}<|im_start|>assistant\n"


def plain(messages: Sequence[Message]) -> str:
    """The last question alone: a model without any template continues it."""
    return messages[-1].content


def _parted(messages: Sequence[Message]) -> tuple[str, tuple[Message, ...]]:
    """The system's words, and the turns, which must go user, assistant, user …"""
    system = "\n".join(message.content for message in messages if message.role == "system")
    turns = tuple(message for message in messages if message.role != "system")
    expected = ("user", "assistant")
    if not turns or len(turns) % 2 == 0 or any(turn.role != expected[n % 2] for n, turn in enumerate(turns)):
        raise BadInput(
            "messages",
            Text(
                en="This template takes turns of user and assistant by turns, the user's first and last.",
                zh="此模板要求用户与助手轮流发言，且以用户开始、以用户结束。",
            ),
        )
    return system, turns
