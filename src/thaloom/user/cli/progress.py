"""What moves on a terminal while something takes its time. Where nobody looks, nothing moves and nothing is printed."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from thaloom.user.cli.output import Output, is_terminal, size
from thaloom.user.cli.texts import has_text, text

if TYPE_CHECKING:
    from thaloom.edge.wire.control import Progress

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAME_S = 0.1
_CLEAR_LINE = "\r\x1b[2K"
_BAR_COLUMNS = 30


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


@contextlib.contextmanager
def progress_bar(output: Output, name: str) -> Iterator[Callable[[Progress], None]]:
    """Gives a function to call with each step; draws a bar of bytes."""
    if output.as_json or not is_terminal(sys.stderr):
        yield lambda _progress: None
        return

    def draw(progress: Progress) -> None:
        sys.stderr.write(_CLEAR_LINE + bar(name, progress))
        sys.stderr.flush()

    try:
        yield draw
    finally:
        sys.stderr.write(_CLEAR_LINE)
        sys.stderr.flush()


def bar(name: str, progress: Progress) -> str:
    """`name  stage  [####----]  3.2 MiB / 8.0 MiB  40 %`; without a total only the bytes done."""
    stage = text(f"stage.{progress.stage}") if has_text(f"stage.{progress.stage}") else progress.stage
    done, total = progress.done_bytes, progress.total_bytes
    if not total:
        return f"{name}  {stage}  {size(done)}"
    share = min(1.0, done / total)
    full = round(share * _BAR_COLUMNS)
    drawn = "#" * full + "-" * (_BAR_COLUMNS - full)
    return f"{name}  {stage}  [{drawn}]  {size(done)} / {size(total)}  {share:.0%}"
