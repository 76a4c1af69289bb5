"""Words that an answer may not hold, as engines want them. Pure.

No engine looks at text: each keeps token ids from following each other. So a word is forbidden in the two forms that
tokenizers give it, at the beginning of a text and after a space; written otherwise, say in capitals, it is another one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from backends.errors import BadInput
from backends.spec import Chat, Tensor
from backends.text import Text
from backends.tokenizers import Tokenizer


def forms(words: Sequence[str]) -> tuple[str, ...]:
    """Each word as it begins a text, and as it follows a space."""
    return tuple(dict.fromkeys(form for word in words for form in (word.strip(), f" {word.strip()}")))


def word_list(words: Sequence[str], tokenizer: Tokenizer, name: str) -> Tensor:
    """INT32 [1, 2, ids], as FasterTransformer's decoding reads word lists: all ids in a row, and below them where each
    word ends, then -1 (ban_bad_words.cu)."""
    found = tuple(dict.fromkeys(ids for form in forms(words) if (ids := tokenizer.encode(form, special=False))))
    ids = tuple(itertools.chain.from_iterable(found))
    ends = tuple(itertools.accumulate(map(len, found)))
    values = (*ids, *ends, *(-1 for _ in range(len(ids) - len(ends))))
    return Tensor(name=name, datatype="INT32", shape=(1, 2, len(ids)), values=values)


def refuse(chat: Chat, why: Text | None) -> None:
    """Raises BadInput where bad words are given and `why` says that they cannot be used."""
    if chat.sampling.bad_words and why is not None:
        hint = Text(en="Leave the bad words out, or ask another server.", zh="请去掉禁用词，或改用其他服务。")
        raise BadInput("bad_words", why, hint)
