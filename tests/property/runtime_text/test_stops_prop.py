"""Stop strings in a stream against their plain definition on the whole text."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from thaloom.work.runtime.text.stops import StopStrings

texts = st.text("abc", max_size=40)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


def plainly(text: str, stops: list[str]) -> tuple[str, bool]:
    """Read until some stop string is complete; of those complete there, the longest is cut off."""
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end - max(map(len, complete))], True
    return text, False


def cut_up(text: str, cuts: list[int]) -> list[str]:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(bounds)]


@given(texts, stop_lists, st.lists(st.integers(0, 40), max_size=40))
def test_a_stream_is_cut_where_the_whole_text_would_be(text: str, stops: list[str], cuts: list[int]) -> None:
    filter_ = StopStrings(stops)
    shown = "".join(filter_.feed(piece) for piece in cut_up(text, cuts)) + filter_.finish()
    assert (shown, filter_.hit) == plainly(text, stops)


@given(texts, stop_lists)
def test_what_is_held_back_could_still_become_a_stop_string(text: str, stops: list[str]) -> None:
    filter_ = StopStrings(stops)
    shown = "".join(filter_.feed(character) for character in text)
    if not filter_.hit:
        held = text[len(shown) :]
        assert held == "" or any(stop.startswith(held) for stop in stops)
