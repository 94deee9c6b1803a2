"""The OpenAI protocol from the caller's side: streamed answers of a door, over TCP.

    with OpenAIClient("http://127.0.0.1:7411") as client:
        with client.stream("/v1/completions", {"model": "tiny", "prompt": "A", "stream": True}) as chunks:
            for chunk in chunks: ...

Raises the very leaf the door refused with or that ended a stream, NodeNotRunning where no door listens, and
WorkerLost for a stream that breaks off: a part of an answer never passes for a whole one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from thaloom.base.errors import DeadlineExceeded, InternalError, NodeNotRunning, ThaloomError, WorkerLost
from thaloom.edge.client.lines import Lines, event_data
from thaloom.edge.client.trust import Trust, client_context, raise_if_https_needed, raise_if_not_trusted

if TYPE_CHECKING:
    import httpx2

CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 600.0
"""Before the first token a request may wait in a full queue; the door's own deadline is the same."""


class OpenAIClient:
    """A caller of one door. Not for several threads at once; close it, or use it as a context manager."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        trust: Trust | None = None,
        silence_timeout_s: float = SILENCE_TIMEOUT_S,
    ) -> None:
        """`api_key`: where the door asks for one. `trust`: whose certificate is believed, where the url says https."""
        self._url = url
        self._trust = trust or Trust()
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._silence_timeout_s = silence_timeout_s
        self._client: httpx2.Client | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextlib.contextmanager
    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
        """The chunks of one answer (edge.wire.openai.ChatChunk or Completion). Leaving the block ends the request."""
        with self._errors(), self._http().stream("POST", path, json=dict(body)) as response:
            if response.status_code >= 400:
                raise _refusal(response.status_code, response.read())
            yield self._chunks(response)

    def _chunks(self, response: httpx2.Response) -> Iterator[dict[str, Any]]:
        with self._errors():
            lines = Lines()  # not response.iter_lines(), which ends lines at U+2028 and its like as well
            for content in response.iter_bytes():
                for data in filter(None, map(event_data, lines.feed(content))):
                    if data == b"[DONE]":
                        return
                    chunk: dict[str, Any] = json.loads(data)
                    if "error" in chunk:
                        raise ThaloomError.from_dict(chunk["error"])
                    yield chunk
        raise WorkerLost("the answer broke off before its end; it may be asked for again")

    def _http(self) -> httpx2.Client:
        import httpx2  # here: a program that only parses its command line must not pay for it

        if self._client is None:
            timeout = httpx2.Timeout(self._silence_timeout_s, connect=CONNECT_TIMEOUT_S)
            # Loading the machine's certificates takes 50 ms: nothing that is not needed on loopback.
            verify = client_context(self._trust) if self._url.startswith("https:") else False
            self._client = httpx2.Client(
                base_url=self._url, headers=self._headers, timeout=timeout, trust_env=False, verify=verify
            )
        return self._client

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise_if_not_trusted(error, self._url)
            raise NodeNotRunning(f"no door listens at {self._url}") from error
        except httpx2.TimeoutException as error:
            raise DeadlineExceeded(f"the door fell silent for {self._silence_timeout_s:g} s") from error
        except httpx2.TransportError as error:
            raise_if_https_needed(error, self._url)
            raise WorkerLost(f"the connection to the door broke: {error}") from error


def _refusal(status: int, content: bytes) -> ThaloomError:
    try:
        return ThaloomError.from_dict(json.loads(content)["error"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return InternalError(f"the door answered {status} without saying why")
