"""Deterministic simulation, trace replay, fault injection. Empty so far."""
