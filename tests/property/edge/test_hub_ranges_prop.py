"""Any Range header: a part of the file that it means, the whole file, or a refusal; never anything else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from thaloom.edge.api.hub.ranges import Unsatisfiable, wanted

ETAG = '"e"'
numbers = st.integers(0, 200)


@given(header=st.text(alphabet="bytes=-, 0123456789x", max_size=30), size=numbers)
def test_whatever_is_asked(header: str, size: int) -> None:
    try:
        found = wanted(header, None, ETAG, size)
    except Unsatisfiable:
        return
    if found is not None:
        start, stop = found
        assert 0 <= start < stop <= size


@given(first=numbers, last=numbers, size=numbers)
def test_a_range_is_the_bytes_it_names(first: int, last: int, size: int) -> None:
    data = list(range(size))
    expected = [byte for byte in data if first <= byte <= last]
    try:
        found = wanted(f"bytes={first}-{last}", None, ETAG, size)
    except Unsatisfiable:
        assert first >= size
        assert first <= last
        return
    if last < first:
        assert found is None
        return
    assert found is not None
    assert data[found[0] : found[1]] == expected
    assert wanted(f"bytes={first}-{last}", ETAG, ETAG, size) == found
    assert wanted(f"bytes={first}-{last}", '"other"', ETAG, size) is None


@given(count=st.integers(1, 300), size=st.integers(1, 200))
def test_a_suffix_is_the_end(count: int, size: int) -> None:
    found = wanted(f"bytes=-{count}", None, ETAG, size)
    assert found == (max(0, size - count), size)
