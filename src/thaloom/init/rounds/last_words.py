"""What a process said before it ended: the reason people are shown."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from thaloom.base.errors import OutOfMemory, Refused, ThaloomError, Untrusted

MAX_BYTES = 2048
MAX_LINES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LastWords:
    """Why a process ended, as far as it could say."""

    reason: str = "Crashed"
    """One word: the class of the error it left, or `Crashed`."""
    message: str = "it ended without a word"
    hopeless: bool = False
    """Trying again with the same wish cannot help: the model or the wish is at fault."""
    short: bool = False
    """It was refused memory that others had: nothing is wrong with it, and later there may be enough."""


def read_last_words(failure: Path, log: Path, log_offset: int = 0) -> LastWords:
    """From the error it left in `failure` if it had the time for that, else the end of its log."""
    try:
        error = ThaloomError.from_dict(json.loads(failure.read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError):
        text = last_lines(log, log_offset)
        return LastWords(message=text) if text else LastWords()
    return dataclasses.replace(words_of(error), hopeless=isinstance(error, Refused | Untrusted))


def words_of(error: Exception) -> LastWords:
    """Of one that was met while something was begun, which may be tried again whatever it is."""
    message = error.message if isinstance(error, ThaloomError) else str(error)
    return LastWords(reason=type(error).__name__, message=message, short=isinstance(error, OutOfMemory))


def last_lines(log: Path, offset: int = 0) -> str:
    """The last lines from `offset` on that complain of something, at most 8 of the last 2 KiB; empty if there are none
    or the log is gone."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, 2)
            began = offset if offset <= end else 0  # somebody emptied the log meanwhile
            file.seek(max(began, end - MAX_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [told for line in text.splitlines() if (told := _complaint(line.rstrip()))]
    return "\n".join(lines[-MAX_LINES:])


def _complaint(line: str) -> str:
    """A line of a log if it may say why a process ended: what went as it should (an event below a warning) cannot, and
    is empty here. Of an event, what it says."""
    try:
        event = json.loads(line)
        level = event["level"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return line  # what a library or the interpreter wrote
    if level in ("debug", "info"):
        return ""
    return str(event.get("message") or line)


def tail(log: Path, num_lines: int) -> tuple[bytes, int]:
    """The last `num_lines` whole lines and the offset where the next one will begin. Raises FileNotFoundError."""
    block = 64 * 1024
    with log.open("rb") as file:
        end = position = file.seek(0, 2)
        data = b""
        while position > 0 and data.count(b"\n") <= num_lines:
            step = min(block, position)
            position -= step
            file.seek(position)
            data = file.read(step) + data
    lines = data.splitlines(keepends=True)
    return b"".join(lines[-num_lines:] if num_lines else []), end
