"""Certificates of a node's door: read, checked against their key, made. The only place that reads X.509.

A *pair* is one PEM text: the key, the certificate, and whatever signed it up to a root that clients know. One text, so
that the two are never of different days.
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thaloom.base.errors import BadParameter, CertificateMissing, CertificateUnusable, DriverUnavailable, Forbidden

if TYPE_CHECKING:
    from cryptography.x509 import Certificate as X509

DAY_S = 86_400.0
LIFETIME_DAYS = 365
MAX_LIFETIME_DAYS = 3650
MAX_NAMES = 100
MIN_RSA_BITS = 2048
"""Source: NIST SP 800-131A Rev. 2: fewer are disallowed."""
_MAX_FILE_BYTES = 1024 * 1024
_SKEW_S = 300.0
"""A new certificate holds from a little earlier: clocks of clients may be late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a certificate says."""

    fingerprint: str
    """SHA-256 of its DER form, 64 hexadecimal digits: what THALOOM_FINGERPRINT pins."""
    names: tuple[str, ...]
    """DNS names and addresses it is for."""
    not_before: float
    not_after: float
    """Seconds since the epoch."""
    issuer: str
    self_signed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    certificate: Certificate
    text: bytes = field(repr=False)
    """PEM: key and chain."""
    public: str
    """PEM of the chain alone, for clients (THALOOM_CA)."""


def read_files(certificate: Path, key: Path | None) -> Pair:
    """The pair in two files, or (`key` None) in one. Raises CertificateMissing, CertificateUnusable (both name the
    file), Forbidden where any user may read the key, DriverUnavailable."""
    chain = _read(certificate, secret=key is None)
    return read_pair(chain, chain if key is None else _read(key, secret=True), str(certificate))


def read_pair(chain: bytes, key: bytes, origin: str) -> Pair:
    """Raises CertificateUnusable: no PEM, no key, of each other's, of no name, or weak. Not whether it holds today."""
    x509 = _library()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        found: list[X509] = x509.load_pem_x509_certificates(chain)
    except ValueError as error:
        raise CertificateUnusable(f"{origin!r} holds no certificate in PEM: {error}") from error
    try:
        secret: Any = serialization.load_pem_private_key(key, password=None)
    except TypeError as error:
        raise CertificateUnusable(f"the key of {origin!r} is locked with a passphrase; give it without one") from error
    except Exception as error:
        raise CertificateUnusable(f"the key of {origin!r} cannot be read: {error}") from error
    leaf = found[0]
    try:
        matches = secret.public_key() == leaf.public_key()
    except Exception as error:
        raise CertificateUnusable(f"{origin!r} has a public key of no kind known here: {error}") from error
    if not matches:
        raise CertificateUnusable(f"the key is not that of the certificate {origin!r}")
    if isinstance(secret, rsa.RSAPrivateKey) and secret.key_size < MIN_RSA_BITS:
        few = f"{origin!r} has an RSA key of {secret.key_size} bits"
        raise CertificateUnusable(f"{few}; at least {MIN_RSA_BITS} are safe")
    told = describe(leaf, origin)
    encoding = serialization.Encoding.PEM
    public = b"".join(one.public_bytes(encoding) for one in found)
    private = secret.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Pair(certificate=told, text=private + public, public=public.decode())


def describe(leaf: X509, origin: str) -> Certificate:
    """Raises CertificateUnusable for one without names: no client of today takes the common name for one."""
    x509 = _library()
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        told = (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))
    except (x509.ExtensionNotFound, ValueError):
        told = ()
    if not told:
        raise CertificateUnusable(f"{origin!r} names no host (it has no subjectAltName)")
    return Certificate(
        fingerprint=hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
        names=told,
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        issuer=leaf.issuer.rfc4514_string(),
        self_signed=leaf.issuer == leaf.subject,
    )


def require_in_force(pair: Pair, now: float, origin: str) -> None:
    """Raises CertificateUnusable where every client would turn away."""
    certificate = pair.certificate
    if now >= certificate.not_after:
        raise CertificateUnusable(f"{origin!r} has expired on {date(certificate.not_after)}")
    if now < certificate.not_before:
        raise CertificateUnusable(f"{origin!r} does not hold before {date(certificate.not_before)}")


def make_pair(names: Sequence[str], *, now: float, lifetime_days: int = LIFETIME_DAYS) -> Pair:
    """A new key (P-256: what every client of today takes) with a certificate signed by itself. It signs no other: who
    trusts it trusts this key alone. Raises BadParameter, DriverUnavailable."""
    x509 = _library()
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    told = check_names(names)
    if not 1 <= lifetime_days <= MAX_LIFETIME_DAYS:
        raise BadParameter(f"days must be 1 to {MAX_LIFETIME_DAYS}, not {lifetime_days}", param="days")
    key = ec.generate_private_key(ec.SECP256R1())
    # The serial number in the name tells two certificates of one node apart for programs that look issuers up by name.
    serial = x509.random_serial_number()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, f"Thaloom node {told[0]}"[:64]),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:x}"[:16]),
        ]
    )
    begin = datetime.datetime.fromtimestamp(int(now - _SKEW_S), tz=datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=lifetime_days))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in told]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = certificate.public_bytes(encoding)
    return Pair(certificate=describe(certificate, "the new certificate"), text=private + public, public=public.decode())


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Each once, in their order. Raises BadParameter for what is neither an address nor a DNS name."""
    told = tuple(dict.fromkeys(name.strip().lower().removesuffix(".") for name in names))
    if not 1 <= len(told) <= MAX_NAMES:
        raise BadParameter(f"a certificate is for 1 to {MAX_NAMES} names, not {len(told)}", param="names")
    for name in told:
        if not _is_name(name):
            raise BadParameter(f"{name!r} is neither an address nor a DNS name", param="names")
    return told


def date(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _is_name(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        parts = name.removeprefix("*.").split(".")
        plain = all(part and len(part) <= 63 and set(part) <= _LETTERS and part.strip("-") == part for part in parts)
        return plain and len(name) <= 253 and not parts[-1].isdigit()
    return True


_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def _general_name(name: str) -> Any:
    x509 = _library()
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _read(path: Path, *, secret: bool) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise CertificateMissing(f"there is no file {str(path)!r}") from error
    except OSError as error:
        raise CertificateUnusable(f"{str(path)!r} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CertificateUnusable(f"{str(path)!r} is not a file")
        if secret and status.st_mode & 0o007:
            raise Forbidden(f"{str(path)!r} holds a key that any user of this machine may read (chmod o= it)")
        with open(descriptor, "rb", closefd=False) as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(text) > _MAX_FILE_BYTES:
        raise CertificateUnusable(f"{str(path)!r} has more than {_MAX_FILE_BYTES} bytes")
    return text


def _library() -> Any:
    try:
        from cryptography import x509
    except ImportError as error:
        raise DriverUnavailable("TLS is not installed: pip install 'thaloom[tls]'") from error
    return x509
