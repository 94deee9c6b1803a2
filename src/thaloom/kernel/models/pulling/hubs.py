"""How hubs are asked: their routes, their words for 'no', and one listing in our words.

Source: huggingface_hub 2.4.0 (hf_api.py, utils/_http.py: X-Error-Code); modelscope_hub 0.5.1 (_legacy_api.py).
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote, urljoin, urlsplit

from thaloom.base.clock import Clock
from thaloom.base.errors import Forbidden, ModelNotFound, SourceUnavailable, UntrustedSource
from thaloom.base.outgoing import Answer, Outgoing
from thaloom.base.reach import may_carry_secrets
from thaloom.kernel.models.objects import digest_of
from thaloom.kernel.models.pulling.listing import (
    Listing,
    RemoteFile,
    checked,
    read_commit,
    read_hugging_face,
    read_model_scope,
    require_few,
)
from thaloom.kernel.models.pulling.retrying import Patience, retrying
from thaloom.kernel.models.pulling.sources import DEFAULT_ENDPOINTS
from thaloom.kernel.models.types import HubModel, HubSettings

MOST_ANSWER_BYTES = 16 * 1024 * 1024
MOST_PAGES = 200
ANSWER_DEADLINE_S = 120.0
_JSON = {"accept": "application/json"}
_NEXT = re.compile(r'<([^<>]{1,2000})>\s*;[^,]*\brel="?next"?')


class Asking:
    """One model of one hub, and whoever asks for it."""

    def __init__(
        self, model: HubModel, settings: HubSettings, outgoing: Outgoing, patience: Patience, clock: Clock
    ) -> None:
        """Raises Forbidden if a token would have to travel unencrypted."""
        named, token = (
            (settings.hf_endpoint, settings.hf_token)
            if model.hub == "hf"
            else (settings.ms_endpoint, settings.ms_token)
        )
        default = (named or DEFAULT_ENDPOINTS[model.hub]).rstrip("/")
        self.model = model
        self.endpoint = (model.endpoint or default).rstrip("/")
        own = self.endpoint == default  # a token is for the hub it was set for, not for any address somebody types
        self.secrets = _secrets(model, self.endpoint, token if own else None)
        self._outgoing = outgoing
        self._patience = patience
        self._clock = clock
        self.purpose = f"pull {model}"

    async def json(self, url: str) -> tuple[Any, Answer]:
        """A small answer of the hub itself. Raises what `refuse` does, UntrustedSource if it is no JSON."""

        async def attempt() -> tuple[Any, Answer]:
            try:
                async with asyncio.timeout(ANSWER_DEADLINE_S):
                    async with self._outgoing.get(
                        url,
                        purpose=self.purpose,
                        secrets=self.secrets,
                        stay=True,
                        headers={"accept": "application/json"},
                    ) as answer:
                        refuse(answer, self.model)
                        return _parse(await answer.read(MOST_ANSWER_BYTES), answer), answer
            except TimeoutError as error:
                raise SourceUnavailable(f"{url} did not answer within {ANSWER_DEADLINE_S:g} s") from error

        return await retrying(attempt, self._patience, self._clock)


class Hub(Protocol):
    """One kind of hub."""

    async def list(self, asking: Asking) -> Listing: ...

    def file_url(self, asking: Asking, commit: str, path: str) -> str: ...


class HuggingFace:
    async def list(self, asking: Asking) -> Listing:
        base = f"{asking.endpoint}/api/models/{asking.model.repo}"
        info, answer = await asking.json(f"{base}/revision/{quote(asking.model.revision, safe='')}")
        commit = read_commit(info, answer.url)
        files: list[RemoteFile] = []
        url: str | None = f"{base}/tree/{commit}?recursive=true&expand=false"
        seen: set[str] = set()
        while url is not None:
            if url in seen or len(seen) >= MOST_PAGES:
                raise UntrustedSource(f"{base} lists files without end", rule="endless_listing")
            seen.add(url)
            page, answer = await asking.json(url)
            files += read_hugging_face(page, answer.url)
            require_few(len(files), answer.url)
            url = _next_page(answer, url)
        return Listing(commit=commit, files=checked(files, base))

    def file_url(self, asking: Asking, commit: str, path: str) -> str:
        return f"{asking.endpoint}/{asking.model.repo}/resolve/{commit}/{quote(path)}"


class ModelScope:
    """It names no commit for a listing, so the listing's digests stand for one: who asks again sees what changed."""

    async def list(self, asking: Asking) -> Listing:
        url = (
            f"{asking.endpoint}/api/v1/models/{asking.model.repo}/repo/files"
            f"?Revision={quote(asking.model.revision, safe='')}&Recursive=True"
        )
        data, answer = await asking.json(url)
        if isinstance(data, dict) and data.get("Success") is False:
            raise ModelNotFound(f"{asking.endpoint} has no {asking.model}: {str(data.get('Message'))[:200]!r}")
        files = checked(read_model_scope(data, answer.url), answer.url)
        text = json.dumps([[file.path, file.num_bytes, file.digest] for file in files]).encode()
        return Listing(commit=digest_of(text), files=files)

    def file_url(self, asking: Asking, commit: str, path: str) -> str:  # noqa: ARG002 - see the class
        return (
            f"{asking.endpoint}/api/v1/models/{asking.model.repo}/repo"
            f"?Revision={quote(asking.model.revision, safe='')}&FilePath={quote(path, safe='')}"
        )


