"""The one way out of this node: every HTTP request to another machine is sent here, and nowhere else.

The air gap is asked before each request and each redirect. Secrets go to the origin they are meant for and to no other;
redirects are followed by the rules of base.reach. Bodies are handed on as they travel, never unpacked: an answer that
is compressed although we ask for none is refused, so no small answer becomes a large one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin

from thaloom.base.air_gap import AirGap, without_secrets
from thaloom.base.errors import SourceUnavailable, UntrustedSource
from thaloom.base.reach import Kind, kind_of, kind_of_all, literal_kind, origin, why_not_follow

if TYPE_CHECKING:
    import httpx2

CONNECT_DEADLINE_S = 20.0
SILENCE_DEADLINE_S = 30.0
"""Longest pause between two pieces of an answer."""
MOST_REDIRECTS = 8
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CUT = ("peer closed", "Server disconnected")
"""How h11 and httpcore begin to say that a connection ended early; what else they complain of is no HTTP."""
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


class Answer:
    """An answer whose body is still to be read. Header names are asked for in any case."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.url = without_secrets(str(response.url))

    def header(self, name: str) -> str | None:
        value: str | None = self._response.headers.get(name)
        return value

    def length(self) -> int | None:
        """Content-Length, if it is stated and a number."""
        text = self.header("content-length")
        return int(text) if text is not None and text.isascii() and text.isdigit() else None

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises SourceUnavailable where it breaks off."""
        with _network_errors(self.url):
            async for piece in self._response.aiter_raw():
                yield piece

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises UntrustedSource if it has more than `limit` bytes."""
        found = bytearray()
        async for piece in self.pieces():
            found += piece
            if len(found) > limit:
                raise UntrustedSource(
                    f"{self.url} answers with more than {limit} bytes", rule="endless_answer", url=self.url
                )
        return bytes(found)


