"""Servers side by side: the same client for everybody's OpenAI-compatible door."""
