"""What the door is told: `routes.json`, and copies of the small files it needs to turn text into tokens and back."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from thaloom.base.clock import Clock
from thaloom.kernel.models.reading import StoredModel
from thaloom.kernel.state.routes import publish
from thaloom.kernel.state.types import Alias, Route, Routes

TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "config.json",
)
"""Of a model's files, those the door may want."""


class TextFiles:
    """Ready copies under `<root>/<digest of the model>/`. Whole or absent, so existing means complete."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.now: object = object()
        """Another one whenever there are other copies than before."""

    def prepare(self, model: StoredModel) -> None:
        """Make the copies that are missing. Blocks; raises CorruptObject, DiskFull."""
        folder = self._root / model.manifest.digest
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in TEXT_FILES:
            if model.has(name) and not (folder / name).exists():
                model.copy_file(name, folder / name)
                self.now = object()

    def of(self, digest: str) -> dict[str, str]:
        """Name -> absolute path of what there is."""
        folder = self._root / digest
        return {name: str(folder / name) for name in TEXT_FILES if (folder / name).exists()}

    def keep_only(self, digests: Iterable[str]) -> None:
        """Delete the copies of all other models. Blocks."""
        wanted = set(digests)
        for folder in self._root.iterdir():
            if folder.name not in wanted:
                shutil.rmtree(folder, ignore_errors=True)
                self.now = object()


class Publisher:
    """Writes `routes.json` whenever what it says would be new."""

    def __init__(
        self,
        path: Path,
        control_socket: Path,
        clock: Clock,
        with_room: Callable[[Callable[[], None]], None] = lambda work: work(),
    ) -> None:
        """`with_room`: does what needs a little of a disk that may be full (StateStore.with_room)."""
        self._path = path
        self._with_room = with_room
        self._control_socket = str(control_socket)
        self._clock = clock
        self._last: Routes | None = None

    def publish(self, routes: tuple[Route, ...], aliases: tuple[Alias, ...] = ()) -> bool:
        """Whether there was anything new to say. Raises DiskFull: then nothing was said, and it is still new."""
        if self._last is not None and (self._last.routes, self._last.aliases) == (routes, aliases):
            return False
        latest = Routes(
            version=1 if self._last is None else self._last.version + 1,
            published_at=self._clock.now(),
            control_socket=self._control_socket,
            routes=routes,
            aliases=aliases,
        )
        self._with_room(lambda: publish(self._path, latest))
        self._last = latest
        return True

    def withdraw(self) -> None:
        """The node is down: there is nothing to route to."""
        self._path.unlink(missing_ok=True)
