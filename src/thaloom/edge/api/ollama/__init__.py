"""Ollama's protocol. Source: Ollama's API reference, its server's routes, and the types of its Python client."""
