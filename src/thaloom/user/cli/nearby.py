"""A name nobody knows is answered with those it resembles."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

from thaloom.base.errors import NotFound, ThaloomError
from thaloom.user.cli.command import near


@contextlib.contextmanager
def suggesting(wanted: str, names: Callable[[], Iterable[str]]) -> Iterator[None]:
    """Adds near names to a NotFound that passes. `names` is asked only then; if that fails, so be it."""
    try:
        yield
    except NotFound as error:
        with contextlib.suppress(ThaloomError):
            if "near" not in error.details and (close := near(wanted, names())):
                error.details["near"] = close
        raise
