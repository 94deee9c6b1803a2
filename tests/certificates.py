"""Certificates for tests: pairs on the disk, and the part of a ControlPlane that is about them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from thaloom.kernel.state.types import CertificateStatus
from thaloom.kernel.trust.certificates import Pair, make_pair

NAMES = ("localhost", "127.0.0.1", "::1")


def pair(*names: str, age_s: float = 0.0, days: int = 30) -> Pair:
    """One that was made `age_s` ago."""
    return make_pair(names or NAMES, now=time.time() - age_s, lifetime_days=days)


def write_pair(folder: Path, made: Pair) -> tuple[Path, Path]:
    """As two files, as authorities hand them out: the certificate, and its key."""
    begin = made.text.index(b"-----BEGIN CERTIFICATE")
    certificate, key = folder / "node.crt", folder / "node.key.pem"
    certificate.write_bytes(made.text[begin:])
    key.write_bytes(made.text[:begin])
    key.chmod(0o600)
    return certificate, key


def write_own(home: Path, made: Pair) -> Path:
    """As the node keeps its own."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / "door.pem"
    path.write_bytes(made.text)
    path.chmod(0o600)
    return path


def write_ca(folder: Path, made: Pair) -> Path:
    """What clients are given."""
    path = folder / "ca.pem"
    path.write_text(made.public)
    return path


class FakeCertificates:
    """The part of a ControlPlane that is about the door's certificate."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_for: list[tuple[str, object, object]] = []

    async def certificate(self) -> CertificateStatus:
        return CertificateStatus(
            serving=True,
            own=True,
            origin="/home/door.pem",
            fingerprint="ab" * 32,
            names=("node", "10.0.0.1"),
            not_before=1.0,
            not_after=2.0,
            issuer="CN=node",
            self_signed=True,
            shown="ab" * 32,
            problem=None,
            pem="-----BEGIN CERTIFICATE-----\n",
        )

    async def make_certificate(self, names: Sequence[str] | None, days: int) -> CertificateStatus:
        self.asked_for.append(("make", names, days))
        return await self.certificate()

    async def renew_certificate(self, names: Sequence[str] | None, days: int) -> CertificateStatus:
        self.asked_for.append(("renew", names, days))
        return await self.certificate()

    async def import_certificate(self, certificate: str, key: str | None) -> CertificateStatus:
        self.asked_for.append(("import", certificate, key))
        return await self.certificate()
