"""Which failures the faults allow. Everything else fails the run.

    a request on a killed worker    a typed error `worker_lost` within 2 s of its death
    a request at a killed door      a closed connection within 2 s; while there is no door, a refused one
    nobody to serve it              `service_loading` with a time to come again, only while as many of the service's
                                    workers are away by our doing as it has
    a key that was taken back       `unauthorized`, from the moment the wish for it was sent; and nothing else from the
                                    moment the node said it is done; `rate_limited` for who goes on showing it, and for
                                    a while for the key he gets in its stead
    a full disk                     `disk_full`, for who writes, only while it is full

    a job that was killed           another attempt for each kill, or its failure where it is not to be tried again

A daemon's death allows nothing. Of each killed process the requests in flight are counted: no more can fail by it.
Pure: facts in, a verdict out.
"""

from __future__ import annotations

import bisect
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.chaos.facts import Facts, Harm, Health, Served, Worked

ERROR_WITHIN_S = 2.0
SLACK_S = 0.5
"""Between two looks at the node."""
SLOWED_S = 60.0
"""A client that goes on showing a key that was taken back may show no other that the door has not seen yet, for some
seconds from its last (sched.guesses); it gets another one after half a minute at most."""
HEARD_S = 2.0
"""For the door to hear of a worker that the daemon knows: with half a second, at a load of thirteen on two cores, two
of 24,000 requests were turned away later than that."""
HEALED_WITHIN_S = 20.0
"""From the end of the last fault until the node is as wished, with the longest back-off in it (10 s)."""
FOREVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """A killed process that served requests: how many could fail by it, and how many did."""

    kind: str
    service: str
    fault: int
    in_flight: int
    """Of a service with several workers: of all of them, for which had which is not known here."""
    failed: int
    slowest_s: float
    """From its death to the last of the errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Seconds."""

    count: int
    median: float
    p95: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """From the end of faults of one kind to the first look that found the node as wished. Into most faults others come,
    or they come into others, which then take their time too: `alone` is of those to which that did not happen."""

    all: Spread
    alone: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    requests: int
    jobs: int
    attempts: int
    """Of all jobs."""
    outcomes: Mapping[str, int]
    """By class, as above."""
    kills: tuple[Kill, ...]
    unhurt: int
    """Requests that were on their way while a daemon died, and came whole to their end."""
    recoveries: Mapping[str, Recovery]
    failures: tuple[str, ...]
    """What no fault allows."""

    @property
    def failed_by_kills(self) -> int:
        return sum(kill.failed for kill in self.kills)

    @property
    def bound(self) -> int:
        """So many requests were in flight on the processes that were killed."""
        return sum(kill.in_flight for kill in self.kills)


def judge(facts: Facts, kinds: Mapping[int, str] | None = None) -> Verdict:
    """`kinds`: of the faults, by number; recoveries are told by them."""
    court = _Court(facts)
    classes: Counter[str] = Counter()
    failures: list[str] = list(facts.failures)
    for request in facts.requests:
        found = court.hear(request)
        if found.startswith("!"):
            failures.append(f"{_name(request)}: {found[1:]}")
            classes["not allowed"] += 1
        else:
            classes[found] += 1
    kills = tuple(court.kills())
    failures += [
        f"{kill.failed} requests failed by the end of one {kill.kind} {kill.service}, {kill.in_flight} were in flight"
        for kill in kills
        if kill.failed > kill.in_flight
    ]
    failures += misdone(facts.jobs, facts.harms)
    failures += sicknesses(facts.health, facts.harms)
    return Verdict(
        requests=len(facts.requests),
        jobs=len(facts.jobs),
        attempts=sum(job.num_attempts for job in facts.jobs),
        outcomes=dict(classes.most_common()),
        kills=kills,
        unhurt=court.unhurt(),
        recoveries=recoveries(facts.health, facts.harms, kinds or {}),
        failures=tuple(failures),
    )


