"""The engine: what runs steps."""
