"""Runs in the image: does it hold TensorRT-LLM at the version that is expected, and Triton's backend for it?

    python3 check_image.py VERSION [--backend] [--tokenizer DIR [--trust]]

--backend: the C++ backend must be there. --tokenizer: it is loaded as the server will load it; --trust: code that comes
with the model may run. Nothing here needs a GPU. Plain Python 3.8.
"""

import argparse
import importlib.metadata as metadata
import sys
from pathlib import Path

BACKEND = Path("/opt/tritonserver/backends/tensorrtllm")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("version")
    parser.add_argument("--backend", action="store_true")
    parser.add_argument("--tokenizer")
    parser.add_argument("--trust", action="store_true")
    given = parser.parse_args()
    try:
        found = metadata.version("tensorrt_llm")
    except metadata.PackageNotFoundError:
        sys.exit("error: this image has no tensorrt_llm package")
    # Images were seen to hold a build of the days before: 24.08 has 0.12.0.dev2024080600.
    if found.split("+")[0].split(".dev")[0] != given.version:
        sys.exit(f"error: this image has TensorRT-LLM {found}, {given.version} is needed")
    print(f"tensorrt_llm {found}")
    if given.backend and not any(BACKEND.glob("*")):
        sys.exit(f"error: {BACKEND} holds no backend")
    if given.tokenizer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(given.tokenizer, trust_remote_code=given.trust)
        print(f"{type(tokenizer).__name__}: {len(tokenizer)} tokens, end token {tokenizer.eos_token!r}")


main()
