"""Writes a randomly initialised Llama with a tokenizer. Run by an interpreter that has torch and transformers.

python random_llama.py FOLDER demo     3.1 M parameters, the demo model's shape, fp32
python random_llama.py FOLDER 1b       1.24 B parameters (2048 x 16 layers, 32/8 heads, vocabulary 128 k), fp16
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

SHAPES = {
    "demo": (
        torch.float32,
        {"vocab_size": 4096, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4}
        | {"num_attention_heads": 6, "num_key_value_heads": 6, "max_position_embeddings": 1024},
    ),
    "1b": (
        torch.float16,
        {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192}
        | {"num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
        | {"max_position_embeddings": 8192},
    ),
}


def write(folder: Path, shape: str) -> None:
    """Writes model and tokenizer. No end token: answers have the length that is asked for."""
    dtype, given = SHAPES[shape]
    torch.manual_seed(0)
    config = LlamaConfig(**given, tie_word_embeddings=True, eos_token_id=None, bos_token_id=None, dtype=dtype)
    if torch.cuda.is_available():
        torch.set_default_device("cuda")
    torch.set_default_dtype(dtype)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    alphabet = [*map(chr, range(33, 127)), "Ġ"]  # ASCII alone: every token is text that can go out at once
    words = {letter: index for index, letter in enumerate(alphabet)}
    for index in range(len(words), given["vocab_size"]):
        words[f"t{index}Ġ"] = index
    raw = Tokenizer(models.BPE(vocab=words, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
