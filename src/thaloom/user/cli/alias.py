"""`thaloom alias set|ls|rm`: names that stand for services, with shares and a canary."""

from __future__ import annotations

import click

from thaloom.user.cli.command import Verbs, a_name, argument, option, verb
from thaloom.user.cli.completing import aliases as complete_aliases
from thaloom.user.cli.completing import services as complete_services
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output, paint
from thaloom.user.cli.several import do_each, raise_refusals
from thaloom.user.cli.texts import text

command = Verbs(
    "alias",
    key="alias",
    sections={
        "section.alias": {
            "set": "thaloom.user.cli.alias:set_alias",
            "ls": "thaloom.user.cli.alias:ls",
            "rm": "thaloom.user.cli.alias:rm",
        }
    },
    aliases={"list": "ls", "remove": "rm"},
)


def _share(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    shares: dict[str, int] = {}
    for value in values:
        service, _, weight = value.partition("=")
        if not service or not (weight or "1").isascii() or not (weight or "1").isdigit() or service in shares:
            raise click.BadParameter(text("alias.bad_share", value=value), ctx=context, param=parameter)
        shares[service] = int(weight or "1")
    return shares


@verb("alias.set", changes=True)
@argument("name", type=a_name)
@argument("services", nargs=-1, required=True, metavar="SERVICE[=WEIGHT]...", callback=_share,
          shell_complete=complete_services)  # fmt: skip
@option("--canary", type=a_name, metavar="SERVICE", shell_complete=complete_services)
def set_alias(output: Output, name: str, services: dict[str, int], canary: str | None) -> None:
    from thaloom.edge.wire.control import AliasRequest

    with connect() as node:
        alias = node.put_alias(name, AliasRequest(services=services, canary=canary))
    output.document(alias.model_dump())
    shares = ", ".join(f"{share.service}={share.weight}" for share in alias.shares)
    output.line(text("alias.set", name=alias.name, shares=shares))


@verb("alias.ls")
def ls(output: Output) -> None:
    with connect() as node:
        found = node.aliases()
    output.document({"aliases": [alias.model_dump() for alias in found]})
    if not found:
        output.note(text("alias.none"))
        return
    head = [text(f"head.{word}") for word in ("name", "services", "canary")]
    rows = [
        [alias.name, ", ".join(f"{share.service}={share.weight}" for share in alias.shares), alias.canary or ABSENT]
        for alias in found
    ]
    output.table(head, rows)
    for alias in found:
        if alias.returned:
            told = text("alias.returned", name=alias.name, service=alias.canary or "", reason=alias.returned)
            output.line(paint(told, "yellow"))


@verb("alias.rm", changes=True)
@argument("names", type=a_name, nargs=-1, required=True, metavar="NAME...", shell_complete=complete_aliases)
def rm(output: Output, names: tuple[str, ...]) -> None:
    with connect() as node:

        def remove(name: str) -> str:
            with suggesting(name, lambda: [alias.name for alias in node.aliases()]):
                return node.remove_alias(name).name

        removed, refused = do_each(node, names, remove)
    output.document({"removed": removed})
    for name in removed:
        output.line(text("alias.removed", name=name))
    raise_refusals(refused, output)