def hub_of(model: HubModel) -> Hub:
    return HuggingFace() if model.hub == "hf" else ModelScope()


def refuse(answer: Answer, model: HubModel) -> None:
    """Raise what an answer that is neither 200 nor 206 means."""
    if answer.status in (200, 206):
        return
    code = answer.header("x-error-code") or ""
    said = f"{answer.url} answers {answer.status}" + (f" {code[:50]}" if code else "")
    if answer.status in (408, 425, 429) or answer.status >= 500:
        raise SourceUnavailable(said, retry_after_s=_retry_after(answer), status=answer.status)
    if code == "GatedRepo" or (answer.status in (401, 403) and code != "RepoNotFound"):
        raise Forbidden(f"{model} is not open to everybody: its hub wants a token that may read it ({said})")
    if answer.status in (401, 404):
        what = {"RevisionNotFound": "no such revision", "EntryNotFound": "no such file"}.get(code, "no such model")
        raise ModelNotFound(f"{model}: {what}, or one that is not open to everybody ({said})")
    raise UntrustedSource(f"{said}, which makes no sense here", rule="bad_status", status=answer.status)


def _secrets(model: HubModel, endpoint: str, token: str | None) -> Mapping[str, str]:
    if not token:
        return {}
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Forbidden("the hub's token is not one: it holds spaces or other characters that no token has")
    if not may_carry_secrets(endpoint):
        raise Forbidden(f"a token would travel to {endpoint} unencrypted; take https, or pull without a token")
    headers = {"authorization": f"Bearer {token}"}
    return headers if model.hub == "hf" else headers | {"cookie": f"m_session_id={token}"}


def _parse(body: bytes, answer: Answer) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        kind = (answer.header("content-type") or "something").partition(";")[0][:50]
        raise UntrustedSource(f"{answer.url} answers {kind} instead of JSON", rule="no_json") from error


def _next_page(answer: Answer, url: str) -> str | None:
    found = _NEXT.search(answer.header("link") or "")
    if found is None:
        return None
    following: str = urljoin(url, found[1])
    if urlsplit(following)[:2] != urlsplit(url)[:2]:
        raise UntrustedSource(f"{answer.url} goes on at another host", rule="redirect_off_host")
    return following


def _retry_after(answer: Answer) -> float | None:
    """Seconds; dates (RFC 9110, 10.2.3) are rare, and waited for as if nothing was said."""
    text = (answer.header("retry-after") or "").strip()
    return float(text) if re.fullmatch(r"\d{1,6}", text) else None
