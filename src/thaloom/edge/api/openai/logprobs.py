"""Log-probabilities as chats and as completions write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from thaloom.edge.api.routes.generation import Choice
from thaloom.edge.api.routes.logprobs import LEAST_LOGPROB, finite
from thaloom.work.runtime.types import PositionLogprobs, TokenLogprob


def of_chat(positions: Iterable[PositionLogprobs]) -> dict[str, Any]:
    return {"content": [of_position(position) for position in positions], "refusal": None}


def of_position(position: PositionLogprobs) -> dict[str, Any]:
    """Of chats and of responses."""
    return _token(position.chosen) | {"top_logprobs": [_token(top) for top in position.top]}


def of_completion(choice: Choice, *, with_top: bool) -> dict[str, Any]:
    """Of what has come since the last chunk; the offsets count on from there."""
    offsets = []
    for position in choice.logprobs:
        offsets.append(choice.num_decoded)
        choice.num_decoded += len(choice.decoder.decode(position.chosen.data))
    return {
        "tokens": [_spelled(position.chosen) for position in choice.logprobs],
        "token_logprobs": [_number(position.chosen.logprob) for position in choice.logprobs],
        "top_logprobs": [_top(position) for position in choice.logprobs] if with_top else None,
        "text_offset": offsets,
    }


def mean_logprob(choice: Choice, *, skip: int) -> float:
    """Of the answer's tokens; the first `skip` are the prompt's. No tokens: the lowest there is."""
    numbers = [_number(position.chosen.logprob) or 0.0 for position in choice.logprobs[skip:]]
    return sum(numbers) / len(numbers) if numbers else LEAST_LOGPROB


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": _number(token.logprob), "bytes": list(token.data)}


def _top(position: PositionLogprobs) -> dict[str, Any] | None:
    """The likeliest, and the chosen one beside them if it is none of these. Where two are spelled alike, the likelier
    counts. Null for the first token of a prompt, which nothing comes before.

    Source: OpenAI's API reference, completions, `logprobs`: "the most likely output tokens, as well the chosen tokens
    ... so there may be up to logprobs+1 elements in the response".
    """
    if position.chosen.logprob is None:
        return None
    told: dict[str, float | None] = {}
    for token in (*position.top, position.chosen):
        told.setdefault(_spelled(token), _number(token.logprob))
    return told


def _spelled(token: TokenLogprob) -> str:
    """As the completions protocol writes a token that is not text alone: `bytes:\\\\xe4\\\\xbd`."""
    try:
        return token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)


def _number(logprob: float | None) -> float | None:
    return None if logprob is None else finite(logprob)
