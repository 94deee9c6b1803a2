"""The control API from the caller's side: over the node's unix socket, or through a door (Place).

    with ControlClient() as node:
        node.serve("tiny", ServeRequest(model="tiny"))
        node.wait_ready("tiny", timeout_s=60)

Every method raises the very leaf the node raised, NodeNotRunning when no node answers on the socket, Forbidden when
its folder is another user's, and DeadlineExceeded when one does not answer in time.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from thaloom.base import config
from thaloom.base.actions import Call, Change, Plan, Planned, Terms
from thaloom.base.errors import DeadlineExceeded, Forbidden, InternalError, NodeNotRunning, ServiceFailed, ThaloomError
from thaloom.base.later import Later
from thaloom.edge.client.place import Place
from thaloom.edge.client.trust import client_context, raise_if_https_needed, raise_if_not_trusted
from thaloom.edge.wire.names import DRY_RUN, PREFIX

if TYPE_CHECKING:
    from thaloom.edge.wire import control as wire
else:
    wire = Later("thaloom.edge.wire.control")

A = TypeVar("A", bound="wire.Answer")
TIMEOUT_S = 30.0
"""Longest silence of a node that is taken for life. It answers plain questions in milliseconds; streams tell of
themselves at least once in 5 s."""
_POLL_S = 0.05
_LONGEST_WAIT_S = 10.0
"""Of one request for the end of a job."""


def control_socket(home: Path | None = None) -> Path:
    """Where the node of that home listens for control."""
    return (home or config.home()) / "run" / "control.sock"


class ControlClient:
    """A caller of one node. Each question travels on a connection of its own."""

    def __init__(
        self,
        home: Path | None = None,
        *,
        place: Place | None = None,
        timeout_s: float = TIMEOUT_S,
        terms: Terms | None = None,
    ) -> None:
        """`place`: a door to ask through, instead of the socket of that home. `terms`: of everything that is asked for
        and changes something. With a dry run it raises Planned."""
        self._home = home or config.home()
        self._place = place
        self._context: ssl.SSLContext | None = None
        self._timeout_s = timeout_s
        self._terms = terms or Terms()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held from one question to the next."""

    @property
    def terms(self) -> Terms:
        """Of what is asked for now."""
        return self._terms

    @contextlib.contextmanager
    def on_terms(self, terms: Terms) -> Iterator[None]:
        """Ask on these inside."""
        before, self._terms = self._terms, terms
        try:
            yield
        finally:
            self._terms = before

    # -- the node

    def version(self) -> wire.Version:
        return self._get(wire.Version, "/version")

    def status(self) -> wire.NodeStatus:
        return self._get(wire.NodeStatus, "/status")

    def processes(self) -> list[wire.Process]:
        return self._get(wire.Processes, "/processes").processes

    def events(self, *, limit: int = 100) -> list[wire.Event]:
        return self._get(wire.Events, f"/events?limit={limit}").events

    def down(self) -> wire.GoingDown:
        """Ask the node to stop. It has when the process named in the answer has ended."""
        return self._call(wire.GoingDown, "POST", "/down")

    # -- devices

    def devices(self) -> wire.Devices:
        return self._get(wire.Devices, "/devices")

    def device(self, device: str) -> wire.Device:
        return self._get(wire.Device, f"/devices/{quote(device, safe='')}")

    # -- models

    def models(self) -> list[wire.Model]:
        return self._get(wire.Models, "/models").models

    def model(self, name: str) -> wire.Model:
        return self._get(wire.Model, f"/models/{quote(name, safe='')}")

    def pull(self, request: wire.PullRequest, on_progress: Callable[[wire.Progress], None] | None = None) -> wire.Model:
        """Import a model. Leaving (an exception, Ctrl-C) cancels the import; nothing half-done stays behind. A pull
        from a hub goes on in the node: ask again to follow it."""
        return self._made("/models/pull", request, on_progress)

    def unfinished_pulls(self) -> list[wire.UnfinishedPull]:
        return self._get(wire.UnfinishedPulls, "/pulls").pulls

    def remove_pull(self, source: str) -> wire.Removed:
        """End a pull and delete what came of it."""
        return self._call(wire.Removed, "DELETE", f"/pulls?source={quote(source, safe='')}")

    def outgoing(self) -> wire.Outgoing:
        """Whether this node calls out, and which calls it did not make."""
        return self._get(wire.Outgoing, "/outgoing")

    def quantise(
        self,
        name: str,
        request: wire.QuantiseRequest,
        on_progress: Callable[[wire.Progress], None] | None = None,
    ) -> wire.Model:
        """Make a model in whole numbers. Leaving cancels; nothing half-done stays behind."""
        return self._made(f"/models/{quote(name, safe='')}/quantise", request, on_progress)

    def convert(
        self,
        name: str,
        request: wire.ConvertRequest,
        on_progress: Callable[[wire.Progress], None] | None = None,
        *,
        encrypted: bool,
    ) -> wire.Model:
        """Encrypt or decrypt a model. Leaving cancels; nothing half-done stays behind."""
        word = "encrypt" if encrypted else "decrypt"
        return self._made(f"/models/{quote(name, safe='')}/{word}", request, on_progress)

    def encryption(self) -> wire.Encryption:
        return self._get(wire.Encryption, "/encryption")

    def make_master_key(self) -> wire.MasterKey:
        return self._call(wire.MasterKey, "POST", "/encryption/key")

    def rotate_master_key(self, request: wire.RotateRequest) -> wire.MasterKey:
        return self._call(wire.MasterKey, "POST", "/encryption/rotate", request)

    def certificate(self) -> wire.Certificate:
        return self._get(wire.Certificate, "/certificate")

    def make_certificate(self, request: wire.CertificateRequest) -> wire.Certificate:
        return self._call(wire.Certificate, "POST", "/certificate/make", request)

    def renew_certificate(self, request: wire.CertificateRequest) -> wire.Certificate:
        """Another in its place; connections that are open go on."""
        return self._call(wire.Certificate, "POST", "/certificate/renew", request)

    def import_certificate(self, request: wire.ImportCertificateRequest) -> wire.Certificate:
        return self._call(wire.Certificate, "POST", "/certificate/import", request)

    def verify(self, name: str, on_progress: Callable[[wire.Progress], None] | None = None) -> wire.Verification:
        """Have every byte of the model read again. Leaving cancels."""
        with self._stream("POST", f"/models/{quote(name, safe='')}/verify") as lines:
            for line in lines:
                match wire.VERIFY_LINE.validate_json(line):
                    case wire.Progress() as progress:
                        if on_progress is not None:
                            on_progress(progress)
                    case wire.StreamError(error=error):
                        raise ThaloomError.from_dict(error.model_dump())
                    case wire.VerifyDone(verification=verification):
                        return verification
        raise NodeNotRunning("the node went away before the model was verified")

    def copy_model(self, name: str, request: wire.CopyRequest) -> wire.Model:
        """Give the model a second name."""
        return self._call(wire.Model, "POST", f"/models/{quote(name, safe='')}/copy", request)

    def remove_model(self, name: str) -> wire.Removed:
        return self._call(wire.Removed, "DELETE", f"/models/{quote(name, safe='')}")

    # -- services

    def services(self) -> list[wire.Service]:
        return self._get(wire.Services, "/services").services

    def services_page(self, *, limit: int, after: str | None = None) -> Any:
        """Some services by name, as `wire.Services` says, but read without being checked: for a list that is only to be
        looked at, where checking takes longer than all else."""
        query = {"limit": limit} | ({} if after is None else {"after": after})
        return self._plain(f"/services?{urlencode(query)}")

    def processes_plain(self) -> Any:
        """As `wire.Processes`, read without being checked."""
        return self._plain("/processes")

    def service(self, name: str) -> wire.Service:
        return self._get(wire.Service, f"/services/{quote(name, safe='')}")

    def serve(self, name: str, request: wire.ServeRequest) -> wire.Service:
        """Wish for a service, or change the wish. Returns at once; see `wait_ready`."""
        return self._call(wire.Service, "PUT", f"/services/{quote(name, safe='')}", request)

    def wake(self, name: str) -> wire.Service:
        """Begin to start it again, if it is idle."""
        return self._call(wire.Service, "POST", f"/services/{quote(name, safe='')}/wake")

    def keep_alive(self, name: str, seconds: float) -> wire.Service:
        """Have it stay loaded for so long after each request, until it is unloaded; below 0: always."""
        request = wire.KeepAliveRequest(seconds=seconds)
        return self._call(wire.Service, "PUT", f"/services/{quote(name, safe='')}/keep-alive", request)

    def stop(self, name: str) -> wire.Removed:
        """Wish for the service no longer. Its worker ends what it is answering first."""
        return self._call(wire.Removed, "DELETE", f"/services/{quote(name, safe='')}")

    # -- aliases

    def aliases(self) -> list[wire.Alias]:
        return self._get(wire.Aliases, "/aliases").aliases

    def alias(self, name: str) -> wire.Alias:
        return self._get(wire.Alias, f"/aliases/{quote(name, safe='')}")

    def put_alias(self, name: str, request: wire.AliasRequest) -> wire.Alias:
        """Wish that the name stands for these services, or change the wish."""
        return self._call(wire.Alias, "PUT", f"/aliases/{quote(name, safe='')}", request)

    def remove_alias(self, name: str) -> wire.Removed:
        return self._call(wire.Removed, "DELETE", f"/aliases/{quote(name, safe='')}")

    def return_canary(self, name: str, revision: int, reason: str) -> wire.Alias:
        """Tell the node that the canary of this revision did worse: no door sends it requests any more."""
        request = wire.CanaryReturn(revision=revision, reason=reason)
        return self._call(wire.Alias, "POST", f"/aliases/{quote(name, safe='')}/return", request)

    # -- documents

    def apply(self, request: wire.ApplyRequest) -> wire.Applied:
        """Have it so: all of it, or nothing."""
        return self._call(wire.Applied, "POST", "/documents", request)

    def documents(self, kind: str | None = None, labels: Mapping[str, str] | None = None) -> list[wire.DocumentStatus]:
        """All there are, read page by page."""
        query = [("label", f"{key}={value}") for key, value in (labels or {}).items()]
        query += [] if kind is None else [("kind", kind)]
        found: list[wire.DocumentStatus] = []
        after: str | None = None
        while True:
            page = [] if after is None else [("after", after)]
            answer = self._get(wire.Documents, f"/documents?{urlencode(query + page)}")
            found += answer.documents
            after = answer.next
            if after is None:
                return found

    def document(self, kind: str, name: str) -> wire.DocumentStatus:
        return self._get(wire.DocumentStatus, f"/documents/{quote(kind, safe='')}/{quote(name, safe='')}")

    # -- jobs

    def jobs(self, *, phase: str | None = None, limit: int = 100) -> wire.Jobs:
        """Newest first."""
        query = {"limit": limit} | ({"phase": phase} if phase else {})
        return self._get(wire.Jobs, f"/jobs?{urlencode(query)}")

    def job(self, name: str) -> wire.Job:
        return self._get(wire.Job, f"/jobs/{quote(name, safe='')}")

    def run_job(self, name: str, request: wire.JobRequest) -> wire.Job:
        """Wish for a job. Returns at once; see `wait_job`."""
        return self._call(wire.Job, "PUT", f"/jobs/{quote(name, safe='')}", request)

    def stop_job(self, name: str) -> wire.Job:
        """Ask it to end. Returns at once."""
        return self._call(wire.Job, "POST", f"/jobs/{quote(name, safe='')}/stop")

    def remove_job(self, name: str, *, stop: bool = False) -> wire.Removed:
        """Forget it, with its logs and its folder."""
        return self._call(wire.Removed, "DELETE", f"/jobs/{quote(name, safe='')}?stop={str(stop).lower()}")

    def wait_job(self, name: str, *, timeout_s: float | None = None) -> wire.Job:
        """The job once it is over. Raises DeadlineExceeded; None waits as long as it takes."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = math.inf if deadline is None else deadline - time.monotonic()
            share_s = max(0.0, min(left_s, self._timeout_s / 2, _LONGEST_WAIT_S))
            job = self._get(wire.Job, f"/jobs/{quote(name, safe='')}/wait?timeout_s={share_s:.3f}")
            if job.over:
                return job
            if left_s <= 0:
                raise DeadlineExceeded(f"job {name!r} is still {job.phase} after {timeout_s:g} s", job=name)

    @contextlib.contextmanager
    def job_logs(self, name: str, *, follow: bool = False, tail: int = 100) -> Iterator[Iterator[str]]:
        """The last `tail` lines of a job's log, without line ends; with `follow`, then all until it is over."""
        path = f"/jobs/{quote(name, safe='')}/logs?follow={str(follow).lower()}&tail={tail}"
        with self._stream("GET", path, endless=follow) as lines:
            yield lines

    # -- keys

    def keys(self) -> wire.Keys:
        return self._get(wire.Keys, "/keys")

    def make_key(self, request: wire.KeyRequest) -> wire.NewKey:
        """The answer has the key itself, which nobody can ask for again."""
        return self._call(wire.NewKey, "POST", "/keys", request)

    def narrow_key(self, parent: str, request: wire.NarrowRequest) -> wire.NewKey:
        """A key that may do what `parent` may, or less. Raises Forbidden for more."""
        return self._call(wire.NewKey, "POST", f"/keys/{quote(parent, safe='')}/narrow", request)

    def remove_key(self, name: str) -> wire.Removed:
        """From now on the key opens nothing, nor does what was narrowed from it."""
        return self._call(wire.Removed, "DELETE", f"/keys/{quote(name, safe='')}")

    def whoami(self) -> wire.Whoami:
        return self._get(wire.Whoami, "/whoami")

    def tell_refused(self, report: wire.RefusedAtDoor) -> wire.Noted:
        """A door's: whom it turned away."""
        return self._call(wire.Noted, "POST", "/access/refused", report)

    # -- tenants

    def tenants(self) -> list[wire.Tenant]:
        return self._get(wire.Tenants, "/tenants").tenants

    def tenant(self, name: str) -> wire.Tenant:
        return self._get(wire.Tenant, f"/tenants/{quote(name, safe='')}")

    def make_tenant(self, request: wire.TenantRequest) -> wire.Tenant:
        return self._call(wire.Tenant, "POST", "/tenants", request)

    def set_quota(self, name: str, quota: wire.Quota) -> wire.Tenant:
        """In the place of the whole old one. What the tenant has already is left to it."""
        return self._call(wire.Tenant, "PUT", f"/tenants/{quote(name, safe='')}", quota)

    def remove_tenant(self, name: str) -> wire.Removed:
        """Raises WrongState that names what it still has."""
        return self._call(wire.Removed, "DELETE", f"/tenants/{quote(name, safe='')}")

    def wait_ready(
        self, name: str, *, timeout_s: float, on_change: Callable[[wire.Service], None] | None = None
    ) -> wire.Service:
        """The service once it takes requests. Raises ServiceFailed with its reason, or DeadlineExceeded."""
        deadline = time.monotonic() + timeout_s
        seen: wire.Service | None = None
        while True:
            service = self.service(name)
            if on_change is not None and (seen is None or service.phase != seen.phase):
                on_change(service)
            seen = service
            ready = service.condition("Ready")
            if service.phase in ("ready", "idle"):
                return service
            if service.phase == "failed":
                raise ServiceFailed(f"{name!r}: {ready.message if ready else 'failed'}", service=name)
            if time.monotonic() >= deadline:
                why = f" ({ready.message})" if ready and ready.message else ""
                raise DeadlineExceeded(f"{name!r} is still {service.phase} after {timeout_s:g} s{why}", service=name)
            time.sleep(_POLL_S)

    def _made(self, path: str, request: wire.Ask, on_progress: Callable[[wire.Progress], None] | None) -> wire.Model:
        with self._stream("POST", path, request) as lines:
            for line in lines:
                match wire.PULL_LINE.validate_json(line):
                    case wire.Progress() as progress:
                        if on_progress is not None:
                            on_progress(progress)
                    case wire.StreamError(error=error):
                        raise ThaloomError.from_dict(error.model_dump())
                    case wire.PullDone(model=model):
                        return model
        raise NodeNotRunning("the node went away before the model was there")

    @contextlib.contextmanager
    def logs(self, name: str, *, follow: bool = False, tail: int = 100) -> Iterator[Iterator[str]]:
        """The last `tail` lines of a service's log, without line ends; with `follow`, then all that come."""
        path = f"/services/{quote(name, safe='')}/logs?follow={str(follow).lower()}&tail={tail}"
        with self._stream("GET", path, endless=follow) as lines:
            yield lines

    # -- what was done

    def actions(
        self, *, limit: int = 50, subject: str | None = None, by: str | None = None, refused: bool = False
    ) -> list[wire.Action]:
        """Newest first. `subject`: as `service/chat`. `refused`: what was asked for in vain, and nothing else."""
        asked = {"subject": subject, "by": by, "refused": "true" if refused else None}
        query = {"limit": limit} | {name: value for name, value in asked.items() if value}
        return self._get(wire.Actions, f"/actions?{urlencode(query)}").actions

    def action(self, action: str) -> wire.ExplainedAction:
        return self._get(wire.ExplainedAction, f"/actions/{quote(action, safe='')}")

    def undo(self, action: str) -> wire.Action:
        """The action that undid it."""
        return self._call(wire.Action, "POST", f"/actions/{quote(action, safe='')}/undo")

    def approve(self, request: wire.ApproveRequest) -> wire.Approved:
        return self._call(wire.Approved, "POST", "/actions/approve", request)

    def checkpoint(self) -> wire.Checkpoint:
        return self._get(wire.Checkpoint, "/journal/checkpoint")

    def verify_journal(self, through: wire.VerifyJournalRequest | None = None) -> wire.JournalReport:
        return self._call(wire.JournalReport, "POST", "/journal/verify", through or wire.VerifyJournalRequest())

    # -- below: HTTP

    def _plain(self, path: str) -> Any:
        with self._answer("GET", path, None, silence_s=self._timeout_s) as answer, self._errors():
            content = answer.read()
        return json.loads(content)

    def _get(self, kind: type[A], path: str) -> A:
        return self._call(kind, "GET", path)

    def _call(self, kind: type[A], method: str, path: str, body: wire.Ask | None = None) -> A:
        with self._answer(method, path, body, silence_s=self._timeout_s) as answer, self._errors():
            content = answer.read()
        from pydantic import ValidationError

        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            raise InternalError(f"the node's answer to {method} {path} is not understood: {error}") from error

    @contextlib.contextmanager
    def _stream(
        self, method: str, path: str, body: wire.Ask | None = None, *, endless: bool = False
    ) -> Iterator[Iterator[str]]:
        with self._answer(method, path, body, silence_s=None if endless else self._timeout_s) as answer:
            yield self._lines(answer)

    def _lines(self, answer: HTTPResponse) -> Iterator[str]:
        # HTTPResponse's own lines do not tell a stream that broke off from one that ended; a text wrapper's do.
        with self._errors():
            for line in io.TextIOWrapper(answer, encoding="utf-8", errors="replace", newline="\n"):
                yield line.removesuffix("\n")

    @contextlib.contextmanager
    def _answer(
        self, method: str, path: str, body: wire.Ask | None, *, silence_s: float | None
    ) -> Iterator[HTTPResponse]:
        """The answer to one question. Each has a connection of its own, so leaving early leaves nothing in the way."""
        connection = self._connection()
        headers = (
            {"Connection": "close"} | self._shown() | ({"Content-Type": "application/json"} if body is not None else {})
        )
        content = None if body is None else body.model_dump_json().encode()
        if method != "GET":
            path, headers = _on_terms(self._terms, path, headers)
        prefix = "" if self._place is None else urlsplit(self._place.url).path
        with contextlib.closing(connection):
            with self._errors():
                with contextlib.suppress(BrokenPipeError):  # refused before all was said: the answer is there to read
                    connection.request(method, prefix + PREFIX + path, content, headers)
                connection.sock.settimeout(silence_s)
                answer = connection.getresponse()
                refusal = answer.read() if answer.status >= 400 else None
                plan = answer.read() if answer.headers.get(DRY_RUN) else None
            with answer:  # which holds the socket from here on
                if refusal is not None:
                    _raise_for(answer.status, refusal)
                if plan is not None:
                    raise Planned(_plan(wire.Plan.model_validate_json(plan)))
                yield answer

    def _connection(self) -> HTTPConnection:
        if self._place is None:
            return _UnixConnection(control_socket(self._home), self._timeout_s)
        parts = urlsplit(self._place.url)
        if parts.scheme == "http":
            return HTTPConnection(parts.hostname or "", parts.port, timeout=self._timeout_s)
        if self._context is None:
            self._context = client_context(self._place.trust)
        return HTTPSConnection(parts.hostname or "", parts.port, timeout=self._timeout_s, context=self._context)

    def _shown(self) -> dict[str, str]:
        token = None if self._place is None else self._place.token
        return {} if token is None else {"Authorization": f"Bearer {token}"}

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        if self._place is None:
            with self._socket_errors():
                yield
            return
        url = self._place.url
        try:
            yield
        except (OSError, HTTPException) as error:
            raise_if_not_trusted(error, url)
            if isinstance(error, TimeoutError):
                raise DeadlineExceeded(f"the node at {url} did not answer within {self._timeout_s:g} s") from error
            raise_if_https_needed(error, url)
            raise NodeNotRunning(f"no node answers at {url}: {error}") from error

    @contextlib.contextmanager
    def _socket_errors(self) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise Forbidden(f"the node in {str(self._home)!r} belongs to another user") from error
        except TimeoutError as error:
            raise DeadlineExceeded(f"the node did not answer within {self._timeout_s:g} s") from error
        except (OSError, HTTPException) as error:
            raise NodeNotRunning(f"no node is running in {str(self._home)!r} (start one: thaloom up)") from error


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket, which is closed even where connecting to it fails."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _raise_for(status: int, content: bytes) -> NoReturn:
    """Raise the leaf that an answer of 400 or more carries."""
    try:
        error = json.loads(content)["error"]
        raise ThaloomError.from_dict(error)
    except (ValueError, KeyError, TypeError) as unreadable:
        raise InternalError(f"the node answered {status}: {content[:200]!r}") from unreadable


def _on_terms(terms: Terms, path: str, headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    query: dict[str, str] = {"dry_run": "true"} if terms.dry_run else {}
    if terms.approval is not None:
        query |= {"plan": terms.approval.digest, "until": repr(terms.approval.until)}
    if query:
        path += ("&" if "?" in path else "?") + urlencode(query)
    return path, headers if terms.action is None else headers | {"Idempotency-Key": terms.action}


def _plan(message: wire.Plan) -> Plan:
    return Plan(
        call=Call(message.kind, message.parameters),
        risk=message.risk,
        changes=tuple(Change(**change.model_dump()) for change in message.changes),
        touches=tuple(message.touches),
        undo=None if message.undo is None else Call(**message.undo),
        no_undo=message.no_undo,
    )
