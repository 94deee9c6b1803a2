"""`thaloom token create|narrow|ls|rm|whoami`: keys that let clients in, and what their holders may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from thaloom.base.access import ROLES, SCOPES
from thaloom.base.units import parse_duration
from thaloom.user.cli.command import Verbs, a_name, argument, option, verb
from thaloom.user.cli.completing import keys as complete_keys
from thaloom.user.cli.completing import services as complete_services
from thaloom.user.cli.completing import tenants as complete_tenants
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output, age, count, date
from thaloom.user.cli.several import do_each, raise_refusals
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.wire.control import NewKey

_HERE = "thaloom.user.cli.token:"
command = Verbs(
    "token",
    key="token",
    sections={"section.token": {name: _HERE + name for name in ("create", "narrow", "ls", "rm", "whoami")}},
    aliases={"list": "ls", "remove": "rm", "new": "create"},
)
POSITIVE = click.IntRange(min=1)


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=context, param=parameter) from error


def _asked(function: Callable[..., None]) -> Callable[..., None]:
    """What a key may be asked to be."""
    for add in reversed(
        (
            option("--role", type=click.Choice(ROLES)),
            option("--tenant", type=a_name, metavar="NAME", shell_complete=complete_tenants),
            option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True),
            option("--requests-per-minute", type=POSITIVE, metavar="N"),
            option("--tokens-per-minute", type=POSITIVE, metavar="N"),
            option("--concurrent", type=POSITIVE, metavar="N"),
            option("--model", "models", type=a_name, multiple=True, metavar="NAME", shell_complete=complete_services),
            option("--priority", type=click.Choice(["high", "normal", "low"])),
            option("--expires", "expires_in_s", callback=_duration, metavar="DURATION"),
        )
    ):
        function = add(function)
    return function


@verb("token.create", changes=True)
@argument("name", type=a_name)
@_asked
def create(output: Output, name: str, **asked: Any) -> None:
    from thaloom.edge.wire.control import KeyRequest

    request = KeyRequest.model_validate(_fields(name, asked))
    with connect() as node:
        made = node.make_key(request)
        required = node.keys().required
    _show(output, made)
    output.note(text("token.required" if required else "token.not_required"))


@verb("token.narrow", changes=True)
@argument("parent", type=a_name, shell_complete=complete_keys)
@argument("name", type=a_name)
@_asked
def narrow(output: Output, parent: str, name: str, **asked: Any) -> None:
    from thaloom.edge.wire.control import NarrowRequest

    request = NarrowRequest.model_validate(_fields(name, asked))
    with connect() as node, suggesting(parent, lambda: [key.name for key in node.keys().keys]):
        made = node.narrow_key(parent, request)
    _show(output, made)
    output.note(text("token.narrowed", name=made.key.name, parent=parent))


def _fields(name: str, asked: dict[str, Any]) -> dict[str, Any]:
    fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asked.items()}
    return {"name": name} | {key: value for key, value in fields.items() if value not in (None, [])}


def _show(output: Output, made: NewKey) -> None:
    output.document(made.model_dump())
    output.line(made.secret)
    output.note(text("token.created", name=made.key.name))


@verb("token.whoami")
def whoami(output: Output) -> None:
    with connect() as node:
        me = node.whoami()
    output.document(me.model_dump())
    scopes = text("token.all_scopes") if me.scopes is None else ", ".join(me.scopes)
    output.line(text("token.whoami", name=f"{me.kind}:{me.name}", role=me.role, scopes=scopes))
    if me.tenant is not None:
        output.line(text("token.whoami_tenant", tenant=me.tenant.name))


@verb("token.ls")
def ls(output: Output) -> None:
    with connect() as node:
        found = node.keys()
    output.document(found.model_dump())
    if not found.keys:
        output.note(text("token.none"))
        return
    head = ["name", "key", "role", "tenant", "scopes", "parent", "requests", "tokens", "concurrent", "models",
            "priority", "expires", "age"]  # fmt: skip
    rows = [
        [
            key.name,
            f"sk-th-{key.id}-...",
            key.role,
            key.tenant or ABSENT,
            text("token.all_scopes") if key.scopes is None else ",".join(key.scopes),
            key.parent or ABSENT,
            count(key.limits.requests_per_minute),
            count(key.limits.tokens_per_minute),
            count(key.limits.concurrent),
            ABSENT if key.limits.models is None else ", ".join(key.limits.models),
            key.limits.priority,
            ABSENT if key.expires_at is None else date(key.expires_at),
            age(key.created_at),
        ]
        for key in found.keys
    ]
    output.table([text(f"head.{word}") for word in head], rows, right=frozenset({6, 7, 8}))
    if not found.required:
        output.note(text("token.not_required"))


@verb("token.rm", changes=True)
@argument("names", type=a_name, nargs=-1, required=True, metavar="NAME...", shell_complete=complete_keys)
def rm(output: Output, names: tuple[str, ...]) -> None:
    with connect() as node:

        def remove(name: str) -> str:
            with suggesting(name, lambda: [key.name for key in node.keys().keys]):
                return node.remove_key(name).name

        removed, refused = do_each(node, names, remove)
    output.document({"removed": removed})
    for name in removed:
        output.line(text("token.removed", name=name))
    raise_refusals(refused, output)
