"""Tiny random models of each family, and a small byte-level tokenizer. Run by the embedded runtime's interpreter.

The weights are drawn wider than a fresh model's, so that answers are diverse and a wrong position or mask shows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers as hf

VOCABULARY = 384
_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512}
_NEOX = {key: value for key, value in _LLAMA.items() if key != "num_key_value_heads"}
_SEQ2SEQ = {"vocab_size": VOCABULARY, "d_model": 64, "decoder_start_token_id": 0, "pad_token_id": 0}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _LLAMA),
    "qwen2": ("Qwen2Config", _LLAMA),
    "qwen3": ("Qwen3Config", _LLAMA | {"head_dim": 16}),
    "mistral": ("MistralConfig", _LLAMA | {"sliding_window": 12}),
    "gemma": ("GemmaConfig", _LLAMA | {"head_dim": 16}),
    "gemma3": (
        "Gemma3TextConfig",
        _LLAMA
        | {
            "head_dim": 16,
            "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "gptj": ("GPTJConfig", _GPT | {"rotary_dim": 8}),
    "gpt2": ("GPT2Config", _GPT),
    "neox": ("GPTNeoXConfig", _NEOX),
    "opt": ("OPTConfig", _NEOX | {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "bloom": ("BloomConfig", {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 3, "n_head": 4}),
    "phi": ("PhiConfig", _NEOX),
    "falcon": ("FalconConfig", _NEOX | {"new_decoder_architecture": False, "multi_query": True, "alibi": False}),
    "falcon_alibi": ("FalconConfig", _NEOX | {"new_decoder_architecture": False, "multi_query": False, "alibi": True}),
    "t5": ("T5Config", _SEQ2SEQ | {"d_kv": 16, "d_ff": 128, "num_layers": 3, "num_heads": 4}),
    "bart": (
        "BartConfig",
        _SEQ2SEQ
        | {
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "max_position_embeddings": 512,
            "forced_eos_token_id": None,
        },
    ),
    "mamba": ("MambaConfig", {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
}
# Tied embeddings make a random model repeat itself, which proves little.
_COMMON = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "tie_word_embeddings": False}
SUPPORTED = tuple(name for name in CONFIGS if name not in ("bart", "mamba"))


def make(family: str, seed: int = 0, **changes: Any) -> Any:
    """A tiny random fp32 model of the family, in eval mode. End token 1."""
    name, given = CONFIGS[family]
    torch.manual_seed(seed)
    config = getattr(hf, name)(**(_COMMON | given | changes))
    kind = hf.AutoModelForSeq2SeqLM if config.is_encoder_decoder else hf.AutoModelForCausalLM
    model = kind.from_config(config).float().eval()
    _widen(model)
    return model


def _widen(model: Any) -> None:
    """Draws every matrix anew, wide enough for sharp attention, yet stable through the layers."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                wide = 0.7 if "emb" in name or "wte" in name else 1.6 / weight.shape[-1] ** 0.5
                if "shared" in name:
                    wide = 0.14  # T5 ties its embeddings whatever it is told
                weight.normal_(0.0, wide)
            elif "bias" in name:
                weight.normal_(0.0, 0.05)


def make_tokenizer() -> Any:
    """A byte-level tokenizer of VOCABULARY ids or fewer with an end token 1, and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE(unk_token=None))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<end>", "<begin>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(["hello world, how are you today? the quick brown fox", "你好，世界", "🙂👍🏽"], trainer)
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<end>", pad_token="<pad>", bos_token="<begin>"
    )
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    return tokenizer


def save(folder: Path, family: str = "llama", generation: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Writes model, tokenizer and generation_config into the folder, and returns it."""
    model = make(family, **changes)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    if generation is not None:
        path = folder / "generation_config.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | generation))
    return folder


if __name__ == "__main__":
    for family in sys.argv[3:]:
        save(Path(sys.argv[2]) / family, family)
