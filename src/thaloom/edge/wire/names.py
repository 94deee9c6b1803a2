"""Words of the control API that are needed before any message is."""

from __future__ import annotations

PREFIX = "/thaloom/v1"
DRY_RUN = "thaloom-dry-run"
"""Header of an answer that is a Plan, whatever the route usually answers."""
