"""`thaloom token create|ls|rm`: keys that let clients in at the door, and what their holders may do."""

from __future__ import annotations

import click

from thaloom.base.units import parse_duration
from thaloom.user.cli.command import Verbs, a_name, argument, option, verb
from thaloom.user.cli.completing import keys as complete_keys
from thaloom.user.cli.completing import services as complete_services
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output, age, count, date
from thaloom.user.cli.several import do_each, raise_refusals
from thaloom.user.cli.texts import text

_HERE = "thaloom.user.cli.token:"
command = Verbs(
    "token",
    key="token",
    sections={"section.token": {"create": _HERE + "create", "ls": _HERE + "ls", "rm": _HERE + "rm"}},
    aliases={"list": "ls", "remove": "rm", "new": "create"},
)
POSITIVE = click.IntRange(min=1)


def _duration(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx=context, param=parameter) from error


@verb("token.create", changes=True)
@argument("name", type=a_name)
@option("--requests-per-minute", type=POSITIVE, metavar="N")
@option("--tokens-per-minute", type=POSITIVE, metavar="N")
@option("--concurrent", type=POSITIVE, metavar="N")
@option("--model", "models", type=a_name, multiple=True, metavar="NAME", shell_complete=complete_services)
@option("--priority", type=click.Choice(["high", "normal", "low"]), default="normal")
@option("--expires", "expires_in_s", callback=_duration, metavar="DURATION")
def create(
    output: Output,
    name: str,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    concurrent: int | None,
    models: tuple[str, ...],
    priority: str,
    expires_in_s: float | None,
) -> None:
    from thaloom.edge.wire.control import KeyRequest

    request = KeyRequest.model_validate(
        {
            "name": name,
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "concurrent": concurrent,
            "models": list(models) or None,
            "priority": priority,
            "expires_in_s": expires_in_s,
        }
    )
    with connect() as node:
        made = node.make_key(request)
        required = node.keys().required
    output.document(made.model_dump())
    output.line(made.secret)
    output.note(text("token.created", name=name))
    output.note(text("token.required" if required else "token.not_required"))


@verb("token.ls")
def ls(output: Output) -> None:
    with connect() as node:
        found = node.keys()
    output.document(found.model_dump())
    if not found.keys:
        output.note(text("token.none"))
        return
    head = ["name", "key", "requests", "tokens", "concurrent", "models", "priority", "expires", "age"]
    rows = [
        [
            key.name,
            f"sk-th-{key.id}-...",
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
    output.table([text(f"head.{word}") for word in head], rows, right=frozenset({2, 3, 4}))
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
