"""`[jobs]` of config.toml."""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.base.errors import BadParameter
from thaloom.base.units import MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsConfig:
    max_running: int = 64
    """Jobs that run at once; more wait for their turn. Each has a reaper of some 4 MB."""
    memory_bytes: int = 256 * MIB
    """Booked for a job that asks for no amount, and its limit where this host holds to one."""
    num_pids: int = 512
    """Processes and threads of a job that asks for no number."""
    log_bytes: int = 8 * MIB
    """Kept of the output of each job; the oldest goes first."""
    keep_ended: int = 10_000
    """Jobs that are over and known still; beyond that the oldest are forgotten, with their logs."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("max_running", 1, 10_000),
            ("memory_bytes", 16 * MIB, 1 << 60),
            ("num_pids", 8, 1 << 22),
            ("log_bytes", 64 << 10, 1 << 40),
            ("keep_ended", 1, 100_000),
        ):
            if not least <= getattr(self, name) <= most:
                raise BadParameter(f"{name} must be between {least} and {most}", param=f"jobs.{name}")
