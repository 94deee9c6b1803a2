"""What the hub answers: lists, facts of a model, its files, whole or in part. Loaded with the first question."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from thaloom.base.errors import AirGapped, BadParameter, Forbidden, MethodNotAllowed, ModelNotFound
from thaloom.edge.api.entrance.visits import allow, only_of_node
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.hub import messages, ranges
from thaloom.edge.api.hub.asking import Question, read_api, read_resolve
from thaloom.edge.api.hub.handing import Handing
from thaloom.edge.api.hub.naming import Repository, Version, named, repositories, version_of
from thaloom.edge.api.hub.shelf import Shelf, Upstream
from thaloom.edge.api.routes.body import read_body, while_connected
from thaloom.kernel.models.types import FileEntry, Manifest

MOST_LISTED = 1000
MOST_PATHS = 1000
MOST_BODY_BYTES = 1024 * 1024
_FORM = "application/x-www-form-urlencoded"


class HubAnswers:
    """What is in `shelf`; what is not there, `upstream` may fetch."""

    def __init__(self, shelf: Shelf, upstream: Upstream) -> None:
        self._shelf = shelf
        self._upstream = upstream
        self._handing = Handing(shelf)

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = _query(scope)
        word, author = query.get("search", "").lower(), query.get("author", "")
        limit, cursor = _number(query, "limit", MOST_LISTED, least=1), _number(query, "cursor", 0, least=0)
        limit = min(limit, MOST_LISTED)
        found = [
            repository
            for repository in _once(repositories(await self._manifests()))
            if word in repository.repo.lower() and (not author or repository.repo.startswith(f"{author}/"))
        ]
        page = found[cursor : cursor + limit]
        headers = {}
        if cursor + limit < len(found):
            headers["link"] = f'<{_here(scope)}?{_following(query, cursor + limit, limit)}>; rel="next"'
        full = any(query.get(name, "").lower() in ("1", "true") for name in ("full", "cardData", "config"))
        infos = [_listed(repository, full=full) for repository in page]
        await _json(infos, headers)(scope, receive, send)

    async def api(self, scope: Scope, receive: Receive, send: Send) -> None:
        question = read_api(_raw_path(scope))
        query = _query(scope)
        allowed = "POST" if question.view == "paths-info" else "GET, HEAD"
        if scope["method"] not in allowed:
            raise MethodNotAllowed(f"{scope['method']} is not served here (served: {allowed})", allowed=allowed)
        if question.view == "paths-info":
            await self._paths_info(question, scope, receive, send)
            return
        if question.view == "refs":
            repositories = await self._repositories(question)
            await _json(messages.refs(repositories))(scope, receive, send)
            return
        version = await self._version(question)
        if question.view == "auth-check":
            _allow(str(version.manifest.name))
            await _json({})(scope, receive, send)
            return
        if question.view == "info":
            answer: Any = messages.model_info(version, blobs=_yes(query, "blobs"))
        else:
            answer = messages.tree(
                version, question.path, recursive=_yes(query, "recursive"), expand=_yes(query, "expand")
            )
            if answer is None:
                raise _no_entry(question)
        await _json(answer, {"x-repo-commit": version.commit})(scope, receive, send)

    async def _paths_info(self, question: Question, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        body = await read_body(receive, declared=headers.get("content-length"), limit=MOST_BODY_BYTES)
        if headers.get("content-type", _FORM).partition(";")[0].strip().lower() != _FORM:
            raise BadParameter(f"paths-info takes {_FORM}", param="content-type")
        try:
            form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=MOST_PATHS + 10, errors="strict")
        except ValueError as error:
            raise BadParameter(f"not a form with at most {MOST_PATHS} paths: {error}", param="paths") from error
        version = await self._version(question)
        expand = form.get("expand", [""])[-1].lower() == "true"
        await _json(messages.paths_info(version, form.get("paths", []), expand=expand))(scope, receive, send)

    async def file(self, scope: Scope, receive: Receive, send: Send) -> None:
        question = read_resolve(_raw_path(scope))
        version = await self._version(question)
        _allow(str(version.manifest.name))
        file = next((file for file in version.manifest.files if file.path == question.path), None)
        if file is None:
            raise _no_entry(question, version)
        headers = Headers(scope=scope)
        etag = f'"{file.sha256}"'
        told = _file_headers(file, version, etag)
        if ranges.matches(headers.get("if-none-match"), etag):
            await _send_head(send, 304, {name: told[name] for name in ("etag", "x-repo-commit")}, end=True)
            return
        if scope["method"] == "HEAD":
            await _send_head(send, 200, told, end=True)
            return
        try:
            part = ranges.wanted(headers.get("range"), headers.get("if-range"), etag, file.num_bytes)
        except ranges.Unsatisfiable:
            told |= {"content-range": f"bytes */{file.num_bytes}", "content-length": "0"}
            await _send_head(send, 416, told, end=True)
            return
        start, stop = part or (0, file.num_bytes)
        told["content-length"] = str(stop - start)
        if part is not None:
            told["content-range"] = f"bytes {start}-{stop - 1}/{file.num_bytes}"
        await while_connected(
            receive, self._hand_out(send, 200 if part is None else 206, told, version.manifest, file, start, stop)
        )

    async def _hand_out(
        self,
        send: Send,
        status: int,
        headers: Mapping[str, str],
        manifest: Manifest,
        file: FileEntry,
        start: int,
        stop: int,
    ) -> None:
        async with self._handing.part(manifest, file, start, stop) as pieces:
            await _send_head(send, status, headers)
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _version(self, question: Question) -> Version:
        """Raises ModelNotFound with the word clients know it by; what the upstream raises."""
        found = named(await self._manifests(), question.repo)
        version = version_of(found, question.revision)
        if version is None and await self._fetched(question):
            found = named(await self._manifests(), question.repo)
            version = version_of(found, question.revision)
        if version is None:
            raise _no_repository(question) if not found else _no_revision(question, found)
        return version

    async def _repositories(self, question: Question) -> list[Repository]:
        found = named(await self._manifests(), question.repo)
        if not found and await self._fetched(question):
            found = named(await self._manifests(), question.repo)
        if not found:
            raise _no_repository(question)
        return found

    async def _fetched(self, question: Question) -> bool:
        _allow(question.repo)  # a key for some models fetches no others
        try:
            return await self._upstream.fetch(question.repo, question.revision)
        except AirGapped as error:
            raise _no_repository(question, error.message) from error
        except ModelNotFound as error:
            raise _no_repository(question, error.message) from error
        except Forbidden as error:
            error.details["hub_code"] = "GatedRepo"
            raise

    async def _manifests(self) -> Sequence[Manifest]:
        return await asyncio.to_thread(self._shelf.list)


def _no_repository(question: Question, why: str = "") -> ModelNotFound:
    behind = f": {why}" if why else ""
    return ModelNotFound(f"no model {question.repo!r} in this node's store{behind}", hub_code="RepoNotFound")


def _no_revision(question: Question, found: Sequence[Repository]) -> ModelNotFound:
    known = ", ".join(dict.fromkeys(repository.revision for repository in found[:20]))
    return ModelNotFound(
        f"{question.repo!r} has no revision {question.revision[:200]!r} here (there are: {known}, and their commits)",
        hub_code="RevisionNotFound",
    )


def _no_entry(question: Question, version: Version | None = None) -> ModelNotFound:
    where = "" if version is None else f" at {version.commit}"
    return ModelNotFound(f"{question.repo!r} has no {question.path[:200]!r}{where}", hub_code="EntryNotFound")


def _file_headers(file: FileEntry, version: Version, etag: str) -> dict[str, str]:
    name = file.path.rpartition("/")[2]
    return {
        "content-type": "application/octet-stream",
        "content-length": str(file.num_bytes),
        "content-disposition": f"inline; filename*=UTF-8''{quote(name, safe='')}",
        "x-content-type-options": "nosniff",  # a model's own page must never run as one of ours
        "accept-ranges": "bytes",
        "etag": etag,
        "x-linked-etag": etag,
        "x-linked-size": str(file.num_bytes),
        "x-repo-commit": version.commit,
    }


def _listed(repository: Repository, *, full: bool) -> dict[str, Any]:
    version = Version(repository=repository, commit=repository.commit)
    info = messages.model_info(version, blobs=False)
    return info if full else {name: value for name, value in info.items() if name not in ("siblings", "config")}


def _once(found: Sequence[Repository]) -> list[Repository]:
    """Each name once, with its newest model."""
    return list({repository.repo: repository for repository in reversed(found)}.values())[::-1]


def _json(value: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(value), 200, dict(headers or {}), media_type="application/json")


async def _send_head(send: Send, status: int, headers: Mapping[str, str], *, end: bool = False) -> None:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    if end:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _raw_path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
    return raw.partition(b"?")[0].decode("latin-1")


def _query(scope: Scope) -> dict[str, str]:
    try:
        found = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise BadParameter(f"not a query: {error}", param="query") from error
    return {name: values[-1] for name, values in found.items()}


def _yes(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("1", "true")


def _number(query: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) < least:
        raise BadParameter(f"{name} must be a number of at least {least}, not {text[:50]!r}", param=name)
    return int(text)


def _here(scope: Scope) -> str:
    host = Headers(scope=scope).get("host", "localhost")
    return f"{scope.get('scheme', 'http')}://{host}/api/models"


def _following(query: Mapping[str, str], cursor: int, limit: int) -> str:
    kept = {name: value for name, value in query.items() if name not in ("cursor", "limit")}
    pairs = [*kept.items(), ("limit", str(limit)), ("cursor", str(cursor))]
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)


def _allow(model: str) -> None:
    """Raises Forbidden for a model that the key of the request is not for, and for a tenant."""
    only_of_node("what is in the store")
    allow(model)
