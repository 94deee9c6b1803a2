"""Having the node's daemon pull what somebody asks our hub for: for the door, which holds nothing and calls nobody out.

The pull goes on when we leave; whoever asks again finds it there, or further on.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from pathlib import Path

from thaloom.base.errors import Forbidden, NodeNotRunning, ServiceLoading
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import Progress, PullRequest

WAIT_S = 8.0
"""Clients give a hub 10 s for an answer; a model that takes longer is announced, and pulled all the same."""
_RETRY_AFTER_S = 10.0
_NOT_ALLOWED = "hub_read_through"


class _Late(Exception):
    """It takes longer than a client waits."""


class ReadThrough:
    """Implements edge.api.hub.shelf.Upstream over the control socket."""

    def __init__(self, home: Path, *, wait_s: float = WAIT_S) -> None:
        self._home = home
        self._wait_s = wait_s

    async def fetch(self, repo: str, revision: str) -> bool:
        return await asyncio.to_thread(self._fetch, repo, revision)

    def _fetch(self, repo: str, revision: str) -> bool:
        deadline = time.monotonic() + self._wait_s
        reached: Progress | None = None

        def note(progress: Progress) -> None:
            nonlocal reached
            reached = progress
            if time.monotonic() >= deadline:
                raise _Late

        request = PullRequest(source=f"hf://{repo}@{revision}", name=local_name(repo, revision), read_through=True)
        try:
            with ControlClient(self._home) as node:
                node.pull(request, note)
        except _Late:
            how_far = "" if reached is None else f" ({reached.done_bytes} of {reached.total_bytes or '?'} bytes)"
            raise ServiceLoading(
                f"{repo!r} is being pulled from the hub above{how_far}; ask again", retry_after_s=_RETRY_AFTER_S
            ) from None
        except Forbidden as error:
            if _NOT_ALLOWED in error.message:
                return False
            raise
        except NodeNotRunning:
            return False  # without a daemon the door serves what is there
        return True


def local_name(repo: str, revision: str) -> str:
    """A name of the store for a repository of any organisation: `org--name`, and the revision as its tag."""
    name = _word(repo.lower().replace("/", "--"), r"[^a-z0-9._-]+", repo)
    tag = _word(revision, r"[^A-Za-z0-9._-]+", revision)
    return name if revision == "main" else f"{name}:{tag}"


def _word(text: str, wrong: str, original: str) -> str:
    """What fits a name of the store; where something had to go, a few digits tell it from others."""
    word = re.sub(r"\.\.+", ".", re.sub(wrong, "-", text)).lstrip(".-_")
    if word.lower() == original.lower().replace("/", "--") and len(word) <= 63:
        return word
    return f"{word[:54]}-{hashlib.sha256(original.encode()).hexdigest()[:8]}"