class _Court:
    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._by_kind: defaultdict[str, list[Harm]] = defaultdict(list)
        for harm in facts.harms:
            self._by_kind[harm.kind].append(harm)
        self._blamed: defaultdict[int, list[float]] = defaultdict(list)
        """By the harm's id: seconds from the death to each error."""

    def hear(self, request: Served) -> str:
        """The class of what became of it; `!` and why, if nothing allows that."""
        if not request.in_order:
            return f"!its tokens are not those of the known answer ({request.words})"
        if (late := self._let_in_after_all(request)) is not None:
            return f"!{late}"
        match request.outcome:
            case "whole":
                return "whole"
            case "wrong":
                return f"!it ended well, and is not the known answer ({request.words})"
            case "hung":
                return "!it never ended"
            case "refused":
                return self._no_door(request)
            case "closed":
                return self._cut(request)
            case "error":
                return self._error(request)

    def _error(self, request: Served) -> str:
        match request.code:
            case "worker_lost":
                return self._lost(request)
            case "service_loading":
                return self._nobody(request)
            case "unauthorized" | "rate_limited":  # who goes on showing one is slowed down
                taken = [harm for harm in self._by_kind["key"] if harm.key == request.key]
                if any(harm.at <= request.ended_at for harm in taken):
                    return "key taken back"
                mine = [harm for harm in self._by_kind["key"] if _holder(harm.key) == _holder(request.key)]
                slowed = any(harm.at <= request.ended_at <= harm.done_at + SLOWED_S for harm in mine)
                if request.code == "rate_limited" and request.told_again and slowed:
                    return "slowed down"
                return "!a key that nobody had taken back was turned away"
            case "disk_full" if request.what == "write":
                if any(harm.at <= request.ended_at and request.begun_at <= harm.over_at for harm in self._disks()):
                    return "disk full"
                return "!the disk was not full"
        return f"!error {request.code!r} ({request.words})"

    def _lost(self, request: Served) -> str:
        suspects = [
            harm for harm in self._by_kind["worker"] if harm.service == request.service and _in_flight(request, harm)
        ]
        return self._blame(request, suspects, "on a killed worker", "no worker of its service was killed meanwhile")

    def _cut(self, request: Served) -> str:
        suspects = [harm for harm in self._by_kind["door"] if _in_flight(request, harm)]
        return self._blame(request, suspects, "at a killed door", "no door was killed meanwhile")

    def _blame(self, request: Served, suspects: Sequence[Harm], allowed: str, otherwise: str) -> str:
        if not suspects:
            return f"!{request.code or request.outcome}, and {otherwise} ({request.words})"
        harm = max(suspects, key=lambda harm: harm.at)
        after_s = max(0.0, request.ended_at - harm.done_at)
        if after_s > ERROR_WITHIN_S:
            return f"!told {after_s:.2f} s after the {harm.kind} died"
        self._blamed[id(harm)].append(after_s)
        return allowed

    def _no_door(self, request: Served) -> str:
        for harm in self._by_kind["door"]:
            if harm.at <= request.ended_at and request.begun_at <= self._door_back_at(harm) + SLACK_S:
                return "no door"
        return "!refused, and no door was killed"

    def _nobody(self, request: Served) -> str:
        if not request.told_again:
            return "!turned away without being told when to come again"
        away = [
            harm
            for harm in self._by_kind["worker"]
            if harm.service == request.service
            and harm.at <= request.ended_at
            and request.begun_at <= self._back_at(harm, f"service {request.service}") + HEARD_S
        ]
        if len(away) >= self._facts.replicas[request.service]:
            return "nobody to serve it"
        return f"!turned away, and {len(away)} of {self._facts.replicas[request.service]} workers were away"

    def _let_in_after_all(self, request: Served) -> str | None:
        """Who shows a key after the node has said it is taken back must not even see an answer begin."""
        for harm in self._by_kind["key"]:
            late = harm.key == request.key and request.begun_at > harm.done_at
            if late and (request.outcome in ("whole", "wrong") or request.num_chars > 0):
                return f"let in by a key that was taken back {request.begun_at - harm.done_at:.2f} s before"
        return None

    def _disks(self) -> list[Harm]:
        return self._by_kind["disk"]

    def _door_back_at(self, harm: Harm) -> float:
        return self._back_at(harm, "door")

    def _back_at(self, harm: Harm, what: str) -> float:
        """When the node was first seen not to miss it any more."""
        for health in self._facts.health:
            if health.at >= harm.done_at and what not in health.missing and "daemon" not in health.missing:
                return health.at
        return FOREVER

    def unhurt(self) -> int:
        daemons = self._by_kind["daemon"]
        whole = (request for request in self._facts.requests if request.outcome == "whole")
        return sum(any(_in_flight(request, harm) for harm in daemons) for request in whole)

    def kills(self) -> list[Kill]:
        return [
            Kill(
                kind=harm.kind,
                service=harm.service,
                fault=harm.fault,
                in_flight=sum(
                    _in_flight(request, harm) and harm.service in ("", request.service)
                    for request in self._facts.requests
                ),
                failed=len(self._blamed[id(harm)]),
                slowest_s=round(max(self._blamed[id(harm)], default=0.0), 3),
            )
            for harm in self._facts.harms
            if harm.kind in ("worker", "door")
        ]


