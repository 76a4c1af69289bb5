"""What Triton needs to know: vocabulary, pure decisions, engines, probes, targets. Imports nothing of `app`."""
