"""The inference runtime: from a prompt to tokens."""
