"""What is remembered, in one SQLite database: runs and their events, conversations, keys, choices, watched servers.

Knows the vocabulary of `backends`, no rules. Log text lies in files (backends/logs.py).
"""
