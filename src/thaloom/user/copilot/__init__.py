"""Reads, explains, proposes; acts only with its user's rights. Empty so far."""
