"""The demo model: its FAQ, and the program that trains and measures it (`python -m scripts.demo_model`)."""
