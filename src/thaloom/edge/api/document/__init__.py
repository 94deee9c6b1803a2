"""The OpenAPI document of what the door serves."""
