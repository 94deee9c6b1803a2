"""Pages over the same client as everyone. Empty so far."""
