"""Which part of a file a request is for. Source: RFC 9110, 13.1.5 (If-Range), 14.2 (Range), 14.1.2 (bytes)."""

from __future__ import annotations

import re

_ONE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.IGNORECASE)


class Unsatisfiable(Exception):
    """No byte of the file is in the range."""


def wanted(header: str | None, if_range: str | None, etag: str, num_bytes: int) -> tuple[int, int] | None:
    """(start, stop) of the one range that is asked for; None: the whole file, as for a header that is no such range,
    for several, and for one of another version. Raises Unsatisfiable."""
    match = _ONE.fullmatch(header.strip()) if header is not None else None
    if match is None or not any(match.groups()) or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = match.groups()
    if not first:
        if int(last) == 0 or num_bytes == 0:
            raise Unsatisfiable
        return max(0, num_bytes - int(last)), num_bytes
    start, stop = int(first), num_bytes if not last else min(int(last) + 1, num_bytes)
    if last and int(last) < start:
        return None
    if start >= num_bytes:
        raise Unsatisfiable
    return start, stop


def matches(if_none_match: str | None, etag: str) -> bool:
    """Whether the caller has this very version already."""
    if if_none_match is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return "*" in tags or etag in tags