class Outgoing:
    """`async with` it: it holds connections."""

    def __init__(
        self, gap: AirGap, *, user_agent: str, num_connections: int = 16, silence_s: float = SILENCE_DEADLINE_S
    ) -> None:
        self._gap = gap
        self._user_agent = user_agent
        self._num_connections = num_connections
        self._silence_s = silence_s
        self._clients: dict[bool, httpx2.AsyncClient] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            await client.aclose()

    @contextlib.asynccontextmanager
    async def get(
        self,
        url: str,
        *,
        purpose: str,
        headers: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        stay: bool = False,
    ) -> AsyncIterator[Answer]:
        """GET, following redirects; `secrets` are headers for the origin of `url` alone. With `stay`, a redirect to
        another origin is refused.

        Raises AirGapped; UntrustedSource for an answer or a redirect that is not to be trusted; SourceUnavailable.
        """
        first = _origin(url, url)
        current, left_home = url, False
        for _ in range(MOST_REDIRECTS + 1):
            self._gap.require_open(purpose=purpose, method="GET", url=current)
            left_home = left_home or _origin(current, url) != first
            sent = dict(headers or {}) | ({} if left_home else dict(secrets or {}))
            async with self._send(current, sent) as response:
                if left_home:
                    _check_peer(response, await self._kind(first))
                target = response.headers.get("location") if response.status_code in _REDIRECTS else None
                if target is None:
                    _refuse_encoding(response)
                    yield Answer(response)
                    return
            following = urljoin(current, target)
            await self._check_redirect(url, following, stay=stay)
            current = following
        raise UntrustedSource(
            f"{without_secrets(url)} redirects more than {MOST_REDIRECTS} times", rule="endless_redirects"
        )

    @contextlib.asynccontextmanager
    async def _send(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[httpx2.Response]:
        client = self._client(url)
        with _network_errors(without_secrets(url)):
            response = await client.send(client.build_request("GET", url, headers=dict(headers)), stream=True)
        try:
            yield response
        finally:
            with contextlib.suppress(Exception):  # it is given up: how that goes is nobody's concern
                await response.aclose()

    def _client(self, url: str) -> httpx2.AsyncClient:
        """Proxies and certificates of the environment count, except for this machine itself."""
        import httpx2  # slow to import, and most nodes never call out

        trust_env = literal_kind(_origin(url, url)[1]) != "loopback"
        if trust_env not in self._clients:
            self._clients[trust_env] = httpx2.AsyncClient(
                headers={"user-agent": self._user_agent, "accept": "*/*", "accept-encoding": "identity"},
                timeout=httpx2.Timeout(self._silence_s, connect=CONNECT_DEADLINE_S),
                limits=httpx2.Limits(max_connections=self._num_connections),
                follow_redirects=False,
                trust_env=trust_env,
            )
        return self._clients[trust_env]

    async def _check_redirect(self, url: str, following: str, *, stay: bool) -> None:
        first, target = _origin(url, url), _origin(following, url)
        shown = f"{without_secrets(url)} redirects to {without_secrets(following)}"
        if stay and target != first:
            raise UntrustedSource(f"{shown}: another host may not answer this", rule="redirect_off_host", url=following)
        if target == first:
            return
        why = why_not_follow(first, await self._kind(first), target, await self._kind(target))
        if why is not None:
            raise UntrustedSource(f"{shown}: {why}", rule="redirect_off_host", url=without_secrets(following))

    async def _kind(self, place: tuple[str, str, int]) -> Kind:
        """What kind of address a host has. Behind a proxy names are not ours to look up: they count as public."""
        known = literal_kind(place[1])
        if known is not None:
            return known
        if _proxied():
            return "public"
        try:
            async with asyncio.timeout(CONNECT_DEADLINE_S):
                found = await asyncio.get_running_loop().getaddrinfo(place[1], place[2], type=socket.SOCK_STREAM)
        except (OSError, TimeoutError) as error:
            raise SourceUnavailable(f"the address of {place[1]!r} cannot be found: {error}") from error
        return kind_of_all(str(address[4][0]) for address in found)


def _origin(url: str, asked: str) -> tuple[str, str, int]:
    try:
        return origin(url)
    except ValueError as error:
        raise UntrustedSource(f"{without_secrets(asked)} leads to what is no place: {error}", rule="bad_url") from error


def _proxied() -> bool:
    return any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXIES)


def _check_peer(response: httpx2.Response, first: Kind) -> None:
    """A name may lead elsewhere when it is looked up again: what counts is who is at the other end."""
    stream: Any = response.extensions.get("network_stream")
    peer = None if stream is None or _proxied() else stream.get_extra_info("server_addr")
    if peer is not None and kind_of(str(peer[0])) not in (first, "public"):
        raise UntrustedSource(
            f"{without_secrets(str(response.url))} is at {peer[0]}, no public address", rule="redirect_off_host"
        )


def _refuse_encoding(response: httpx2.Response) -> None:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UntrustedSource(
            f"{without_secrets(str(response.url))} answers {encoding[:50]!r}-encoded, which nobody asked for",
            rule="encoded_answer",
        )


@contextlib.contextmanager
def _network_errors(url: str) -> Iterator[None]:
    import httpx2

    try:
        yield
    except httpx2.RemoteProtocolError as error:
        if not str(error).startswith(_CUT):
            raise UntrustedSource(f"{url} answers what is no HTTP: {error}", rule="no_http") from error
        raise SourceUnavailable(f"{url}: the connection was cut") from error
    except httpx2.TimeoutException as error:
        raise SourceUnavailable(f"{url} does not answer in time") from error
    except httpx2.TransportError as error:
        raise SourceUnavailable(f"{url} cannot be reached: {str(error)[:200] or type(error).__name__}") from error
    except (httpx2.InvalidURL, httpx2.StreamError, UnicodeError) as error:
        raise UntrustedSource(f"{url} cannot be asked: {str(error)[:200]}", rule="bad_url") from error
