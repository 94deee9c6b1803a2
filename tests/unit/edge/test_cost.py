"""What an answer cost, as clients are told."""

from __future__ import annotations

from typing import Any

from thaloom.edge.api.entrance.visits import Tab
from thaloom.edge.api.measures.cost import cost_comment, cost_headers
from thaloom.work.runtime.types import Done


def done(**changes: Any) -> Done:
    facts: dict[str, Any] = {
        "reason": "stop",
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "cached_tokens": 3,
        "queue_s": 0.1,
        "prefill_s": 0.2,
        "decode_s": 0.3,
    }
    return Done(**facts | changes)


def test_answers_say_what_they_cost_and_whether_they_were_degraded() -> None:
    tab = Tab()
    assert cost_headers(tab) == []
    tab.add(done())
    headers = dict(cost_headers(tab))
    assert headers[b"server-timing"] == b"queue;dur=100.0, prefill;dur=200.0, decode;dur=300.0"
    assert headers[b"openai-processing-ms"] == b"600"
    assert headers[b"x-thaloom-prompt-tokens"] == b"7"
    assert headers[b"x-thaloom-cached-tokens"] == b"3"
    assert headers[b"x-thaloom-completion-tokens"] == b"5"
    assert b"x-thaloom-degraded" not in headers
    tab.add(done(degraded="no compiler\r\nx: é", queue_s=0.0, decode_s=1.0), with_prompt=False)
    headers = dict(cost_headers(tab))
    assert headers[b"x-thaloom-degraded"] == b"no compiler x: ?"
    assert headers[b"server-timing"] == b"queue;dur=100.0, prefill;dur=200.0, decode;dur=1000.0", "the slowest of each"
    assert headers[b"x-thaloom-prompt-tokens"] == b"7", "a prompt of two answers counts once"
    assert headers[b"x-thaloom-completion-tokens"] == b"10"


def test_that_it_is_degraded_is_told_before_the_cost_is_known() -> None:
    assert cost_headers(Tab(degraded={"slow"})) == [(b"x-thaloom-degraded", b"slow")]


def test_a_comment_is_one_line_that_no_client_takes_for_data() -> None:
    tab = Tab()
    tab.add(done())
    comment = cost_comment(tab)
    assert comment.startswith(b": server-timing: queue;dur=100.0, ")
    assert comment.endswith(b"prompt-tokens=7, cached-tokens=3, completion-tokens=5\n\n")
    assert comment.count(b"\n") == 2
