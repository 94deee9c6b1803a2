"""Which node a client believes: one whose certificate somebody it trusts has signed, or the very one that is pinned.

    THALOOM_CA            a file with the certificates that are trusted: the node's own (`thaloom cert show --pem`), or
                          those of an authority. Without it: those this machine trusts anyway.
    THALOOM_FINGERPRINT   SHA-256 of the node's certificate, as `thaloom cert show` tells it; several with commas. It
                          takes the place of authority, name and time; with THALOOM_CA as well, both must hold.

Nothing is sent, no key and no prompt, before the certificate was found right.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from thaloom.base.errors import (
    BadParameter,
    CertificateExpired,
    HttpsNeeded,
    NodeNotRunning,
    ThaloomError,
    UnknownAuthority,
    WrongFingerprint,
    WrongHostName,
)

# X509_verify_cert's reasons. Source: openssl/x509_vfy.h
_EXPIRED = {9: "does not hold yet", 10: "has expired"}
_OTHER_NAME = (62, 64)
_LOOK_S = 2.0
"""For a handshake by which is only found out whether somebody speaks TLS."""
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whom a client believes. Both empty: whom this machine believes."""

    ca: Path | None = None
    fingerprints: tuple[str, ...] = ()
    """64 hexadecimal digits each, in lower case."""

    @property
    def is_default(self) -> bool:
        return self.ca is None and not self.fingerprints


def trust(ca: str | Path | None, fingerprint: str | None) -> Trust:
    """Raises BadParameter that names the wrong one."""
    pins = tuple(_pin(one) for one in fingerprint.split(",")) if fingerprint else ()
    return Trust(ca=None if not ca else Path(ca).expanduser(), fingerprints=pins)


def _pin(text: str) -> str:
    """As openssl, browsers and we write it."""
    plain = text.strip().lower().removeprefix("sha256:").replace(":", "").replace(" ", "")
    if len(plain) != 64 or not set(plain) <= set("0123456789abcdef"):
        raise BadParameter(
            f"a fingerprint is the SHA-256 of a certificate, 64 hexadecimal digits; {text.strip()!r} is not",
            param="THALOOM_FINGERPRINT",
        )
    return plain


class _NotPinned(ssl.SSLError):
    """The handshake was sound, and the certificate is not the one that is pinned."""

    def __init__(self, fingerprint: str) -> None:
        super().__init__(f"the certificate's fingerprint is {fingerprint}")
        self.fingerprint = fingerprint


def client_context(trusted: Trust) -> ssl.SSLContext:
    """For connections that believe only those. Raises BadParameter where the file of certificates is none."""
    context = ssl.create_default_context() if trusted.ca is None and not trusted.fingerprints else _bare()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if trusted.ca is not None:
        try:
            context.load_verify_locations(cafile=trusted.ca)
        except (OSError, ssl.SSLError) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            none = f"{str(trusted.ca)!r} holds no certificates in PEM: {why}"
            raise BadParameter(none, param="THALOOM_CA") from error
    elif trusted.fingerprints:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the pin says more than any authority could
    if trusted.fingerprints:
        _pin_to(context, trusted.fingerprints)
    return context


def _bare() -> ssl.SSLContext:
    """With nobody trusted: loading this machine's authorities takes 50 ms, and they have no say here."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _pin_to(context: ssl.SSLContext, pins: tuple[str, ...]) -> None:
    """Have every handshake of the context end in a look at the certificate, before anybody can send anything."""

    def look(shown: bytes | None) -> None:
        found = hashlib.sha256(shown or b"").hexdigest()
        if not any(hmac.compare_digest(found, pin) for pin in pins):
            raise _NotPinned(found)

    class PinnedSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            look(self.getpeercert(binary_form=True))

    class PinnedObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            look(self.getpeercert(binary_form=True))

    context.sslsocket_class = PinnedSocket
    context.sslobject_class = PinnedObject


def not_trusted(error: BaseException, url: str) -> ThaloomError | None:
    """What kept a client from believing the node, where that is what an error of its library came from."""
    for cause in _causes(error):
        if isinstance(cause, _NotPinned):
            return WrongFingerprint(
                f"the certificate of {url} has the fingerprint {cause.fingerprint}, and another is pinned",
                fingerprint=cause.fingerprint,
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _unverified(cause, url)
        if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
            return NodeNotRunning(f"what listens at {url} does not speak TLS (a door on loopback is asked by http://)")
    return None


def _unverified(error: ssl.SSLCertVerificationError, url: str) -> ThaloomError:
    code, why = getattr(error, "verify_code", None), getattr(error, "verify_message", str(error))
    if code in _EXPIRED:
        return CertificateExpired(f"the certificate of {url} {_EXPIRED[code]}")
    if code in _OTHER_NAME:
        return WrongHostName(f"the certificate of {url} is for other names ({why})")
    return UnknownAuthority(f"nobody this client trusts has signed the certificate of {url} ({why})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        left += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            left += one.exceptions


def raise_if_https_needed(error: BaseException, url: str) -> None:
    """Raises HttpsNeeded where plain HTTP was sent to what speaks TLS, which only closes then and says nothing: found
    out by a handshake, in which nothing is believed and nothing told."""
    parts = urlsplit(url)
    nobody_there = (ConnectionRefusedError, TimeoutError, socket.gaierror)
    if parts.scheme != "http" or any(isinstance(cause, nobody_there) for cause in _causes(error)):
        return
    context = _bare()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((parts.hostname or "", parts.port or 80), timeout=_LOOK_S) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            pass
    except (OSError, ValueError):  # an ssl.SSLError is an OSError
        return
    raise HttpsNeeded(f"what listens at {url} speaks TLS: ask by https://", url=url) from error


def raise_if_not_trusted(error: BaseException, url: str) -> None:
    """Raises the leaf for it; returns where the certificate is not what was wrong."""
    if (leaf := not_trusted(error, url)) is not None:
        raise leaf from error
