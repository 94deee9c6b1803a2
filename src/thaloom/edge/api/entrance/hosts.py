"""By which names this door may be asked for: what a Host or an Origin has to be.

On loopback these are loopback's names. Beyond it, also those that whoever runs the node gave it (in its certificate, in
`[door] names`), and the very address the connection came to: a page cannot make itself be served from that.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]@/\s]+)(:\d{1,5})?")


class Hosts:
    """Loopback's names, and others that may change while the door is open."""

    def __init__(self, names: Callable[[], Collection[str]] = tuple) -> None:
        """`names`: in lower case; `*.example.org` stands for every name one level below."""
        self._names = names

    def knows(self, host: str, server: str | None = None) -> bool:
        """Whether a Host header names this door. `server`: the address the connection came to."""
        name = name_of(host)
        if name is None:
            return False
        return is_loopback_name(name) or self._is_ours(name) or _is_address(name, server)

    def knows_origin(self, origin: str, server: str | None = None) -> bool:
        place = place_of(origin)
        return place is not None and self.knows(place, server)

    def _is_ours(self, name: str) -> bool:
        names = self._names()
        if not names:
            return False
        plain = name.lower().removesuffix(".")
        return plain in names or "*." + plain.partition(".")[2] in names


LOOPBACK = Hosts()


def name_of(host: str) -> str | None:
    """The name or address in a Host header (`name`, `address` or `[address]`, with or without a port)."""
    match = _HOST.fullmatch(host)
    return None if match is None else match[1].strip("[]")


def place_of(origin: str) -> str | None:
    """Host and port of an Origin that can be a page's; None for any other."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    rest = parts.path + parts.query + parts.fragment
    return parts.netloc if parts.scheme in ("http", "https") and rest == "" else None


def is_loopback(host: str) -> bool:
    """Whether a Host header names loopback."""
    return LOOPBACK.knows(host)


def is_loopback_name(name: str) -> bool:
    """`localhost`, an address in 127.0.0.0/8, or ::1; nothing that would have to be looked up."""
    if name.lower().removesuffix(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback


def is_loopback_origin(origin: str) -> bool:
    return LOOPBACK.knows_origin(origin)


def _is_address(name: str, server: str | None) -> bool:
    try:
        return server is not None and ipaddress.ip_address(name) == _plain(ipaddress.ip_address(server))
    except ValueError:
        return False


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """A socket of both kinds tells IPv4 addresses as IPv6 ones."""
    return getattr(address, "ipv4_mapped", None) or address
