"""Where a client's node is, and how patient the client is. Arguments go over the environment, that over the default."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thaloom.base.errors import BadParameter
from thaloom.edge.client.control import control_socket
from thaloom.edge.client.place import Place, checked_url, token_of, trust_of
from thaloom.edge.client.sdk.retries import Retries
from thaloom.edge.client.trust import Trust, client_context, trust

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
    trust: Trust = field(default_factory=Trust)

    def verify(self) -> ssl.SSLContext | bool:
        """For the client below. Loading the machine's certificates takes 50 ms: not where there is no TLS."""
        return client_context(self.trust) if self.url.startswith("https:") else False


def settings(
    url: str | None,
    *,
    host: str | None,
    port: int | None,
    api_key: str | None,
    home: str | Path | None,
    timeout_s: float,
    retries: Retries | None,
    ca: str | Path | None = None,
    fingerprint: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """Raises BadParameter, which names what is wrong."""
    if url is not None and (host is not None or port is not None):
        raise BadParameter("give an url, or a host and a port, not both", param="url")
    if not timeout_s > 0:
        raise BadParameter(f"timeout_s: {timeout_s!r} is not more than 0", param="timeout_s")
    place = Place(
        url=_url(environment, host, port) if url is None else checked_url(url),
        token=api_key or token_of(environment),
        trust=trust_of(environment) if ca is None and fingerprint is None else trust(ca, fingerprint),
    )
    return Settings(
        url=place.url,
        api_key=place.token,
        trust=place.trust,
        timeout_s=timeout_s,
        retries=retries,
        socket=None if home is None else control_socket(Path(home).expanduser()),
    )


def _url(environment: Mapping[str, str], host: str | None, port: int | None) -> str:
    if host is None and port is None and (told := environment.get("THALOOM_URL")):
        return checked_url(told, param="THALOOM_URL")
    host = host or environment.get("THALOOM_HOST") or DEFAULT_HOST
    told = str(port) if port is not None else environment.get("THALOOM_PORT") or str(DEFAULT_PORT)
    if not (told.isascii() and told.isdecimal() and 1 <= int(told) <= 65535):
        raise BadParameter(f"port {told!r} is not between 1 and 65535", param="port")
    place = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return checked_url(f"http://{place}:{told}")
