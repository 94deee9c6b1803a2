"""A log-probability as every protocol writes it."""

from __future__ import annotations

LEAST_LOGPROB = -9999.0
"""JSON has no infinity. Source: OpenAI's API reference: -9999.0 signifies that a token is very unlikely."""


def finite(logprob: float | None) -> float:
    """The least there is for one that is not known, is below it, or is not a number."""
    return logprob if logprob is not None and logprob > LEAST_LOGPROB else LEAST_LOGPROB
