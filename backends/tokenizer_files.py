"""What a tokenizer's files say: chat template, special tokens and their ids, vocabulary. Pure, nothing is executed."""

from __future__ import annotations

from collections.abc import Mapping

from backends.spec import Tokenizer

_MOST = 10**9


def read_tokenizer(
    config: Mapping[str, object],
    generation: Mapping[str, object],
    said: Mapping[str, object],
    tokenizer: Mapping[str, object],
    template_file: bool,
) -> Tokenizer:
    """Facts of a tokenizer from config.json, generation_config.json, tokenizer_config.json (`said`), tokenizer.json.

    Of several sources the one that generation uses wins: generation_config.json, then config.json, then the tokenizer.
    """
    ids = _special_ids(said, tokenizer)
    parts = tokenizer.get("model")
    model: Mapping[str, object] = parts if isinstance(parts, dict) else {}
    vocabulary = model.get("vocab")
    eos_token = _token(said.get("eos_token"))
    kind = model.get("type") or said.get("tokenizer_class")
    added = tokenizer.get("added_tokens")
    size = None
    if isinstance(vocabulary, dict | list):
        size = len(vocabulary)
        if isinstance(added, list):
            known = vocabulary if isinstance(vocabulary, dict) else {}
            size = max([size, *(index + 1 for token, index in ids.items() if token not in known)])
    eos = _ids(generation.get("eos_token_id")) or _ids(config.get("eos_token_id"))
    if not eos and eos_token is not None and eos_token in ids:
        eos = (ids[eos_token],)

    def given(which: str) -> tuple[object, ...]:
        key = f"{which}_token_id"
        return generation.get(key), config.get(key), ids.get(_token(said.get(f"{which}_token")) or "")

    return Tokenizer(
        kind=kind[:80] if isinstance(kind, str) and kind else None,
        vocab_size=size,
        chat_template=template_file or bool(said.get("chat_template")),
        eos_token=eos_token,
        eos_token_ids=eos,
        pad_token_id=_first(*given("pad")),
        bos_token_id=_first(*given("bos")),
        remote_code="auto_map" in said,
    )  # fmt: skip


def _token(value: object) -> str | None:
    """A token as tokenizer_config.json writes it: a string, or an object with its content."""
    if isinstance(value, dict):
        value = value.get("content")
    return value[:200] if isinstance(value, str) and value else None


def _ids(value: object) -> tuple[int, ...]:
    numbers = value if isinstance(value, list) else [value]
    return tuple(number for number in numbers if type(number) is int and 0 <= number <= _MOST)


def _first(*values: object) -> int | None:
    found = [ids[0] for value in values if (ids := _ids(value))]
    return found[0] if found else None


def _special_ids(said: Mapping[str, object], tokenizer: Mapping[str, object]) -> dict[str, int]:
    """Added tokens to their ids, from both files."""
    ids: dict[str, int] = {}
    decoder = said.get("added_tokens_decoder")
    for index, token in decoder.items() if isinstance(decoder, dict) else ():
        content = _token(token)
        if content and str(index).isascii() and str(index).isdigit() and len(str(index)) < 10:
            ids[content] = int(index)
    added = tokenizer.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        content = _token(token)
        index = token.get("id") if isinstance(token, dict) else None
        if content and type(index) is int and 0 <= index <= _MOST:
            ids[content] = index
    return ids
