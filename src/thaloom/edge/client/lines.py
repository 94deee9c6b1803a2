"""Streams of bytes cut into lines, and what a line of server-sent events carries."""

from __future__ import annotations

from thaloom.base.errors import InternalError

MAX_LINE_BYTES = 64 * 1024 * 1024
"""One event of a stream; the longest there are hold one token's text, or a model's whole manifest."""
_DATA = b"data:"


class Lines:
    """Cuts a stream of bytes at line feeds, and nowhere else: JSON may hold every other sign Unicode calls a line's end
    (U+2028, U+0085 ...)."""

    def __init__(self) -> None:
        self._begun = b""

    def feed(self, content: bytes) -> list[bytes]:
        """The lines that are whole now, without their ends."""
        *whole, self._begun = (self._begun + content).split(b"\n")
        if len(self._begun) > MAX_LINE_BYTES:
            raise InternalError(f"a line of the answer is longer than {MAX_LINE_BYTES} bytes")
        return [line.removesuffix(b"\r") for line in whole]

    def rest(self) -> list[bytes]:
        """The last line, if it had no end."""
        return [self._begun] if self._begun else []


def event_data(line: bytes) -> bytes | None:
    """What a line of server-sent events carries; None: a comment, or the space between two."""
    return line[len(_DATA) :].strip() if line.startswith(_DATA) else None
