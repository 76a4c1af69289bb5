"""TensorRT-LLM on Triton: three ways (0.5.0's build script, convert and trtllm-build, the LLM API), one vocabulary."""
