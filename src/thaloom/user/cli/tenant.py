"""`thaloom tenant create|ls|show|set|rm`: who has services and keys of his own on this node, and how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from thaloom.base.units import format_bytes, parse_bytes
from thaloom.user.cli.command import Verbs, a_name, argument, option, verb
from thaloom.user.cli.completing import tenants as complete_tenants
from thaloom.user.cli.nearby import suggesting
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output, age
from thaloom.user.cli.several import do_each, raise_refusals
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.wire.control import Quota, Tenant

_HERE = "thaloom.user.cli.tenant:"
command = Verbs(
    "tenant",
    key="tenant",
    sections={
        "section.tenant": {
            "create": _HERE + "create",
            "ls": _HERE + "ls",
            "show": _HERE + "show",
            "set": _HERE + "set_quota",
            "rm": _HERE + "rm",
        }
    },
    aliases={"list": "ls", "remove": "rm", "new": "create"},
)
QUOTAS = {
    "services": "services",
    "replicas": "replicas",
    "memory": "memory_bytes",
    "keys": "keys",
    "requests-per-minute": "requests_per_minute",
    "tokens-per-minute": "tokens_per_minute",
    "concurrent": "concurrent",
}
"""What can be kept to, by the words of the command line. There is no other."""


def _quota(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for value in values:
        name, _, figure = value.partition("=")
        if name not in QUOTAS:
            known = ", ".join(QUOTAS)
            raise click.BadParameter(text("tenant.no_quota", name=name, known=known), ctx=context, param=parameter)
        try:
            found[QUOTAS[name]] = None if figure == "none" else parse_bytes(figure) if name == "memory" else int(figure)
        except ValueError as error:
            raise click.BadParameter(text("tenant.bad_quota", value=value), ctx=context, param=parameter) from error
    return found


@verb("tenant.create", changes=True)
@argument("name", type=a_name)
@option("--quota", "quota", multiple=True, callback=_quota, metavar="NAME=VALUE")
def create(output: Output, name: str, quota: dict[str, int | None]) -> None:
    from thaloom.edge.wire.control import Quota, TenantRequest

    with connect() as node:
        tenant = node.make_tenant(TenantRequest(name=name, quota=Quota.model_validate(quota)))
    output.document(tenant.model_dump())
    output.line(text("tenant.created", name=name))


@verb("tenant.set", changes=True)
@argument("name", type=a_name, shell_complete=complete_tenants)
@option("--quota", "quota", multiple=True, required=True, callback=_quota, metavar="NAME=VALUE")
def set_quota(output: Output, name: str, quota: dict[str, int | None]) -> None:
    from thaloom.edge.wire.control import Quota

    with connect() as node, suggesting(name, lambda: [tenant.name for tenant in node.tenants()]):
        present = node.tenant(name).quota
        tenant = node.set_quota(name, Quota.model_validate(present.model_dump() | quota))
    output.document(tenant.model_dump())
    _tell(output, tenant)


@verb("tenant.ls")
def ls(output: Output) -> None:
    with connect() as node:
        found = node.tenants()
    output.document({"tenants": [tenant.model_dump() for tenant in found]})
    if not found:
        output.note(text("tenant.none"))
        return
    rows = [
        [
            tenant.name,
            _of(str(tenant.services), tenant.quota.services),
            _of(str(tenant.replicas), tenant.quota.replicas),
            _memory(tenant),
            _of(str(tenant.keys), tenant.quota.keys),
            _figure(tenant.quota.requests_per_minute),
            _figure(tenant.quota.tokens_per_minute),
            _figure(tenant.quota.concurrent),
            age(tenant.created_at),
        ]
        for tenant in found
    ]
    head = ["name", "services", "replicas", "memory", "keys", "requests", "tokens", "concurrent", "age"]
    output.table([text(f"head.{word}") for word in head], rows, right=frozenset(range(1, 8)))


@verb("tenant.show")
@argument("name", type=a_name, shell_complete=complete_tenants)
def show(output: Output, name: str) -> None:
    with connect() as node, suggesting(name, lambda: [tenant.name for tenant in node.tenants()]):
        tenant = node.tenant(name)
    output.document(tenant.model_dump())
    _tell(output, tenant)


@verb("tenant.rm", changes=True)
@argument("names", type=a_name, nargs=-1, required=True, metavar="NAME...", shell_complete=complete_tenants)
def rm(output: Output, names: tuple[str, ...]) -> None:
    with connect() as node:

        def remove(name: str) -> str:
            with suggesting(name, lambda: [tenant.name for tenant in node.tenants()]):
                return node.remove_tenant(name).name

        removed, refused = do_each(node, names, remove)
    output.document({"removed": removed})
    for name in removed:
        output.line(text("tenant.removed", name=name))
    raise_refusals(refused, output)


def _tell(output: Output, tenant: Tenant) -> None:
    quota: Quota = tenant.quota
    facts = [
        ("services", _of(str(tenant.services), quota.services)),
        ("replicas", _of(str(tenant.replicas), quota.replicas)),
        ("memory", _memory(tenant)),
        ("keys", _of(str(tenant.keys), quota.keys)),
        ("requests", _figure(quota.requests_per_minute)),
        ("tokens", _figure(quota.tokens_per_minute)),
        ("concurrent", _figure(quota.concurrent)),
    ]
    output.facts([(text("head.name"), tenant.name), *((text(f"head.{word}"), value) for word, value in facts)])


def _memory(tenant: Tenant) -> str:
    limit = tenant.quota.memory_bytes
    return format_bytes(tenant.memory_bytes) + ("" if limit is None else f" / {format_bytes(limit)}")


def _of(has: str, limit: int | None) -> str:
    return has if limit is None else f"{has} / {limit}"


def _figure(limit: int | None) -> str:
    return ABSENT if limit is None else str(limit)
