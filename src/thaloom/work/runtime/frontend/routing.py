"""Where the door sends each request: which service a name stands for, and which of its workers is best off.

What a worker has to do is what this door gave it; what prompts it remembers is what this door sent there. Several doors
each know their own part, which is right in proportion.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from thaloom.base.errors import ModelNotFound, ThaloomError
from thaloom.base.events import Emit, Event, at_level
from thaloom.base.ids import ServiceName
from thaloom.kernel.sched.canary import CanaryLimits, Outcomes, verdict
from thaloom.kernel.sched.routing import Candidate, choose_share, choose_worker
from thaloom.kernel.state.types import Alias, Route, Routes
from thaloom.work.runtime.types import Delta, Done

Item = Delta | Done
PIECE_TOKENS = 32
MOST_REMEMBERED = 65_536
"""Pieces of prompts that were sent to workers: of two million tokens."""
MOST_OUTCOMES = 500
"""Of each version, the latest."""


@at_level("warning")
@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryReturned(Event):
    """A new version did worse: its share goes back to the others."""

    alias: str
    service: str
    reason: str


class Work:
    """One request at one worker; tell it when the answer begins, and when it is over."""

    def __init__(self, loads: dict[str, list[int]], socket: str, num_tokens: int) -> None:
        self._load = loads.setdefault(socket, [0, 0])
        self._left = num_tokens
        self._over = False
        self._load[0] += num_tokens
        self._load[1] += 1

    def begun(self) -> None:
        self._load[0] -= self._left
        self._left = 0

    def over(self) -> None:
        """Harmless when repeated."""
        if not self._over:
            self.begun()
            self._over = True
            self._load[1] -= 1


class Balancer:
    """Chooses among the workers of one route. Belongs to one event loop."""

    def __init__(self) -> None:
        self._loads: dict[str, list[int]] = {}
        """By socket: tokens of prompts not begun, answers not ended."""
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()

    def choose(self, sockets: Sequence[str], prompt: Sequence[int], salt: str = "") -> tuple[str, Work]:
        """One of them, not none, and the account of what it then has to do. `salt`: of its prefixes."""
        if len(sockets) == 1:
            return sockets[0], Work(self._loads, sockets[0], len(prompt))
        keys = _chain(prompt, salt)
        matched = [self._matched(socket, keys) for socket in sockets]
        loads = [self._loads.get(socket, [0, 0]) for socket in sockets]
        candidates = [Candidate(load[0], load[1], found) for load, found in zip(loads, matched, strict=True)]
        place = choose_worker(candidates, len(prompt))
        self._remember(sockets[place], keys)
        return sockets[place], Work(self._loads, sockets[place], len(prompt) - matched[place])

    def forget_all_but(self, sockets: set[str]) -> None:
        """Others are gone for good."""
        for socket in self._loads.keys() - sockets:
            del self._loads[socket]

    def _matched(self, socket: str, keys: Sequence[int]) -> int:
        count = 0
        while count < len(keys) and (socket, keys[count]) in self._seen:
            count += 1
        return count * PIECE_TOKENS

    def _remember(self, socket: str, keys: Sequence[int]) -> None:
        for key in reversed(keys):  # the beginning is the youngest: it is of use to most
            self._seen[socket, key] = None
            self._seen.move_to_end((socket, key))
        while len(self._seen) > MOST_REMEMBERED:
            self._seen.popitem(last=False)


def _chain(prompt: Sequence[int], salt: str) -> list[int]:
    """A number for each whole piece of the prompt, which depends on all before it. That two prompts share one by chance
    costs time, nothing else."""
    keys, key = [], hash(salt)
    for begin in range(0, len(prompt) - PIECE_TOKENS + 1, PIECE_TOKENS):
        key = hash((key, *prompt[begin : begin + PIECE_TOKENS]))
        keys.append(key)
    return keys


class Tally:
    """What became of the latest requests to one service behind an alias."""

    def __init__(self) -> None:
        self._failed: deque[bool] = deque(maxlen=MOST_OUTCOMES)
        self._first_s: deque[float] = deque(maxlen=MOST_OUTCOMES)
        self._token_s: deque[float] = deque(maxlen=MOST_OUTCOMES)

    def answered(self, done: Done) -> None:
        self._failed.append(False)
        self._first_s.append(done.queue_s + done.prefill_s)
        if done.completion_tokens > 1:
            self._token_s.append(done.decode_s / (done.completion_tokens - 1))

    def failed(self) -> None:
        self._failed.append(True)

    def outcomes(self) -> Outcomes:
        return Outcomes(
            requests=len(self._failed),
            failures=sum(self._failed),
            first_token_s=tuple(self._first_s),
            token_s=tuple(self._token_s),
        )


def is_ours(error: ThaloomError) -> bool:
    """Whether a service can be blamed for it: not for what the caller did, or that it was busy."""
    return error.fault in ("thaloom", "host")


class Aliases:
    """Which service a name stands for just now. `draw` gives numbers in [0, 1)."""

    def __init__(
        self,
        draw: Callable[[], float],
        emit: Emit,
        on_return: Callable[[Alias, str], None],
        limits: CanaryLimits | None = None,
    ) -> None:
        self._draw = draw
        self._emit = emit
        self._on_return = on_return
        self._limits = limits or CanaryLimits()
        self._tallies: dict[tuple[ServiceName, int], dict[ServiceName, Tally]] = {}
        """By alias and its revision: a change begins anew."""
        self._returned: dict[tuple[ServiceName, int], str] = {}

    def resolve(self, routes: Routes, name: str) -> tuple[Route, Alias | None]:
        """A service's own name comes before an alias. Raises ModelNotFound."""
        plain = name.removesuffix(":latest")
        found = next((route for route in routes.routes if route.name in (name, plain)), None)
        if found is not None:
            return found, None
        alias = next((alias for alias in routes.aliases if alias.name in (name, plain)), None)
        if alias is None:
            names = ", ".join(sorted([*(each.name for each in routes.routes), *(each.name for each in routes.aliases)]))
            raise ModelNotFound(f"no model {name!r} is served here (served: {names or 'none'})", param="model")
        return self._choose(routes, alias), alias

    def behind(self, routes: Routes, alias: Alias) -> list[Route]:
        """The services it may lead to now."""
        weights = {share.service: self._weight(alias, share.service, share.weight) for share in alias.shares}
        return [route for route in routes.routes if weights.get(route.name)]

    def watch(self, alias: Alias, service: ServiceName, answer: AsyncIterator[Item]) -> AsyncIterator[Item]:
        """The answer, with its end taken down. Only aliases with a canary are looked at."""
        return answer if alias.canary is None else _Watched(answer, lambda end: self._note(alias, service, end))

    def failed(self, alias: Alias | None, service: ServiceName, error: ThaloomError) -> None:
        """A request could not even begin."""
        if alias is not None and alias.canary is not None:
            self._note(alias, service, error)

    def computed(self, alias: Alias | None, service: ServiceName, queue_s: float, compute_s: float) -> None:
        """A pass through a model counts as the time between two tokens: what is compared is how long it takes."""
        if alias is not None and alias.canary is not None:
            done = Done(
                reason="stop", prompt_tokens=0, completion_tokens=2, cached_tokens=0, queue_s=queue_s, prefill_s=0.0,
                decode_s=compute_s,
            )  # fmt: skip
            self._note(alias, service, done)

    def _choose(self, routes: Routes, alias: Alias) -> Route:
        by_name = {route.name: route for route in routes.routes}
        there = [(share, by_name[share.service]) for share in alias.shares if share.service in by_name]
        if not there:
            raise ModelNotFound(f"{alias.name!r} stands for services that are not there any more", param="model")
        ready = [pair for pair in there if pair[1].takes_requests]
        weights = [self._weight(alias, share.service, share.weight) for share, _ in ready]
        if not any(weights):  # nobody who should: whoever is there says why not, or answers at least
            others = [route for share, route in there if share.service != alias.canary]
            return others[0] if others else there[0][1]
        return ready[choose_share(weights, self._draw())][1]

    def _weight(self, alias: Alias, service: ServiceName, weight: int) -> int:
        is_back = service == alias.canary and (alias.returned or (alias.name, alias.revision) in self._returned)
        return 0 if is_back else weight

    def _note(self, alias: Alias, service: ServiceName, end: Done | ThaloomError) -> None:
        key = (alias.name, alias.revision)
        tallies = self._tallies.setdefault(key, {})
        tally = tallies.setdefault(service, Tally())
        if isinstance(end, Done):
            tally.answered(end)
        elif is_ours(end):
            tally.failed()
        if alias.canary is None or key in self._returned or alias.canary not in tallies:
            return
        usual = [each.outcomes() for name, each in tallies.items() if name != alias.canary]
        reason = verdict(tallies[alias.canary].outcomes(), _together(usual), self._limits)
        if reason is not None:
            self._returned[key] = reason
            self._emit(CanaryReturned(alias=alias.name, service=alias.canary, reason=reason))
            self._on_return(alias, reason)


def _together(parts: Sequence[Outcomes]) -> Outcomes:
    return Outcomes(
        requests=sum(part.requests for part in parts),
        failures=sum(part.failures for part in parts),
        first_token_s=[second for part in parts for second in part.first_token_s],
        token_s=[second for part in parts for second in part.token_s],
    )


class _Watched(AsyncIterator[Item]):
    def __init__(self, answer: AsyncIterator[Item], note: Callable[[Done | ThaloomError], None]) -> None:
        self._answer = answer
        self._note = note
        self.prompt_tokens: int | None = getattr(answer, "prompt_tokens", None)
        self.degraded: str | None = getattr(answer, "degraded", None)

    async def __anext__(self) -> Item:
        try:
            item = await anext(self._answer)
        except ThaloomError as error:
            self._note(error)
            raise
        if isinstance(item, Done):
            self._note(item)
        return item

    async def aclose(self) -> None:
        close = getattr(self._answer, "aclose", None)
        if close is not None:
            await close()
