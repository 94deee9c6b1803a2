# Made from async_client.py by tools/generate_sync_client.py (make docs): change that one.
"""A node, from Python: everything its door serves that is its own, and the control API under `node`.

    from thaloom import Client

    with Client() as client:
        answer = client.chat("tiny", "Hello")
        print(answer.choices[0].message.content)

The client for programs with an event loop has the same methods, to be awaited.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import httpx2

from thaloom.edge.client.sdk.calls import get, post
from thaloom.edge.client.sdk.connection import Connection, Stream
from thaloom.edge.client.sdk.node import Node
from thaloom.edge.client.sdk.options import (
    ChatOptions,
    CompletionOptions,
    EmbeddingOptions,
    Json,
    Messages,
    Prompt,
    RerankOptions,
    TokenizeChatOptions,
    TokenizeOptions,
    turns,
)
from thaloom.edge.client.sdk.retries import Retries
from thaloom.edge.client.sdk.settings import TIMEOUT_S, settings
from thaloom.edge.wire import embeddings, openai, ranking, tokens
from thaloom.edge.wire.health import DoorVersion, Health, Readiness


class Client:
    """A caller of one node. It keeps connections: close it, or use it in `with`.

    `url`, or `host` and `port`: of the door; by default THALOOM_URL, else THALOOM_HOST and THALOOM_PORT, else
    127.0.0.1 and 7411. `api_key`: where the door asks for one; by default THALOOM_TOKEN or THALOOM_API_KEY. `ca`: a
    file with the certificates that are believed, `fingerprint`: that of the node's own, where the url says https; by
    default THALOOM_CA and THALOOM_FINGERPRINT, else whom this machine believes. `home`: the folder of a node on this
    machine, whose control API is then asked over its socket instead of through the door. `timeout_s`: the longest
    silence that is waited for. `retries`: how often a call that was refused for now is sent again where that is safe;
    None: never.
    `transport`: what carries the calls instead of sockets, for tests and proxies.

    Methods raise leaves of `thaloom.errors` and nothing else: each says whose fault it is and whether to try again.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        host: str | None = None,
        port: int | None = None,
        api_key: str | None = None,
        home: str | Path | None = None,
        ca: str | Path | None = None,
        fingerprint: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: Retries | None = Retries(),  # noqa: B008 - frozen
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._settings = settings(
            url,
            host=host,
            port=port,
            api_key=api_key,
            home=home,
            ca=ca,
            fingerprint=fingerprint,
            timeout_s=timeout_s,
            retries=retries,
        )
        self._connection = Connection(self._settings, transport)
        self.node = Node(self._connection)
        """The control API."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def url(self) -> str:
        """Where the door is."""
        return self._settings.url

    def close(self) -> None:
        """Close the connections that are kept. Answers that still come break off."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- answers

    def chat(self, model: str, messages: Messages, **options: Unpack[ChatOptions]) -> openai.ChatCompletion:
        """The answer to a conversation, or to one question.

        >>> answer = client.chat("tiny", [{"role": "user", "content": "Hello"}], max_tokens=8)
        >>> answer.choices[0].message.content
        """
        call = post("/v1/chat/completions", repeatable=True, model=model, messages=turns(messages), **options)
        return self._connection.ask(openai.ChatCompletion, call)

    def stream_chat(self, model: str, messages: Messages, **options: Unpack[ChatOptions]) -> Stream[openai.ChatChunk]:
        """The same, piece by piece as it is made.

        >>> with client.stream_chat("tiny", "Hello", max_tokens=8) as chunks:
        ...     for chunk in chunks:
        ...         print(chunk.choices[0].delta.content or "", end="")
        """
        said = {"model": model, "messages": turns(messages), "stream": True}
        return self._connection.events(
            openai.ChatChunk, post("/v1/chat/completions", repeatable=True, **said, **options)
        )

    def complete(self, model: str, prompt: Prompt, **options: Unpack[CompletionOptions]) -> openai.Completion:
        """How a text goes on.

        >>> (client.complete("tiny", "The socket option", max_tokens=8)).choices[0].text
        """
        call = post("/v1/completions", repeatable=True, model=model, prompt=prompt, **options)
        return self._connection.ask(openai.Completion, call)

    def stream_complete(
        self, model: str, prompt: Prompt, **options: Unpack[CompletionOptions]
    ) -> Stream[openai.Completion]:
        """The same, piece by piece as it is made.

        >>> with client.stream_complete("tiny", "The socket option", max_tokens=8) as chunks:
        ...     for chunk in chunks:
        ...         print(chunk.choices[0].text, end="")
        """
        said = {"model": model, "prompt": prompt, "stream": True}
        return self._connection.events(openai.Completion, post("/v1/completions", repeatable=True, **said, **options))

    # -- numbers of texts

    def embed(self, model: str, input: Prompt, **options: Unpack[EmbeddingOptions]) -> embeddings.EmbeddingList:
        """A vector for each text.

        >>> [len(item.embedding) for item in (client.embed("tiny", ["one", "two"])).data]
        """
        call = post("/v1/embeddings", repeatable=True, model=model, input=input, **options)
        return self._connection.ask(embeddings.EmbeddingList, call)

    def rerank(
        self, model: str, query: str, documents: Sequence[str | Json], **options: Unpack[RerankOptions]
    ) -> ranking.Ranking:
        """Which documents answer a query best, the best first.

        >>> (client.rerank("tiny", "a socket", ["a plug", "a hat"], top_n=1)).results[0].index
        """
        call = post("/v1/rerank", repeatable=True, model=model, query=query, documents=documents, **options)
        return self._connection.ask(ranking.Ranking, call)

    def score(self, model: str, text_1: str | Sequence[str], text_2: str | Sequence[str]) -> ranking.ScoreList:
        """How well texts go together: one against many, or each against the one at the same place.

        >>> [item.score for item in (client.score("tiny", "a socket", ["a plug", "a hat"])).data]
        """
        call = post("/v1/score", repeatable=True, model=model, text_1=text_1, text_2=text_2)
        return self._connection.ask(ranking.ScoreList, call)

    # -- tokens

    def tokenize(
        self, prompt: str, *, model: str | None = None, **options: Unpack[TokenizeOptions]
    ) -> tokens.TokenizeAnswer:
        """A text's tokens. `model` may be left out where one is served.

        >>> (client.tokenize("The socket option", model="tiny")).count
        """
        call = post("/tokenize", repeatable=True, prompt=prompt, model=model, **options)
        return self._connection.ask(tokens.TokenizeAnswer, call)

    def tokenize_chat(
        self, messages: Messages, *, model: str | None = None, **options: Unpack[TokenizeChatOptions]
    ) -> tokens.TokenizeAnswer:
        """The tokens of a conversation, as the model's template puts it.

        >>> (client.tokenize_chat("Hello", model="tiny")).count
        """
        call = post("/tokenize", repeatable=True, messages=turns(messages), model=model, **options)
        return self._connection.ask(tokens.TokenizeAnswer, call)

    def detokenize(self, tokens_: Sequence[int], *, model: str | None = None) -> tokens.DetokenizeAnswer:
        """The text of tokens.

        >>> (client.detokenize([72, 105], model="tiny")).prompt
        """
        call = post("/detokenize", repeatable=True, tokens=tokens_, model=model)
        return self._connection.ask(tokens.DetokenizeAnswer, call)

    def tokenizer_info(self, *, model: str | None = None) -> tokens.TokenizerInfoAnswer:
        """A model's way with text.

        >>> (client.tokenizer_info(model="tiny")).vocab_size
        """
        return self._connection.ask(tokens.TokenizerInfoAnswer, get("/tokenizer_info", model=model))

    # -- what is there

    def models(self) -> list[openai.Model]:
        """The models that are served, ready or not; those in the store: `node.models`.

        >>> [model.id for model in client.models() if model.ready]
        """
        return (self._connection.ask(openai.ModelList, get("/v1/models"))).data

    def model(self, name: str) -> openai.Model:
        """One of them. Raises ModelNotFound.

        >>> (client.model("tiny")).context_length
        """
        return self._connection.ask(openai.Model, get("/v1/models/{}", name))

    def health(self) -> Health:
        """Whether the door lives.

        >>> (client.health()).status
        'alive'
        """
        return self._connection.ask(Health, get("/healthz"))

    def ready(self) -> Readiness:
        """Whether the door knows what is served, and what of it is ready. Raises NodeNotRunning where it does not.

        >>> [(service.name, service.ready) for service in (client.ready()).services]
        """
        return self._connection.ask(Readiness, get("/readyz"))

    def version(self) -> DoorVersion:
        """What the door is.

        >>> (client.version()).version
        """
        return self._connection.ask(DoorVersion, get("/version"))

    def metrics(self) -> str:
        """Measurements, in Prometheus's text form.

        >>> (client.metrics()).splitlines()[0]
        """
        return (self._connection.content(get("/metrics"))).decode()

    def openapi(self) -> dict[str, object]:
        """What the door serves, described (OpenAPI 3.1).

        >>> sorted((client.openapi())["paths"])
        """
        return self._connection.ask_object(get("/openapi.json"))
