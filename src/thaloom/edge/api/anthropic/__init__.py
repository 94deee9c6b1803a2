"""Anthropic's protocol. Source: Anthropic's API reference, and the types of its Python client."""
