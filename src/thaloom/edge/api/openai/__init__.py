"""OpenAI's protocol. Source: OpenAI's API reference."""
