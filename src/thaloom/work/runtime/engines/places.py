"""Where a server that runs already is: its URL, checked."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from thaloom.base.errors import BadParameter, Forbidden
from thaloom.work.runtime.engines.http import Place


def place_of(url: str | None, allowed_hosts: Sequence[str], key: str | None = None) -> Place:
    """Raises BadParameter for what is no such URL, Forbidden for a host that is neither loopback nor allowed by name.

    Beyond loopback only with TLS, as the door itself.
    """
    if url is None:
        raise BadParameter("engine 'openai' needs the server's url, as http://127.0.0.1:8000/v1", param="url")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise BadParameter(f"not a URL: {url!a}", param="url")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadParameter(f"not a URL: {url!r} ({error})", param="url") from error
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username:
        raise BadParameter(f"{url!r} is not http(s)://HOST[:PORT][/PATH]", param="url")
    if not _loopback(host):
        if host not in allowed_hosts:
            raise Forbidden(f"host {host!r} is not loopback, and not among engine_hosts in config.toml", param="url")
        if parts.scheme != "https":
            raise Forbidden(f"host {host!r} is not loopback: without TLS nothing goes there", param="url")
    tls = parts.scheme == "https"
    prefix = parts.path.rstrip("/") or "/v1"
    return Place(host=host, port=port or (443 if tls else 80), prefix=prefix, tls=tls, key=key)


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
