"""What a condition says, in the language of the person."""

from __future__ import annotations

import re
from typing import Protocol

from thaloom.user.cli.texts import has_text, language, text


class Told(Protocol):
    @property
    def reason(self) -> str: ...

    @property
    def message(self) -> str: ...


def words_of(condition: Told) -> str:
    """The node speaks English; in another language its words follow a title that says what is so, as with errors."""
    title = None if language() == "en" else _title(condition.reason)
    return " — ".join(words for words in (title, condition.message) if words)


def _title(reason: str) -> str | None:
    """A reason that is the name of an error has the error's title. None: one that a newer node knows."""
    code = re.sub(r"(?<!^)(?=[A-Z])", "_", reason).lower()
    key = next((key for key in (f"reason.{reason}", f"title.{code}") if has_text(key)), None)
    return None if key is None else text(key)
