"""Errands: what takes long is a process of its own."""
