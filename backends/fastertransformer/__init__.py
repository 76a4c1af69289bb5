"""FasterTransformer as Triton's backend: LLaMA, GPT-J and T5, from the image's build to a running server."""
