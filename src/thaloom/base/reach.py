"""Where a call that leaves this machine may lead: pure rules over addresses and URLs.

A hub may hand a file's bytes over by redirecting to another host. What it may not do is lead us into a network that
it cannot see itself, or off an encrypted connection: then it would be our hand that reaches there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal["loopback", "private", "public"]
Origin = tuple[str, str, int]
_PORTS = {"http": 80, "https": 443}


def origin(url: str) -> Origin:
    """(scheme, host, port) of an http(s) URL. Raises ValueError for any other, one with a name and password too."""
    parts = urlsplit(url)
    scheme, host = parts.scheme.lower(), parts.hostname
    if scheme not in _PORTS or not host:
        raise ValueError(f"not an http or https URL: {url[:200]!r}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL may not hold a name or password")
    return scheme, host.lower().removesuffix("."), parts.port or _PORTS[scheme]


def kind_of(address: str) -> Kind:
    """What kind of place an IP address is. Raises ValueError if it is none."""
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(found, "ipv4_mapped", None)
    found = mapped or found
    if found.is_loopback or found.is_unspecified:
        return "loopback"
    return "public" if found.is_global and not found.is_multicast else "private"


def kind_of_all(addresses: Iterable[str]) -> Kind:
    """The least public of several: a name that leads home among other places leads home."""
    kinds = {kind_of(address) for address in addresses}
    return next((kind for kind in ("loopback", "private") if kind in kinds), "public")


def literal_kind(host: str) -> Kind | None:
    """The kind of a host whose name alone tells it, or None: it has to be looked up."""
    if host == "localhost" or host.endswith(".localhost"):
        return "loopback"
    try:
        return kind_of(host.strip("[]"))
    except ValueError:
        return None


def may_carry_secrets(url: str) -> bool:
    """Whether a token may travel there: encrypted, or without leaving this machine."""
    scheme, host, _ = origin(url)
    return scheme == "https" or literal_kind(host) == "loopback"


def why_not_follow(first: Origin, first_kind: Kind, following: Origin, following_kind: Kind) -> str | None:
    """Why a redirect from the place we asked to another is not followed; None if it is.

    Within one origin always. Otherwise to a place of the same kind or a public one, and over https, except between
    plain-http places of one kind that is not public: a mirror in a closed network, or a test.
    """
    if first == following:
        return None
    if following_kind not in (first_kind, "public"):
        return f"from a {first_kind} address to a {following_kind} one"
    if following[0] == "https":
        return None
    if first[0] == "http" and following_kind == first_kind != "public":
        return None
    return "off to an unencrypted connection"
