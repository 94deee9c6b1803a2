"""Rounds: look, decide, do one thing, look again."""
