"""Readings to symptoms to faults to remedies, pure. Empty so far; the floors already know the room."""
