"""Rehearsal: the kernel's own decisions on virtual time and virtual devices. Empty so far."""
