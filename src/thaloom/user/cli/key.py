"""`thaloom key make|rotate|show`: the master key, which opens encrypted models."""

from __future__ import annotations

from pathlib import Path

import click

from thaloom.user.cli.command import Verbs, option, verb
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output
from thaloom.user.cli.secret import asked, read_all
from thaloom.user.cli.texts import text

_HERE = "thaloom.user.cli.key:"
command = Verbs(
    "key",
    key="key",
    sections={"section.key": {"make": _HERE + "make", "rotate": _HERE + "rotate", "show": _HERE + "show"}},
    aliases={"new": "make", "status": "show"},
)


@verb("key.make", changes=True)
def make(output: Output) -> None:
    with connect() as node:
        made = node.make_master_key()
    output.document(made.model_dump())
    output.line(text("key.made", origin=made.origin))


@verb("key.rotate", changes=True)
@option("--key-file", type=click.Path(dir_okay=False), metavar="FILE")
@option("--passphrase", is_flag=True)
@option("--passphrase-fd", type=click.IntRange(min=0), metavar="N")
def rotate(output: Output, key_file: str | None, passphrase: bool, passphrase_fd: int | None) -> None:
    from thaloom.edge.wire.control import RotateRequest

    secret = read_all(passphrase_fd) if passphrase_fd is not None else asked(twice=True) if passphrase else None
    place = None if key_file is None else str(Path(key_file).expanduser().absolute())
    with connect() as node:
        made = node.rotate_master_key(RotateRequest(passphrase=secret, key_file=place))
    output.document(made.model_dump())
    output.line(text("key.rotated", origin=made.origin))


@verb("key.show")
def show(output: Output) -> None:
    with connect() as node:
        found = node.encryption()
    output.document(found.model_dump())
    facts = [("ready", text("truth.yes" if found.ready else "truth.no")), ("origin", found.origin or ABSENT)]
    if found.problem is not None:
        facts.append(("problem_why", found.problem))
    facts.append(("ring", found.ring or ABSENT))
    if found.memory is not None:
        key = "key.locked" if found.locked else "key.not_locked"
        facts.append(("key_memory", text(key, memory=found.memory)))
    output.facts([(text(f"head.{word}"), value) for word, value in facts])
