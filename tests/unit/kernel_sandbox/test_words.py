from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from thaloom.kernel.sandbox.inside.words import decode, encode

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
BYTES = (
    st.binary(min_size=1).filter(lambda raw: b"\0" not in raw).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
)


@given(st.lists(st.lists(WORDS | BYTES, min_size=1).map(tuple)))
def test_a_plan_is_read_as_it_was_written(steps: list[tuple[str, ...]]) -> None:
    assert decode(encode(steps)) == steps


def test_a_path_with_tabs_breaks_and_backslashes_is_one_word() -> None:
    steps = [("view", "read", "/a\tb\nc\\t\\", "/x")]
    data = encode(steps)
    assert data.count(b"\n") == 1
    assert decode(data) == steps
