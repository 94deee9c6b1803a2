"""`thaloom apply|diff|export|wait`: what is wished for, as documents in files."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thaloom.base.actions import TERMS, Planned, Terms
from thaloom.base.errors import BadParameter, DeadlineExceeded, DocumentNotFound, ServiceFailed, ThaloomError
from thaloom.user.cli.command import argument, finite, option, verb
from thaloom.user.cli.completing import documents as complete_documents
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import Colour, Output, paint
from thaloom.user.cli.planning import change_lines
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.client.control import ControlClient
    from thaloom.edge.client.documents import Written
    from thaloom.edge.wire.control import ApplyRequest, DocumentStatus

DIFFERENT = 1
"""Exit code of `diff`, as of diff(1)."""
_SUFFIXES = (".yaml", ".yml", ".json")
_POLL_S = 0.1
_WORDS: tuple[tuple[str, Colour], ...] = (("created", "green"), ("changed", "yellow"), ("removed", "red"))
_NEVER = ("NoController",)
"""Reasons of a Ready condition that no waiting changes."""


def labelled(_context: click.Context, parameter: click.Parameter, words: tuple[str, ...]) -> dict[str, str]:
    """A callback: KEY=VALUE, several times."""
    labels = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise click.BadParameter(text("usage.no_label", word=word), param=parameter)
        labels[key] = value
    return labels


_files = option("-f", "--file", "files", multiple=True, required=True, metavar="FILE|DIR|-")
_prune = option("--prune", multiple=True, callback=labelled, metavar="KEY=VALUE")


@verb("apply", changes=True)
@_files
@_prune
@option("--wait", is_flag=True)
@option("--timeout", "timeout_s", type=click.FloatRange(min=0), callback=finite, default=600.0, metavar="SECONDS")
def apply(output: Output, files: tuple[str, ...], prune: dict[str, str], wait: bool, timeout_s: float) -> None:
    written = list(_read(files))
    with connect() as node, _with_lines(written):
        done = node.apply(_request(written, prune))
        for subject in (*done.created, *done.changed) if wait else ():
            kind, _, name = subject.partition("/")
            _wait_for(node, kind, name, "ready", time.monotonic() + timeout_s)
    output.document(done.model_dump())
    for word, colour in _WORDS:
        for subject in getattr(done, word):
            output.line(paint(text(f"applied.{word}", subject=subject), colour))
    for subject in done.unchanged:
        output.line(text("applied.unchanged", subject=subject))
    if done.action is not None:
        output.note(text("applied.action", id=done.action))


@verb("diff")
@_files
@_prune
def diff(output: Output, files: tuple[str, ...], prune: dict[str, str]) -> int:
    written = list(_read(files))
    token = TERMS.set(Terms(dry_run=True))
    try:
        with connect() as node, _with_lines(written):
            node.apply(_request(written, prune))
    except Planned as planned:
        changes = [change for plan in planned.plans for change in plan.changes]
    else:  # pragma: no cover - a node that does what it was only asked about
        raise AssertionError("a dry run was carried out")
    finally:
        TERMS.reset(token)
    output.document(
        {"changes": [{"subject": one.subject, "before": one.before, "after": one.after} for one in changes]}
    )
    for line in change_lines(changes):
        output.line(line)
    return DIFFERENT if changes else 0


@verb("export")
@argument("names", nargs=-1, metavar="[KIND|KIND/NAME]...", shell_complete=complete_documents)
@option("-l", "--label", "labels", multiple=True, callback=labelled, metavar="KEY=VALUE")
@option("--pinned", is_flag=True)
@option("--status", is_flag=True)
def export(output: Output, names: tuple[str, ...], labels: dict[str, str], pinned: bool, status: bool) -> None:
    from thaloom.edge.client.documents import to_yaml

    with connect() as node:
        found = list(_found(node, names, labels))
    documents = [_plain(one, pinned=pinned, status=status) for one in found]
    output.document(documents)
    if documents and not output.as_json:
        sys.stdout.write(to_yaml(documents))
        sys.stdout.flush()


@verb("wait")
@argument("names", nargs=-1, required=True, metavar="NAME|KIND/NAME...", shell_complete=complete_documents)
@option("--for", "wanted", default="ready", metavar="CONDITION")
@option("--timeout", "timeout_s", type=click.FloatRange(min=0), callback=finite, default=600.0, metavar="SECONDS")
def wait(output: Output, names: tuple[str, ...], wanted: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    with connect() as node:
        found = [_wait_for(node, *_split(name), wanted, deadline) for name in names]
    output.document([_plain(one, pinned=True, status=True) for one in found if one is not None])
    for name in names:
        output.line(text("wait.done", name=name, condition=wanted))


def _read(files: Sequence[str]) -> Iterator[Written]:
    """The documents of files, of all YAML and JSON files in folders, by name, and of standard input. Raises
    BadParameter where there is none."""
    from thaloom.edge.client.documents import read_documents

    num_documents = 0
    for name in files:
        for place in _places(name):
            content = sys.stdin.buffer.read() if place is None else place.read_bytes()
            for one in read_documents(content, "-" if place is None else str(place)):
                num_documents += 1
                yield one
    if not num_documents:
        raise BadParameter(text("apply.none", files=", ".join(files)), param="file")


def _places(name: str) -> Sequence[Path | None]:
    if name == "-":
        return [None]
    path = Path(name)
    if path.is_dir():
        return sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES and one.is_file())
    if not path.exists():
        raise BadParameter(text("usage.no_such_path", path=name), param="file")
    return [path]


def _request(written: Sequence[Written], prune: dict[str, str]) -> ApplyRequest:
    from pydantic import ValidationError

    from thaloom.edge.wire.control import ApplyRequest

    try:
        return ApplyRequest(documents=[one.document() for one in written], prune=prune or None)
    except ValidationError as error:
        raise BadParameter(str(error.errors()[0]["msg"]), param="documents") from error


@contextlib.contextmanager
def _with_lines(written: Sequence[Written]) -> Iterator[None]:
    """What the node says against a document is said with its file and line."""
    from thaloom.edge.client.documents import explained

    try:
        yield
    except ThaloomError as error:
        raise explained(error, written) from error.__cause__


def _found(node: ControlClient, names: Sequence[str], labels: dict[str, str]) -> Iterator[DocumentStatus]:
    if not names:
        yield from node.documents(None, labels)
    for name in names:
        kind, slash, own = name.partition("/")
        if not slash:
            yield from node.documents(kind, labels)
        else:
            yield node.document(kind, own)


def _plain(document: DocumentStatus, *, pinned: bool, status: bool) -> dict[str, Any]:
    """As it is to be applied again: no more than was wished, unless more is asked for."""
    metadata: dict[str, Any] = {"name": document.metadata.name}
    if document.metadata.labels:
        metadata["labels"] = document.metadata.labels
    if pinned:
        metadata["version"] = document.metadata.version
    plain = {"apiVersion": document.apiVersion, "kind": document.kind, "metadata": metadata, "spec": document.spec}
    return plain | ({"status": document.status} if status else {})


def _split(name: str) -> tuple[str, str]:
    """A name alone is that of a service."""
    kind, slash, own = name.rpartition("/")
    return (kind, own) if slash else ("service", name)


def _wait_for(node: ControlClient, kind: str, name: str, wanted: str, deadline: float) -> DocumentStatus | None:
    """Its status once the condition is true; None once it is gone, where that is waited for. Raises DeadlineExceeded,
    ServiceFailed as soon as no waiting helps."""
    while True:
        try:
            found = node.document(kind, name)
        except DocumentNotFound:
            if wanted.lower() == "gone":
                return None
            raise
        condition = found.condition(wanted)
        if condition is not None and condition["status"]:
            return found
        why = (condition or found.condition("ready") or {}).get("message", "")
        reason = (condition or {}).get("reason", "")
        if wanted.lower() == "ready" and (found.status.get("phase") == "failed" or reason in _NEVER):
            raise ServiceFailed(f"{kind}/{name}: {why or reason}", service=name)
        if time.monotonic() >= deadline:
            raise DeadlineExceeded(text("wait.late", name=f"{kind}/{name}", condition=wanted, why=why or "-"))
        time.sleep(_POLL_S)
