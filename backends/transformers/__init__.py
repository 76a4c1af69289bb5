"""The embedded engine: Hugging Face transformers with in-flight batching, on Triton's Python backend."""
