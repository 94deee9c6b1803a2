"""Names the shell may offer while a command is typed: of models, services, jobs, keys and devices of a running node.

Where no node answers nothing is said: a person who presses Tab does not want to read an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import click

from thaloom.base.errors import ThaloomError

if TYPE_CHECKING:
    from thaloom.edge.client.control import ControlClient

TIMEOUT_S = 3.0
COMES_WITH_US = ("tiny",)
"""Offered before there is a node to ask. Where its files lie, the node knows."""


def models(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return _offer(incomplete, lambda node: [model.name for model in node.models()], always=COMES_WITH_US)


def services(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return _offer(incomplete, lambda node: [service.name for service in node.services()])


def aliases(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return _offer(incomplete, lambda node: [alias.name for alias in node.aliases()])


def logs(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return _offer(incomplete, lambda node: [service.name for service in node.services()], always=("daemon", "door"))


def keys(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return _offer(incomplete, lambda node: [key.name for key in node.keys().keys])


def documents(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return _offer(incomplete, lambda node: [f"{one.kind.lower()}/{one.metadata.name}" for one in node.documents()])


def jobs(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return _offer(incomplete, lambda node: [job.name for job in node.jobs(limit=1000).jobs])


def devices(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return _offer(incomplete, lambda node: [device.id for device in node.devices().devices])


def _offer(
    incomplete: str, names: Callable[[ControlClient], Iterable[str]], *, always: Iterable[str] = ()
) -> list[str]:
    from thaloom.edge.client.control import ControlClient

    known = set(always)
    with contextlib.suppress(ThaloomError), ControlClient(timeout_s=TIMEOUT_S) as node:
        known.update(names(node))
    return sorted(name for name in known if name.startswith(incomplete))
