"""`thaloom cert make|show|renew|import`: the certificate that the node's door shows beyond this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from thaloom.user.cli.command import Verbs, argument, option, verb
from thaloom.user.cli.node import connect
from thaloom.user.cli.output import ABSENT, Output, date
from thaloom.user.cli.texts import text

if TYPE_CHECKING:
    from thaloom.edge.wire.control import Certificate

_HERE = "thaloom.user.cli.cert:"
command = Verbs(
    "cert",
    key="cert",
    sections={
        "section.cert": {
            "make": _HERE + "make",
            "show": _HERE + "show",
            "renew": _HERE + "renew",
            "import": _HERE + "take_over",
        }
    },
    aliases={"new": "make", "status": "show"},
)
DAYS = click.IntRange(1, 3650)


@verb("cert.make", changes=True)
@option("--name", "names", multiple=True, metavar="NAME")
@option("--days", type=DAYS, default=365, metavar="N")
def make(output: Output, names: tuple[str, ...], days: int) -> None:
    from thaloom.edge.wire.control import CertificateRequest

    with connect() as node:
        made = node.make_certificate(CertificateRequest(names=list(names) or None, days=days))
    _tell(output, made, text("cert.made", names=", ".join(made.names), until=_moment(made.not_after)))


@verb("cert.renew", changes=True)
@option("--name", "names", multiple=True, metavar="NAME")
@option("--days", type=DAYS, default=365, metavar="N")
def renew(output: Output, names: tuple[str, ...], days: int) -> None:
    from thaloom.edge.wire.control import CertificateRequest

    with connect() as node:
        made = node.renew_certificate(CertificateRequest(names=list(names) or None, days=days))
    _tell(output, made, text("cert.renewed", until=_moment(made.not_after)))


@verb("cert.import", changes=True, near=True)
@argument("certificate", type=click.Path(dir_okay=False))
@argument("key", type=click.Path(dir_okay=False), required=False)
def take_over(output: Output, certificate: str, key: str | None) -> None:
    from thaloom.edge.wire.control import ImportCertificateRequest

    place = str(Path(certificate).expanduser().absolute())
    key_place = None if key is None else str(Path(key).expanduser().absolute())
    with connect() as node:
        made = node.import_certificate(ImportCertificateRequest(certificate=place, key=key_place))
    _tell(output, made, text("cert.imported", names=", ".join(made.names), until=_moment(made.not_after)))


@verb("cert.show")
@option("--pem", is_flag=True)
def show(output: Output, pem: bool) -> None:
    with connect() as node:
        found = node.certificate()
    output.document(found.model_dump())
    if pem and found.pem is not None:
        output.line(found.pem.removesuffix("\n"))
        return
    if found.fingerprint is None:
        output.line(text("cert.none"))
    facts = [
        ("fingerprint", found.fingerprint or ABSENT),
        ("cert_names", ", ".join(found.names) or ABSENT),
        ("until", _moment(found.not_after)),
        ("issuer", text("cert.self_signed") if found.self_signed else found.issuer or ABSENT),
        ("cert_origin", found.origin),
        ("tls", text("truth.yes" if found.serving else "truth.no")),
    ]
    if found.problem is not None:
        facts.append(("problem_why", found.problem))
    output.facts([(text(f"head.{word}"), value) for word, value in facts])


def _tell(output: Output, made: Certificate, done: str) -> None:
    output.document(made.model_dump())
    output.line(made.fingerprint or ABSENT)
    output.note(done)
    output.note(text("cert.clients"))
    if not made.serving:
        output.note(text("cert.not_serving"))
    elif made.shown is not None and made.shown != made.fingerprint:
        output.note(text("cert.not_shown"))


def _moment(seconds: float | None) -> str:
    return ABSENT if seconds is None else date(seconds)
