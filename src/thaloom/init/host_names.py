"""What this machine is called: the names and addresses a certificate of its own is for."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from pathlib import Path

from thaloom.base.errors import BadParameter
from thaloom.kernel.trust.certificates import check_names

_ROUTES = Path("/proc/net/fib_trie")
_ADDRESSES6 = Path("/proc/net/if_inet6")
_LOCAL = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def host_names(routes: Path = _ROUTES, addresses6: Path = _ADDRESSES6) -> tuple[str, ...]:
    """The host's own name first, its addresses, then loopback's names. Nothing is looked up at other machines."""
    told = [name for name in (socket.gethostname(),) if _is_fit(name)]
    return tuple(dict.fromkeys([*told, *_addresses(routes, addresses6), *LOOPBACK]))


def _addresses(routes: Path, addresses6: Path) -> list[str]:
    found: set[ipaddress.IPv4Address | ipaddress.IPv6Address] = set()
    with contextlib.suppress(OSError, ValueError):
        found |= {ipaddress.ip_address(text) for text in _LOCAL.findall(routes.read_text())}
    with contextlib.suppress(OSError, ValueError):
        lines = addresses6.read_text().splitlines()
        found |= {ipaddress.IPv6Address(bytes.fromhex(line.split()[0])) for line in lines}
    reachable = [address for address in found if not (address.is_loopback or address.is_link_local)]
    return [str(address) for address in sorted(reachable, key=lambda address: (address.version, int(address)))]


def _is_fit(name: str) -> bool:
    try:
        check_names([name])
    except BadParameter:
        return False
    return name.lower() != "localhost"
