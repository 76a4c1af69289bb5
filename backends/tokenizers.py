"""Text and token ids in the panel itself, for servers that only speak ids. The home of transformers' tokenizers.

transformers is slow to import, so that is done when a tokenizer is first asked for. No code of a model is ever run.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from backends.errors import BadInput
from backends.spec import Message
from backends.text import Text

_LOADING = threading.Lock()


class Tokenizer:
    """A model's own tokenizer."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def encode(self, text: str, special: bool = True) -> tuple[int, ...]:
        """Token ids of a text; `special` adds what the model expects around it (a start, T5's end)."""
        return tuple(self._inner.encode(text, add_special_tokens=special))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out. A character that is cut in two ends in U+FFFD."""
        known = [one for one in ids if 0 <= one < len(self._inner)]  # models may have more rows than tokens
        return str(self._inner.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def unstarted(self, text: str) -> str:
        """`text` without the start token that whoever tokenises it will put in front."""
        start, added = self._inner.bos_token, self.encode("")
        doubled = start and text.startswith(start) and added[:1] == (self._inner.bos_token_id,)
        return text.removeprefix(start) if doubled else text

    @property
    def has_template(self) -> bool:
        """Whether it brings a chat template."""
        return bool(self._inner.chat_template)

    def prompt(self, messages: Sequence[Message]) -> str:
        """The conversation by the tokenizer's own template. Raises BadInput for what the template refuses."""
        turns = [message.model_dump() for message in messages]
        try:
            return str(self._inner.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        except Exception as refused:  # templates are programs: whatever they raise is their word on this conversation
            raise BadInput(
                "messages",
                Text(
                    en=f"The model's chat template refuses this conversation: {refused}.",
                    zh=f"模型的对话模板拒绝了此对话：{refused}。",
                ),
            ) from None


def load(folder: str) -> Tokenizer:
    """The tokenizer in a model's folder, kept for later. Raises BadInput where it cannot be loaded."""
    with _LOADING:
        return _load(folder)


@lru_cache(maxsize=8)
def _load(folder: str) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        inner = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as refused:  # dozens of kinds: a missing file, a broken one, a missing package
        raise BadInput(
            "tokenizer",
            Text(
                en=f"The tokenizer in {folder} cannot be loaded: {refused}",
                zh=f"无法加载 {folder} 中的分词器：{refused}",
            ),
            Text(
                en="Look whether tokenizer.json or tokenizer.model is there and whole.",
                zh="检查 tokenizer.json 或 tokenizer.model 是否存在且完整。",
            ),
        ) from None
    return Tokenizer(inner)
