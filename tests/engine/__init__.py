"""Tests of the transformers engine: its pure parts, its batches (in the embedded runtime), and a real tritonserver."""
