"""What is remembered: runs and events in SQLite, log text in files. Knows the vocabulary of `backends`, no rules."""
