"""How the door speaks TLS: its settings, and what OpenSSL is told."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from thaloom.base.errors import BadParameter, CertificateMissing, CertificateUnusable
from thaloom.kernel.trust.certificates import Pair, check_names, read_files

OWN_PAIR = "door.pem"
"""The node's own pair, in its folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorConfig:
    """The table `[door]` of config.toml. What it says takes effect with a reload."""

    tls_minimum: Literal["1.2", "1.3"] = "1.3"
    """The oldest version spoken. 1.2 for clients that are years behind; it shows the certificate to who listens."""
    certificate: str = ""
    """Absolute path of a certificate in PEM, with what signed it. Empty: the node's own (`thaloom cert make`)."""
    key: str = ""
    """Absolute path of its key, readable by few. Empty: it is in the file of the certificate."""
    names: tuple[str, ...] = ()
    """Further names and addresses under which clients may ask for this door (Host, Origin). Those in the certificate
    count anyway. Default none: any name that is let in is one that a foreign page may take."""

    def __post_init__(self) -> None:
        for name in ("certificate", "key"):
            if (path := getattr(self, name)) and not Path(path).is_absolute():
                raise BadParameter(f"{name} must be an absolute path", param=f"door.{name}")
        if self.key and not self.certificate:
            raise BadParameter("key is given and certificate is not", param="door.key")
        if self.names:
            check_names(self.names)

    def read(self, home: Path) -> Pair:
        """The pair that is to be in force. Raises CertificateMissing, CertificateUnusable, Forbidden,
        DriverUnavailable."""
        if self.certificate:
            return read_files(Path(self.certificate), Path(self.key) if self.key else None)
        try:
            return read_files(home / OWN_PAIR, None)
        except CertificateMissing as error:
            raise CertificateMissing(
                "this node has no certificate: make one on loopback (thaloom cert make), or name one in config.toml "
                "(certificate and key in [door])"
            ) from error


def server_context(pair: Pair, minimum: Literal["1.2", "1.3"]) -> ssl.SSLContext:
    """For handshakes from now on. Raises CertificateUnusable where OpenSSL does not take the pair."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if minimum == "1.2" else ssl.TLSVersion.TLSv1_3
    # Of 1.2 only what 1.3 kept: forward secrecy and authenticated ciphers. Source: RFC 9325, 4.2.
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    # From memory: OpenSSL reads keys from files only, and a second copy on the disk would be one to forget.
    descriptor = os.memfd_create("pair", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair.text)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise CertificateUnusable(f"OpenSSL does not take the certificate: {error.reason or error}") from error
    finally:
        os.close(descriptor)
    return context
