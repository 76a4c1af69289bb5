"""Stands for the bfloat16 package, which has no build for this image's Python.

The LLaMA converter imports it always and uses it for bf16 files only, which are never asked of it.
"""

bfloat16 = None
