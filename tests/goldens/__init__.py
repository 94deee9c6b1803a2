"""Logits of Hugging Face transformers for small random models, and what makes them again."""
