"""The file of a board of pages: what stands where in it. How it is shared: base.shared_words."""

from __future__ import annotations

from pathlib import Path

from thaloom.base.errors import StateUnusable
from thaloom.base.shared_words import Form, SharedWords

SEATS = 60
"""Workers of one device at the same time, those on their way out too. Each is a bit of one word."""

PAGE_BYTES_AT = 2
NUM_PAGES_AT, GOAL_AT, ROOM_AT, OWED_AT, UNSETTLED_AT, TAKEN_AT, HOLDER_AT = range(4, 11)
HEADER = 16
FLOOR, SECURED, CEILING, PRIORITY, HELD, WANTED, TARGET, BELL = range(8)
"""Words of a seat, of which those to WANTED are read at once."""
NAME, SEAT_WORDS = 16, 32

_FORM = Form(
    what="board of pages",
    magic=b"thaloomP",
    version=1,
    seats=SEATS,
    header=HEADER,
    seat_words=SEAT_WORDS,
    name_at=NAME,
    holder_at=HOLDER_AT,
)
base_of, seat_at, name_words = _FORM.base_of, _FORM.seat_at, _FORM.name_words


class BoardFile(SharedWords):
    form = _FORM

    def refuse_strangers(self) -> None:
        super().refuse_strangers()
        if self.words[PAGE_BYTES_AT] <= 0:
            raise StateUnusable(f"{str(self._path)!r} is a board of pages without a size")

    @classmethod
    def create(cls, path: Path, *, num_pages: int, page_bytes: int) -> BoardFile:
        """Raises StateUnusable, DiskFull."""
        pages = dict.fromkeys((NUM_PAGES_AT, GOAL_AT, ROOM_AT), num_pages)
        return cls.make(path, {PAGE_BYTES_AT: page_bytes} | pages)
