"""Turns of workers at the host's cores: the daemon's part. It makes the file, and workers go on while it is away."""

from __future__ import annotations

from pathlib import Path

from thaloom.base.errors import StateUnusable
from thaloom.work.runtime.turns.turnstile import Seated, Turnstile


class HostTurns:
    """One turnstile. Who finds it damaged goes without turns."""

    def __init__(self, path: Path, width: int) -> None:
        """`width`: cores. Raises DiskFull, OSError."""
        try:
            self._turnstile = Turnstile.create(path, width)
        except StateUnusable:  # nobody can go on with it
            path.unlink()
            self._turnstile = Turnstile.create(path, width)

    def seated(self) -> dict[str, Seated]:
        """By worker; none where nonsense stands."""
        try:
            return {seated.name: seated for seated in self._turnstile.seated()}
        except ValueError:
            return {}
