"""Where a client's node is: on this machine, by its socket; or wherever THALOOM_URL says, by its door.

THALOOM_URL     https://HOST:PORT
THALOOM_TOKEN   the key that is shown there (`thaloom token create`, on the node)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from thaloom.base.errors import BadParameter
from thaloom.edge.client.trust import Trust, trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A door, and how to come in."""

    url: str
    """Without a slash at its end."""
    token: str | None = field(default=None, repr=False)
    trust: Trust = field(default_factory=Trust)

    def __post_init__(self) -> None:
        """Raises BadParameter, for a token that would travel where anybody can read it too."""
        check_token(self.token)
        if self.token is not None and not self.url.startswith("https:") and not is_near(self.url):
            raise BadParameter(
                f"a key would travel to {self.url} for everybody to read: ask by https://", param="THALOOM_URL"
            )


def place_of(environment: Mapping[str, str]) -> Place | None:
    """What the environment says; None: the node of this machine. Raises BadParameter."""
    url = environment.get("THALOOM_URL")
    if not url:
        return None
    return Place(url=checked_url(url, param="THALOOM_URL"), token=token_of(environment), trust=trust_of(environment))


def token_of(environment: Mapping[str, str]) -> str | None:
    """THALOOM_API_KEY is its older name."""
    return environment.get("THALOOM_TOKEN") or environment.get("THALOOM_API_KEY") or None


def trust_of(environment: Mapping[str, str]) -> Trust:
    return trust(environment.get("THALOOM_CA"), environment.get("THALOOM_FINGERPRINT"))


def check_token(token: str | None) -> None:
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token):
        raise BadParameter("a key is printable ASCII, which is all a header can carry", param="api_key")


def checked_url(url: str, *, param: str = "url") -> str:
    """Without a slash at its end. Raises BadParameter."""
    try:
        parts = urlsplit(url)
        is_place = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
        _ = parts.port
    except ValueError:
        is_place = False
    if not is_place or any(letter.isspace() for letter in url):
        raise BadParameter(f"{param}: {url!r} is not http://HOST:PORT or https://HOST:PORT", param=param)
    return url.rstrip("/")


def is_near(url: str) -> bool:
    """Whether it is an address of this machine's loopback."""
    host = urlsplit(url).hostname or ""
    if host.rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
