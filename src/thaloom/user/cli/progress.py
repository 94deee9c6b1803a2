"""What moves on a terminal while something takes its time. Where nobody looks, nothing moves and nothing is printed."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from thaloom.base.units import format_duration
from thaloom.user.cli.output import Output, is_terminal, size
from thaloom.user.cli.texts import has_text, text

if TYPE_CHECKING:
    from thaloom.edge.wire.control import Progress

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAME_S = 0.1
_CLEAR_LINE = "\r\x1b[2K"
_BAR_COLUMNS = 30
_WINDOW_S = 10.0
"""Over which the rate is taken: long enough to be calm, short enough to be true."""
_LEAST_S = 0.5


class Spinner:
    """A sign of life beside a line that may change meanwhile."""

    def __init__(self, words: str) -> None:
        self.words = words
        self._begin = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._turn, name="spinner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        sys.stderr.write(_CLEAR_LINE)
        sys.stderr.flush()

    def _turn(self) -> None:
        turn = 0
        while not self._stop.is_set():
            seconds = time.monotonic() - self._begin
            sys.stderr.write(f"{_CLEAR_LINE}{FRAMES[turn % len(FRAMES)]} {self.words} ({seconds:.0f} s)")
            sys.stderr.flush()
            turn += 1
            self._stop.wait(_FRAME_S)


@contextlib.contextmanager
def spinner(output: Output, words: str) -> Iterator[Callable[[str], None]]:
    """Turns while the block runs. Gives a function that changes the words."""
    if output.as_json or not is_terminal(sys.stderr):
        yield lambda _words: None
        return
    turning = Spinner(words)

    def change(words: str) -> None:
        turning.words = words

    turning.start()
    try:
        yield change
    finally:
        turning.stop()


class Pace:
    """How fast bytes come, over the last seconds, and how long the rest will take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._stage = ""
        self._seen: deque[tuple[float, int]] = deque()

    def of(self, progress: Progress) -> tuple[float | None, float | None]:
        """(bytes a second, seconds left); None while nobody can know."""
        now = self._clock()
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._seen.clear()
        self._seen.append((now, progress.done_bytes))
        while now - self._seen[0][0] > _WINDOW_S and len(self._seen) > 2:
            self._seen.popleft()
        begin, done_then = self._seen[0]
        if now - begin < _LEAST_S:
            return None, None
        rate = (progress.done_bytes - done_then) / (now - begin)
        left = (
            None if progress.total_bytes is None or rate <= 0 else (progress.total_bytes - progress.done_bytes) / rate
        )
        return rate, left


@contextlib.contextmanager
def progress_bar(output: Output, name: str, wanted: bool = True) -> Iterator[Callable[[Progress], None]]:
    """Gives a function to call with each step; draws a bar of bytes."""
    if output.as_json or not wanted or not is_terminal(sys.stderr):
        yield lambda _progress: None
        return
    pace = Pace()

    def draw(progress: Progress) -> None:
        sys.stderr.write(_CLEAR_LINE + bar(name, progress, *pace.of(progress)))
        sys.stderr.flush()

    try:
        yield draw
    finally:
        sys.stderr.write(_CLEAR_LINE)
        sys.stderr.flush()


@contextlib.contextmanager
def progress_lines() -> Iterator[Callable[[Progress], None]]:
    """Gives a function to call with each step; writes it as a line of JSON to standard error, for programs."""
    import json

    pace = Pace()

    def write(progress: Progress) -> None:
        rate, left = pace.of(progress)
        said = progress.model_dump() | {
            "rate_bytes_s": None if rate is None else round(rate),
            "left_s": None if left is None else round(left, 1),
        }
        print(json.dumps(said), file=sys.stderr, flush=True)

    yield write


def bar(name: str, progress: Progress, rate: float | None = None, left_s: float | None = None) -> str:
    """`name  stage  [####----]  3.2 MiB / 8.0 MiB  40 %  1.0 MiB/s, 5s left`; without a total only the bytes done."""
    stage = text(f"stage.{progress.stage}") if has_text(f"stage.{progress.stage}") else progress.stage
    done, total = progress.done_bytes, progress.total_bytes
    if not total:
        return f"{name}  {stage}" + (f"  {size(done)}" if done else "")
    share = min(1.0, done / total)
    full = round(share * _BAR_COLUMNS)
    drawn = "#" * full + "-" * (_BAR_COLUMNS - full)
    pace = "" if rate is None or left_s is None else "  " + _pace(rate, left_s)
    return f"{name}  {stage}  [{drawn}]  {size(done)} / {size(total)}  {share:.0%}{pace}"


def _pace(rate: float, left_s: float) -> str:
    return text("pull.rate", rate=size(round(rate)), left=format_duration(max(1.0, left_s)))
