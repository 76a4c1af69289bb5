"""vLLM on Triton: no conversion and no build; the model is loaded as it is."""
