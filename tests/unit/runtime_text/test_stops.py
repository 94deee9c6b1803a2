"""Stop strings: what is held back, and where a text is cut."""

from __future__ import annotations

from thaloom.work.runtime.text.stops import StopStrings


def test_without_stop_strings_everything_passes_at_once() -> None:
    stops = StopStrings(())
    assert stops.feed("a") == "a"
    assert stops.finish() == ""


def test_the_beginning_of_a_stop_string_is_held_back_until_it_is_none() -> None:
    stops = StopStrings(["END"])
    assert stops.feed("go E") == "go "
    assert stops.feed("N") == ""
    assert stops.feed("T") == "ENT"
    assert not stops.hit


def test_a_stop_string_over_three_pieces_is_not_shown() -> None:
    stops = StopStrings(["\n\nUser:"])
    shown = [stops.feed(piece) for piece in ("Yes.\n", "\nUs", "er: hi")]
    assert shown == ["Yes.", "", ""]
    assert stops.hit
    assert stops.feed("more") == ""
    assert stops.finish() == ""


def test_what_was_held_back_is_shown_at_the_end() -> None:
    stops = StopStrings(["abcd"])
    assert stops.feed("xabc") == "x"
    assert stops.finish() == "abc"


def test_the_stop_string_that_is_complete_first_cuts() -> None:
    stops = StopStrings(["bcdef", "d"])
    assert stops.feed("abcdef") == "abc"
    longer = StopStrings(["cd", "bcd"])
    assert longer.feed("abcd") == "a"
