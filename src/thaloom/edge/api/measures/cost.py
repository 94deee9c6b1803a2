"""What an answer cost, told with it: as headers where it is known before the answer begins, else as its last line."""

from __future__ import annotations

from thaloom.edge.api.entrance.visits import Tab

ASKED_BY = "x-thaloom-cost"
"""A request with this header gets the cost of a stream as a comment before its last event. Not unasked: comments are
part of server-sent events, but some clients take every line for data."""


def cost_headers(tab: Tab) -> list[tuple[bytes, bytes]]:
    """`Server-Timing` (W3C; milliseconds) and the counts, once there is an answer; `x-thaloom-degraded` as soon as
    it is known. What asked for no model gets none."""
    headers = []
    if tab.finish:
        headers.append((b"server-timing", _timing(tab).encode()))
        spent_s = tab.queue_s + tab.prefill_s + tab.decode_s
        headers.append((b"openai-processing-ms", str(round(1000 * spent_s)).encode()))
    if tab.finish or tab.prompt_tokens:
        headers += [(f"x-thaloom-{name}".encode(), str(count).encode()) for name, count in _counts(tab).items()]
    if tab.degraded:
        text = "; ".join(sorted(tab.degraded)).encode("ascii", "replace").decode()
        headers.append((b"x-thaloom-degraded", " ".join(text.split()).encode()))
    return headers


def cost_comment(tab: Tab) -> bytes:
    """The same as a comment of a stream of server-sent events."""
    counts = ", ".join(f"{name}={count}" for name, count in _counts(tab).items())
    return f": server-timing: {_timing(tab)}; {counts}\n\n".encode()


def _timing(tab: Tab) -> str:
    parts = {"queue": tab.queue_s, "prefill": tab.prefill_s, "decode": tab.decode_s}
    return ", ".join(f"{name};dur={seconds * 1000:.1f}" for name, seconds in parts.items())


def _counts(tab: Tab) -> dict[str, int]:
    return {
        "prompt-tokens": tab.prompt_tokens,
        "cached-tokens": tab.cached_tokens,
        "completion-tokens": tab.completion_tokens,
    }
