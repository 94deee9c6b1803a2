"""The file of a turnstile: what stands where in it. How it is shared: base.shared_words."""

from __future__ import annotations

from pathlib import Path

from thaloom.base.errors import StateUnusable
from thaloom.base.shared_words import Form, SharedWords

SEATS = 60
"""Workers of one device at the same time. Each is a bit of one word."""

WIDTH_AT = 2
TAKEN_AT, BUSY_AT, HOLDER_AT = range(4, 7)
HEADER = 16
WEIGHT, WIDTH, STATE, DEADLINE, SERVICE, LENGTH, SINCE, BELL, TURNS, HELD, WAITED, MISSED = range(12)
"""Words of a seat, times in nanoseconds, of which those to LENGTH are read at once."""
NAME, SEAT_WORDS = 16, 32
IDLE, WAITING, HOLDING = range(3)
"""What STATE says."""

_FORM = Form(
    what="turnstile",
    magic=b"thaloomT",
    version=1,
    seats=SEATS,
    header=HEADER,
    seat_words=SEAT_WORDS,
    name_at=NAME,
    holder_at=HOLDER_AT,
)
base_of, name_words = _FORM.base_of, _FORM.name_words


class TurnstileFile(SharedWords):
    form = _FORM

    def refuse_strangers(self) -> None:
        super().refuse_strangers()
        if self.words[WIDTH_AT] < 1:
            raise StateUnusable(f"{str(self._path)!r} is a turnstile without a width")

    @classmethod
    def create(cls, path: Path, *, width: int) -> TurnstileFile:
        """Raises StateUnusable, DiskFull."""
        return cls.make(path, {WIDTH_AT: width})
