"""Namespaces, cgroups, limits. Empty so far; the floors already know the room."""