def _in_flight(request: Served, harm: Harm) -> bool:
    """On its way while the process died. What the door refused before it reached any worker never was."""
    return request.begun_at <= harm.done_at and request.ended_at >= harm.at


def misdone(jobs: Sequence[Worked], harms: Sequence[Harm]) -> list[str]:
    """Jobs that did not end as they were made to, or did something twice, and no kill explains it."""
    kills = Counter(harm.service for harm in harms if harm.kind == "job")
    found = []
    for job in jobs:
        told = f"{job.name}: {job.phase} by {job.ended_by}, code {job.exit_code}, attempts {job.num_attempts}"
        told += f" (began {job.begun}, ended {job.ended}), kills {kills[job.name]} ({job.words})"
        killed = kills[job.name] > 0
        as_wanted = job.exit_code == job.wanted and job.phase == ("failed" if job.wanted else "succeeded")
        given_up = killed and bool(job.wanted) and job.phase == "failed"  # those are not tried again
        if not as_wanted and not given_up:
            found.append(f"not its own end: {told}")
        elif job.num_attempts > 1 + kills[job.name]:
            found.append(f"tried again, and nobody killed it: {told}")
        elif len(set(job.begun)) < len(job.begun) or not {*job.begun} <= {*range(1, job.num_attempts + 1)}:
            found.append(f"an attempt was made twice: {told}")
        elif as_wanted and job.num_attempts not in job.ended:
            found.append(f"over before its program came to an end: {told}")
    return found


def sicknesses(health: Sequence[Health], harms: Sequence[Harm]) -> list[str]:
    """Times in which the node was not as wished for longer than the faults before their end explain."""
    found = []
    for begin, end in _sick(health):
        last = max((harm.over_at for harm in harms if harm.at < end), default=-FOREVER)
        if end - max(begin, last) > HEALED_WITHIN_S:
            missing = next(each.missing for each in health if each.at == begin)
            found.append(f"not as wished for {end - max(begin, last):.1f} s after the last fault: {', '.join(missing)}")
    if health and not health[-1].whole:
        found.append(f"not as wished at the end: {', '.join(health[-1].missing)}")
    return found


def _sick(health: Sequence[Health]) -> list[tuple[float, float]]:
    spans: list[tuple[float, float]] = []
    begin: float | None = None
    for each in health:
        if each.whole and begin is not None:
            spans.append((begin, each.at))
            begin = None
        elif not each.whole and begin is None:
            begin = each.at
    return spans


def recoveries(health: Sequence[Health], harms: Sequence[Harm], kinds: Mapping[int, str]) -> dict[str, Recovery]:
    """By kind of fault, in order of name."""
    by_fault: defaultdict[int, list[Harm]] = defaultdict(list)
    for harm in harms:
        by_fault[harm.fault].append(harm)
    times: defaultdict[str, list[float]] = defaultdict(list)
    alone: defaultdict[str, list[float]] = defaultdict(list)
    moments = [each.at for each in health]
    for fault, own in by_fault.items():
        over_at = max(harm.over_at for harm in own)
        seen = next((each for each in health[bisect.bisect_right(moments, over_at) :] if each.whole), None)
        if seen is None:
            continue  # told by `sicknesses`
        name = kinds.get(fault, "?")
        at = min(harm.at for harm in own)
        before = health[max(0, bisect.bisect_left(moments, at) - 1)]
        others = any(harm.fault != fault and harm.at < seen.at and harm.over_at > at for harm in harms)
        times[name].append(seen.at - over_at)
        if before.whole and not others:
            alone[name].append(seen.at - over_at)
    return {name: Recovery(all=_spread(times[name]), alone=_spread(alone[name])) for name in sorted(times)}


def _spread(seconds: list[float]) -> Spread:
    seconds.sort()
    if not seconds:
        return Spread(count=0, median=0.0, p95=0.0, max=0.0)
    p95 = seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))]
    median = round(statistics.median(seconds), 3)
    return Spread(count=len(seconds), median=median, p95=round(p95, 3), max=round(seconds[-1], 3))


def _name(request: Served) -> str:
    when = f"{request.begun_at:.2f} to {request.ended_at:.2f} s"
    return f"{request.client} to {request.service!r} with {request.key}, {when}"


def _holder(key: str) -> str:
    """The client a key is for, by its name (Striking): c14, then c14-57-0."""
    return key.partition("-")[0]
