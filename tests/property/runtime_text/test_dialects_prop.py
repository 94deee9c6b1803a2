"""How an answer comes in pieces makes no difference; no text is too strange; plain text is passed on as it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.runtime_text.dialects_of_the_field import DIALECTS, ONE, PARIS, TWO, hear, hearing
from thaloom.work.runtime.dialects.thinking import KNOWN, Thoughts

NAMES = DIALECTS.names()
FRAGMENTS = sorted(
    {
        *(mark for name in NAMES for mark in DIALECTS.create(name).marks),
        *(mark for pair in KNOWN for mark in (pair.open, pair.close)),
        *ONE.values(),
        *TWO.values(),
        *(text[: len(text) // 2] for text in ONE.values()),
        '{"name": "get_weather", "arguments": ', '{"name": "now"', '"parameters": ', "[get_weather(", "now(", "city=",
        "<function=now>", "<parameter=city>", "</parameter>", "<arg_key>", "[ARGS]", "now", "```json\n", "{", "}", "[",
        "]", "(", ")", '"', "'", "\\", ",", ";", ":", "=", "\n", " ", "null", "1e9", "-", "\\u", "text", "世", "é",
    }
)  # fmt: skip


def texts() -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), max_size=12).map("".join)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, at = [], 0
    while at < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[at : at + size])
        at += size
    return pieces


def thoughts(kind: str) -> Thoughts | None:
    return None if kind == "none" else Thoughts(KNOWN[0], begun=kind == "begun", separate=kind != "together")


@given(
    st.sampled_from(NAMES),
    texts(),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.sampled_from(["none", "may", "begun", "together"]),
)
@example("hermes", '<tool_call>{"name": "now", "arguments": {"a": "\\', [1], "none")
def test_every_cutting_is_heard_the_same_and_nothing_raises(name: str, text: str, sizes: list[int], kind: str) -> None:
    whole = hear(hearing(name, thoughts=thoughts(kind)), [text])
    assert hear(hearing(name, thoughts=thoughts(kind)), cut(text, sizes)) == whole
    "".join(whole[:2]).encode()
    for _, arguments in whole[2]:
        arguments.encode()


@given(st.sampled_from(NAMES), texts())
def test_where_no_call_was_heard_the_text_is_whole_and_unchanged(name: str, text: str) -> None:
    heard, _, calls = hear(hearing(name), [text])
    assert calls or heard == text
    assert hear(hearing(name, tools=()), [text]) == (text, "", [])


@given(st.sampled_from(NAMES), st.text("abc .,\n", max_size=40))
def test_plain_text_waits_for_nothing(name: str, text: str) -> None:
    listening = hearing(name)
    for length in range(1, len(text) + 1):
        shown = listening.feed(text[length - 1]).text
        if text[:length].strip():
            assert listening.num_held == 0
            assert shown.endswith(text[length - 1])


@pytest.mark.parametrize("name", NAMES)
def test_calls_are_heard_as_their_models_write_them(name: str) -> None:
    for sizes in ([1], [3], [1000]):
        for written, wanted in ((ONE, [("get_weather", PARIS)]), (TWO, [("get_weather", PARIS), ("now", {})])):
            text, _, calls = hear(hearing(name), cut(written[name], sizes))
            assert text == ""
            assert [(called, json.loads(arguments)) for called, arguments in calls] == wanted


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
JSON_DIALECTS = [name for name in NAMES if name not in ("qwen3-coder", "glm", "minimax", "seed-oss")]


@given(st.sampled_from(JSON_DIALECTS), st.lists(VALUES, min_size=1, max_size=3))
def test_what_a_dialect_writes_it_reads_again(name: str, values: list[object]) -> None:
    calls = [("get_weather", {"city": value}) for value in values]
    text, _, heard = hear(hearing(name), [DIALECTS.create(name).write(calls)])
    assert text == ""
    assert [(called, json.loads(arguments)) for called, arguments in heard] == calls


@given(st.sampled_from(sorted({*NAMES} - {*JSON_DIALECTS})), st.text(), st.integers())
def test_text_between_tags_is_told_as_it_is(name: str, city: str, days: int) -> None:
    dialect = DIALECTS.create(name)
    written = dialect.write([("get_weather", {"city": city, "days": days})])
    _, _, heard = hear(hearing(name), [written])
    if "</" not in city and not city.startswith("\n") and not city.endswith("\n"):
        assert json.loads(heard[0][1]) == {"city": city, "days": days}


@pytest.mark.parametrize("name", NAMES)
def test_a_call_cut_off_anywhere_is_whole_only_if_its_arguments_are(name: str) -> None:
    """Also in the first character of a tag that may be an argument's as well as the call's end."""
    for at in range(len(ONE[name]) + 1):
        listening = hearing(name)
        _, _, calls = hear(listening, [ONE[name][:at]])
        assert listening.num_whole_calls <= len(calls) <= 1
        if listening.num_whole_calls:
            assert json.loads(calls[0][1]) == PARIS, at
    assert listening.num_whole_calls == 1


def test_text_between_tags_is_told_as_it_comes() -> None:
    listening = hearing("qwen3-coder")
    listening.feed("<tool_call>\n<function=get_weather>\n<parameter=city>\n")
    parts = [listening.feed(piece) for piece in ('Par"', "is\n", "and ", "</par", "is", "\n</parameter>\n")]
    told = ["".join(piece.arguments for piece in part.tool_calls) for part in parts]
    assert told == ['Par\\"', "is", "\\nand ", "", "</paris", '"']
