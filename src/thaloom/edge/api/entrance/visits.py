"""What is known of one HTTP request beside its words: whose it is, and what it comes to.

The guard opens a `Tab` for each request and puts it where everything done for that request finds it (a context
variable, which tasks inherit); whatever asks for a model writes on it, whichever protocol is spoken. Access log,
headers and traces are read off it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import Scope as Asked

from thaloom.base.access import Scope, kept_name, tenant_of
from thaloom.base.errors import Forbidden, ModelNotFound
from thaloom.edge.api.entrance.room import Holding
from thaloom.kernel.state.types import Allowance, Priority
from thaloom.work.runtime.types import Done


class Visit(Protocol):
    """One request of the holder of a key, beside the limits of the key (work.runtime.frontend.doorkeeper's)."""

    key: str
    """Its name; never the key."""
    tenant: str | None
    """Whose services it is for; None: the node's own."""
    priority: Priority
    owner: str
    """One for a key and all that were narrowed from it: nobody has more than his part by giving himself more keys."""

    def may(self, scope: Scope) -> bool:
        """Whether the key is for that, and its role allows it."""
        ...

    def is_for(self, model: str) -> bool:
        """Whether this is one of the models the key names, if it names any. `model`: as its holder calls it."""
        ...

    def allow(self, model: str) -> None:
        """`model`: by the name its holder has for it. Raises Forbidden for one the key is not for."""
        ...

    def reserve(self, num_tokens: int) -> None:
        """Before an answer begins; the first one counts the request. Raises RateLimited; nothing is taken then."""
        ...

    def settle(self, *, reserved: int, used: int) -> None:
        """What the answer took, in place of what was reserved for it."""
        ...

    def allowances(self) -> tuple[Allowance, ...]: ...
    def end(self) -> None: ...

    def again(self) -> Visit:
        """A request of its own, of the same holder: for work that goes on when the request is over."""
        ...


class Doorkeeper(Protocol):
    def enter(self, shown: Sequence[str], address: str = "") -> Visit | None:
        """Let a request in that showed these keys; None: it needs none. `address`: where it came from.
        Raises Unauthorized; RateLimited where too many keys that are none came from there."""
        ...

    def enter_as(self, name: str) -> Visit | None:
        """Let in what the holder of the key of this name asked for earlier. Raises Unauthorized if it is gone."""
        ...

    @property
    def asks_for_keys(self) -> bool: ...

    @property
    def has_tenants(self) -> bool: ...


@dataclass(slots=True)
class Tab:
    """What one request has come to so far. Times in seconds; of several answers, the slowest of each part."""

    visit: Visit | None = None
    holding: Holding | None = None
    """Of the memory there is for bodies."""
    model: str = ""
    num_answers: int = 0
    prompt_tokens: int = 0
    """Read, or found in the cache; a prompt of several answers counts once."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    finish: list[str] = field(default_factory=list)
    """Why each answer ended, in the order they did."""
    degraded: set[str] = field(default_factory=set)
    patient: bool = False
    """Nobody waits for it: it comes last where requests wait."""
    traceparent: str | None = None
    """For what is done elsewhere for this request: of its own span, or as its sender gave it."""
    over: bool = False
    _prompt: object = None

    def is_new(self, prompt: object) -> bool:
        """Whether it is another prompt than that of the answer before: it counts once, however many answers it has."""
        before, self._prompt = self._prompt, prompt
        return prompt is not before

    def add(self, done: Done, *, with_prompt: bool = True) -> None:
        if with_prompt:
            self.prompt_tokens += done.prompt_tokens
            self.cached_tokens += done.cached_tokens
        self.completion_tokens += done.completion_tokens
        self.queue_s = max(self.queue_s, done.queue_s)
        self.prefill_s = max(self.prefill_s, done.prefill_s)
        self.decode_s = max(self.decode_s, done.decode_s)
        self.finish.append(done.reason)
        if done.degraded is not None:
            self.degraded.add(done.degraded)

    def end(self) -> None:
        self.over = True
        self._prompt = None  # a timer that was cancelled holds on to us, and may lie about for minutes
        if self.holding is not None:
            self.holding.release()
        if self.visit is not None:
            self.visit.end()


CURRENT: ContextVar[Tab | None] = ContextVar("thaloom_request", default=None)
"""Of the request that is being served; None outside of any."""


def allow(model: str) -> None:
    """Raises Forbidden for a model that the key of the request being served is not for."""
    tab = CURRENT.get()
    if tab is not None and tab.visit is not None:
        tab.visit.allow(model)


def kept_model(model: str) -> str:
    """The name under which what the holder of the request's key calls so is served. Raises ModelNotFound for what only
    another tenant could call so."""
    tenant = tenant_of_request()
    if tenant is not None:
        return kept_name(model.removesuffix(":latest"), tenant)
    if tenant_of(model) is not None:
        raise ModelNotFound(f"no model {model!r} is served here", param="model")
    return model


def visit_of_request() -> Visit | None:
    tab = CURRENT.get()
    return None if tab is None else tab.visit


def tenant_of_request() -> str | None:
    visit = visit_of_request()
    return None if visit is None else visit.tenant


def only_of_node(what: str) -> None:
    """Raises Forbidden for a tenant."""
    if (tenant := tenant_of_request()) is not None:
        raise Forbidden(f"{what} is the node's, and nothing of a tenant's ({tenant!r})")


def hold(num_bytes: int) -> None:
    """Room for so much more of the body of the request being served, or of what becomes of it; until it is over.
    Raises TooLarge, QueueFull."""
    tab = CURRENT.get()
    if tab is not None and tab.holding is not None:
        tab.holding.hold(num_bytes)


def only_without_keys(what: str) -> None:
    """Raises Forbidden where a key let the request in: keys are for asking models, and change nothing of the node."""
    if key_of_request() is not None:
        raise Forbidden(f"where keys are required, {what} on the node's own machine only: see `thaloom --help`")


OF_A_BATCH = "thaloom.batch"
"""In the scope of a request the door makes of itself: who asked for it (the name of a key, or None). No client can say
so: a scope holds what the server puts there."""


def key_of_request() -> str | None:
    """The name of the key that the request being served was let in with."""
    tab = CURRENT.get()
    return None if tab is None or tab.visit is None else tab.visit.key


def shown_keys(headers: Headers) -> list[str]:
    """Every key a request shows, by the habits of OpenAI's, Anthropic's and Azure's clients."""
    found = [headers.get(name, "") for name in ("x-api-key", "api-key")]
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.insert(0, credentials.strip())
    return [key for key in found if key]


def address_of(scope: Asked) -> str:
    """Where a request came from."""
    client = scope.get("client")
    return "" if client is None else str(client[0])


def allowance_headers(allowances: Sequence[Allowance]) -> list[tuple[bytes, bytes]]:
    """As OpenAI's clients read them: `x-ratelimit-remaining-tokens: 149984`, `x-ratelimit-reset-tokens: 6m0s`."""
    headers = []
    for allowance in allowances:
        facts = (("limit", str(allowance.limit)), ("remaining", str(allowance.remaining)))
        for word, value in (*facts, ("reset", _duration(allowance.reset_s))):
            headers.append((f"x-ratelimit-{word}-{allowance.of}".encode(), value.encode()))
    return headers


def _duration(seconds: float) -> str:
    """Go's form, which OpenAI writes: `20ms`, `1.5s`, `6m0s`."""
    if seconds < 1.0:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
