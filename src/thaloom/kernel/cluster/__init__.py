"""Peers, membership, the Ray engine. Empty so far; the floors already know the room."""
