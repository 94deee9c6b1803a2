"""`kind: Workspace`: a folder with a name and an owner that outlives what works in it; jobs mount it to read and write.

Its folder is made when the document is applied. What lies in it is nobody's to throw away: a workspace is removed only
when its folder is empty and no job names it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thaloom.base.actions import Risk
from thaloom.base.errors import BadParameter, NotEnforceable, WrongState
from thaloom.base.files import disk_errors, sync_folder
from thaloom.init.documents.forms import read_spec, written
from thaloom.init.documents.kept import Kept, require_name
from thaloom.init.documents.kinds import Changed
from thaloom.kernel.state.labels import check_labels
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Condition, Document, DocumentStatus

KIND = "Workspace"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceSpec:
    name: str
    owner: str = ""
    """Who answers for it, in words."""
    quota_bytes: int | None = None
    """What it may hold at most. Refused where the file system cannot hold it to that."""
    labels: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if len(self.owner) > 256 or not self.owner.isprintable():
            raise BadParameter("owner must be at most 256 characters that can be printed", param="owner")
        if self.quota_bytes is not None and self.quota_bytes < 1:
            raise BadParameter(f"quota_bytes must be at least 1, not {self.quota_bytes}", param="quota_bytes")


class Workspaces(Kept):
    """Under `<root>/<name>`, each for this user alone."""

    def __init__(
        self,
        store: StateStore,
        root: Path,
        *,
        users: Callable[[str], Iterable[str]] = lambda _: (),
    ) -> None:
        """`users(name)`: subjects that mount it."""
        super().__init__(store, KIND)
        self._root = root
        self._users = users

    def folder(self, name: str) -> Path:
        return self._root / name

    def is_there(self, name: str) -> bool:
        """Whether it is wished."""
        return self.get(name) is not None

    async def read(self, document: Document) -> Document:
        require_name(document.name)
        return written(KIND, read_spec(WorkspaceSpec, document))

    async def check(self, changed: Changed) -> None:
        """Raises NotEnforceable for a quota; WrongState for one that is used or not empty, or whose folder is none."""
        for document in changed.put:
            if document.spec.get("quota_bytes") is not None:
                raise NotEnforceable(
                    f"{document.subject}: nothing here holds a folder to a number of bytes (a job's own limits do: "
                    "disk_bytes); leave quota_bytes out",
                    param="spec.quota_bytes",
                    subject=document.subject,
                )
            folder = self.folder(document.name)
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                raise WrongState(f"{str(folder)!r} is in the way: no folder", subject=document.subject)
        for name in changed.removed:
            subject = f"workspace/{name}"
            if users := sorted(set(self._users(name)) - changed.gone):
                raise WrongState(f"{subject} is used by {', '.join(users)}", subject=subject, users=users)
            if _holds_anything(self.folder(name)):
                raise WrongState(f"{subject} is not empty: {str(self.folder(name))!r}", subject=subject)

    def risk(self, *, removed: bool) -> Risk:
        return "medium" if removed else "low"

    def touches(self, name: str) -> Sequence[str]:
        return tuple(self._users(name))

    def prepare(self, changed: Changed) -> None:
        with disk_errors(self._root):
            if not self._root.exists():
                self._root.mkdir(mode=0o700, parents=True)
                sync_folder(self._root.parent)
            for document in changed.put:
                self.folder(document.name).mkdir(mode=0o700, exist_ok=True)
            if changed.put:
                sync_folder(self._root)

    def changed(self, changed: Changed) -> None:
        for name in changed.removed:
            with contextlib.suppress(OSError):  # somebody put a file there this moment: it is his, and stays
                self.folder(name).rmdir()

    def sweep(self) -> None:
        """Take away the empty folders of no workspace: what a kill left."""
        wished = {document.name for document in self.list()}
        folders = list(self._root.iterdir()) if self._root.exists() else []
        for folder in folders:
            if folder.name not in wished and not folder.is_symlink() and folder.is_dir():
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()

    def shown(self, name: str) -> bool:
        return self.folder(name).is_dir()

    def status(self, name: str) -> DocumentStatus | None:
        kept = self.store.documents.get(KIND, name)
        if kept is None:
            return None
        folder, since = self.folder(name), kept.created_at
        ready, degraded = _conditions(folder, since)
        facts = {"path": str(folder), "users": sorted(self._users(name))}
        return DocumentStatus(document=kept.document, created_at=since, conditions=(ready, degraded), facts=facts)


def _conditions(folder: Path, since: float) -> tuple[Condition, Condition]:
    fine = Condition(kind="Degraded", status=False, reason="AsWished", message="", since=since)
    if not folder.is_dir():
        message = f"{str(folder)!r} is gone; apply the document again to make it anew"
        return Condition(kind="Ready", status=False, reason="FolderMissing", message=message, since=since), fine
    ready = Condition(kind="Ready", status=True, reason="FolderThere", message="", since=since)
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        message = f"{str(folder)!r} cannot be read and written by the node"
        return ready, Condition(kind="Degraded", status=True, reason="NotWritable", message=message, since=since)
    return ready, fine


def _holds_anything(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False
