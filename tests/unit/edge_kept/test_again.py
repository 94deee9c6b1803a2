"""An answer made again is taken up where it was told, whatever pieces it comes in, and is never joined to another."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from tests.unit.edge_kept.test_responses_writing import call, done, form, text, thought
from thaloom.base.errors import WorkerLost
from thaloom.edge.api.openai.kept.responses.again import Again
from thaloom.edge.api.openai.kept.responses.writing import ResponseForm, last_event
from thaloom.edge.api.routes.generation import Choice
from thaloom.work.runtime.types import Delta, PositionLogprobs, TokenLogprob

ANSWER = (
    [("thought", letter) for letter in "Let me see. "]
    + [("text", letter) for letter in "Calling twice: 世界 \ud800"]
    + [("call", "get_time"), *(("arguments", letter) for letter in '{"zone":"UTC"}')]
    + [("call", "get_time"), *(("arguments", letter) for letter in "{}")]
    + [("text", letter) for letter in "Then more."]
)
"""A model's words, one by one."""


def pieces(cuts: list[int], names: str = "c") -> list[Delta]:
    """The answer, its words grouped between the cuts; of one delta, text comes before calls."""
    deltas: list[Delta] = []
    index = -1
    for place, (kind, word) in enumerate(ANSWER):
        index += kind == "call"
        new = said(kind, word, index, names)
        before = deltas[-1] if deltas else None
        kinds = {"thought": 0, "text": 1, "call": 2, "arguments": 2}
        joins = place not in cuts and before is not None and kinds[ANSWER[place - 1][0]] <= kinds[kind]
        if joins and before is not None:
            new = Delta(
                text=before.text + new.text,
                num_tokens=before.num_tokens + 1,
                reasoning=before.reasoning + new.reasoning,
                tool_calls=before.tool_calls + new.tool_calls,
                logprobs=before.logprobs + new.logprobs if not before.reasoning else (),
            )
            deltas[-1] = new
        else:
            deltas.append(new)
    return deltas


def said(kind: str, word: str, index: int, names: str) -> Delta:
    if kind == "thought":
        return thought(word)
    if kind == "text":
        return text(word, logprobs=(logprob(word),))
    return call(index, id=f"{names}{index}", name=word) if kind == "call" else call(index, word)


def logprob(word: str) -> PositionLogprobs:
    return PositionLogprobs(chosen=TokenLogprob(token=1, text=word, data=b"", logprob=-1.0), top=())


def grow(answer: ResponseForm, deltas: list[Delta], again: Again | None = None) -> list[dict[str, Any]]:
    events = []
    for delta in deltas:
        choice = Choice(index=0)
        choice.add(delta if again is None else again.rest(delta))
        events += answer.news(choice)
    return events


def plain(output: list[dict[str, Any]]) -> list[Any]:
    """Without the ids that are made anew."""
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in output]


CUTS = some.lists(some.integers(0, len(ANSWER)), max_size=30)


@given(first=CUTS, second=CUTS, num_told=some.integers(0, 200), names=some.sampled_from("cd"))
def test_what_was_told_and_what_is_told_then_are_the_whole_answer(
    first: list[int], second: list[int], num_told: int, names: str
) -> None:
    whole = form()
    grow(whole, pieces(first))
    started = form()
    told = grow(started, pieces(first)[:num_told])
    resumed = form()
    resumed.take_up(told)
    assert resumed.body["output"] == started.body["output"]
    again = Again(resumed.body["output"])
    rest = grow(resumed, pieces(second, names), again)
    again.end()
    end = Choice(index=0, done=done())
    rest += resumed.news(end)
    for answer in (whole, resumed):
        answer.news(end)
    events = [*told, *rest, last_event(resumed.body)]
    assert events[-1]["type"] == "response.completed"
    assert plain(resumed.body["output"]) == plain(whole.body["output"])
    told_again = form()
    told_again.take_up(events)
    assert told_again.body["output"] == resumed.body["output"], "its events add up to it"
    ids = [item["id"] for item in started.body["output"]]
    assert [item["id"] for item in resumed.body["output"]][: len(ids)] == ids
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert added == list(range(len(resumed.body["output"])))


@given(cuts=CUTS, other=CUTS, place=some.integers(0, len(ANSWER) - 1), num_told=some.integers(1, 200))
def test_an_answer_that_differs_in_what_was_told_is_refused(
    cuts: list[int], other: list[int], place: int, num_told: int
) -> None:
    started = form()
    first = pieces(cuts)[:num_told]
    told = grow(started, first)
    if place >= sum(delta.num_tokens for delta in first):
        return
    kind, word = ANSWER[place]
    ANSWER[place] = (kind, "?" if word != "?" else "!")
    try:
        second = pieces(other)
    finally:
        ANSWER[place] = (kind, word)
    resumed = form()
    resumed.take_up(told)
    again = Again(resumed.body["output"])
    with pytest.raises(WorkerLost, match="not the same"):
        grow(resumed, second, again)


@pytest.mark.parametrize(
    ("told", "made"),
    [
        ([text("abc")], [text("ab")]),
        ([text("abc")], []),
        ([thought("a"), text("b")], [thought("a")]),
        ([text("a"), call(0, id="c", name="f")], [text("a")]),
        ([text("a"), call(0, id="c", name="f")], [text("ab")]),
        ([text("a"), call(0, id="c", name="f")], [text("a"), call(0, id="c", name="g")]),
        ([call(0, id="c", name="f"), call(1, id="d", name="f")], [call(0, "{", id="c", name="f")]),
        ([thought("a"), text("b")], [text("b")]),
        ([thought("a"), text("b")], [thought("ab")]),
    ],
)
def test_more_or_less_than_was_told_is_refused(told: list[Delta], made: list[Delta]) -> None:
    started = form()
    grow(started, told)
    again = Again(started.body["output"])
    with pytest.raises(WorkerLost, match="not the same"):
        for delta in made:
            again.rest(delta)
        again.end()


def test_log_probabilities_are_told_once() -> None:
    fields = {"include": ["message.output_text.logprobs"]}
    whole, started, resumed = form(**fields), form(**fields), form(**fields)
    grow(whole, pieces([12, 14, 17, 20]))
    resumed.take_up(grow(started, pieces([12, 14, 17, 20])[:4]))
    grow(resumed, pieces([12, 13, 18, 19]), Again(resumed.body["output"]))
    assert plain(resumed.body["output"]) == plain(whole.body["output"])
    assert len(whole.body["output"][1]["content"][0]["logprobs"]) > 3
