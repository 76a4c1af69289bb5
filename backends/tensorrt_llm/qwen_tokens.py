"""The tokenizer of Qwen's first generation from its rank file, without running the code that comes with the model. Pure
but for reading that file.

qwen.tiktoken: a token in base64 and its rank on each line. Text is cut by a pattern, then pairs of neighbours are
merged, lowest rank first. Ids of the special tokens follow the ranks: 151643 endoftext, 151644 im_start, 151645 im_end
(tokenization_qwen.py of Qwen-7B-Chat).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import regex

from backends.errors import BadInput
from backends.text import Text

FILE = "qwen.tiktoken"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CUT = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIALS = regex.compile("|".join(regex.escape(token) for token in SPECIAL))
_MOST_BYTES = 16 * 2**20


class QwenTokenizer:
    """Text to ids and back, as `backends.tokenizers.Tokenizer` does it."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self._ranks = ranks
        self._tokens = {rank: token for token, rank in ranks.items()}
        first = max(ranks.values(), default=-1) + 1
        self._special = {token: first + place for place, token in enumerate(SPECIAL)}

    def encode(self, text: str, special: bool = True) -> tuple[int, ...]:  # noqa: ARG002  it adds nothing around a text
        """Ids of a text; the names of special tokens are read as those tokens."""
        ids: list[int] = []
        at = 0
        for found in _SPECIALS.finditer(text):
            ids += self._plain(text[at : found.start()])
            ids.append(self._special[found.group()])
            at = found.end()
        return tuple(ids + self._plain(text[at:]))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out. A character that is cut in two ends in U+FFFD."""
        return b"".join(self._tokens.get(one, b"") for one in ids).decode("utf-8", "replace")

    def _plain(self, text: str) -> list[int]:
        return [one for piece in _CUT.findall(text) for one in self._merged(piece.encode("utf-8"))]

    def _merged(self, piece: bytes) -> list[int]:
        known = self._ranks.get(piece)
        if known is not None:
            return [known]
        parts = [piece[place : place + 1] for place in range(len(piece))]
        while len(parts) > 1:
            ranked = [
                (rank, place)
                for place in range(len(parts) - 1)
                if (rank := self._ranks.get(parts[place] + parts[place + 1])) is not None
            ]
            if not ranked:
                break
            _, place = min(ranked)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        return [self._ranks[part] for part in parts]


def is_there(folder: str) -> bool:
    """Whether a model's folder holds such a tokenizer."""
    return (Path(folder) / FILE).is_file()


@lru_cache(maxsize=2)
def load(folder: str) -> QwenTokenizer:
    """The tokenizer in a model's folder. Raises BadInput where its file is not whole."""
    path = Path(folder) / FILE
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError
        ranks = {}
        for line in path.read_bytes().splitlines():
            if line.strip():
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
        if any(bytes((one,)) not in ranks for one in range(256)):
            raise ValueError
    except (OSError, ValueError, binascii.Error):
        raise BadInput(
            "tokenizer", Text(en=f"{path} is not a whole rank file.", zh=f"{path} 不是完整的词表文件。")
        ) from None
    return QwenTokenizer(ranks)
