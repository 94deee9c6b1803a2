"""Where a client's node is, and how patient the client is. Arguments go over the environment, that over the default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from thaloom.base.errors import BadParameter
from thaloom.edge.client.control import control_socket
from thaloom.edge.client.sdk.retries import Retries

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 7411
TIMEOUT_S = 600.0
"""Longest silence that is taken for life: before its first token a request may wait in a full queue, and the door's
own deadline is the same."""
CONNECT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    url: str
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float
    retries: Retries | None
    """None: every refusal is raised at once."""
    socket: Path | None = None
    """Where given, the control API is asked over it, and not through the door."""

    @property
    def with_tls(self) -> bool:
        return self.url.startswith("https:")


def settings(
    url: str | None,
    *,
    host: str | None,
    port: int | None,
    api_key: str | None,
    home: str | Path | None,
    timeout_s: float,
    retries: Retries | None,
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Raises BadParameter, which names what is wrong."""
    if url is not None and (host is not None or port is not None):
        raise BadParameter("give an url, or a host and a port, not both", param="url")
    if not timeout_s > 0:
        raise BadParameter(f"timeout_s: {timeout_s!r} is not more than 0", param="timeout_s")
    key = api_key or environment.get("THALOOM_API_KEY") or None
    if key is not None and not (key.isascii() and key.isprintable() and key.strip() == key):
        raise BadParameter("api_key: not printable ASCII, which is all a header can carry", param="api_key")
    return Settings(
        url=_url(environment, host, port) if url is None else _checked(url),
        api_key=key,
        timeout_s=timeout_s,
        retries=retries,
        socket=None if home is None else control_socket(Path(home).expanduser()),
    )


def _url(environment: Mapping[str, str], host: str | None, port: int | None) -> str:
    host = host or environment.get("THALOOM_HOST") or DEFAULT_HOST
    told = str(port) if port is not None else environment.get("THALOOM_PORT") or str(DEFAULT_PORT)
    if not (told.isascii() and told.isdecimal() and 1 <= int(told) <= 65535):
        raise BadParameter(f"port {told!r} is not between 1 and 65535", param="port")
    place = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return _checked(f"http://{place}:{told}")


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_place = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
        _ = parts.port
    except ValueError:
        is_place = False
    if not is_place or any(letter.isspace() for letter in url):
        raise BadParameter(f"url: {url!r} is not http://HOST:PORT or https://HOST:PORT", param="url")
    return url.rstrip("/")
