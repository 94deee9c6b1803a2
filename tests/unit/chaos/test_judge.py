"""The judge lets pass what a fault explains, and flags everything else."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.chaos.facts import Facts, Harm, Health, Served, Worked
from tests.chaos.judge import ERROR_WITHIN_S, HEALED_WITHIN_S, Verdict, judge

WORKER = Harm(kind="worker", fault=0, at=10.0, done_at=10.01, over_at=10.01, service="plain")
DOOR = Harm(kind="door", fault=1, at=10.0, done_at=10.01, over_at=10.01)
KEY = Harm(kind="key", fault=2, at=10.0, done_at=10.05, over_at=10.05, key="c0")
DISK = Harm(kind="disk", fault=3, at=10.0, done_at=10.2, over_at=16.0)
DAEMON = Harm(kind="daemon", fault=4, at=10.0, done_at=10.01, over_at=11.0)
WELL = tuple(Health(at=float(at)) for at in range(30))


def sick(what: str, begin: float, end: float) -> list[Health]:
    """Looks each tenth of a second, for 30 s."""
    moments = [number / 10 for number in range(300)]
    return [Health(at=at, missing=(what,) if begin <= at < end else ()) for at in moments]


def request(**facts: Any) -> Served:
    usual: dict[str, Any] = {
        "client": "stream 0", "what": "stream", "service": "plain", "key": "c0", "begun_at": 9.0, "ended_at": 10.1,
        "outcome": "whole",
    }  # fmt: skip
    return Served(**usual | facts)


def verdict(*requests: Served, harms: tuple[Harm, ...] = (), health: Any = WELL) -> Verdict:
    facts = Facts(replicas={"plain": 1, "twice": 2})
    facts.requests += requests
    facts.harms += harms
    facts.health += health
    return judge(facts)


def allowed(served: Served, *harms: Harm, health: Any = WELL) -> str | None:
    """The class of it, or None if it is flagged."""
    found = verdict(served, harms=harms, health=health)
    return None if found.failures else next(iter(found.outcomes))


LOST = request(outcome="error", code="worker_lost")
CLOSED = request(outcome="closed")
TURNED_AWAY = request(outcome="error", code="service_loading", told_again=True, begun_at=10.5, ended_at=10.6)


def test_all_well() -> None:
    found = verdict(request(), request(what="write"))
    assert (found.failures, found.outcomes, found.failed_by_kills, found.bound) == ((), {"whole": 2}, 0, 0)


def test_a_request_on_a_killed_worker_may_fail_in_time() -> None:
    assert allowed(LOST, WORKER) == "on a killed worker"
    assert allowed(dataclasses.replace(LOST, ended_at=10.01 + ERROR_WITHIN_S), WORKER) == "on a killed worker"


@pytest.mark.parametrize(
    "harm",
    [
        dataclasses.replace(WORKER, service="twice"),
        dataclasses.replace(WORKER, at=8.0, done_at=8.1, over_at=8.1),
        dataclasses.replace(WORKER, at=10.2, done_at=10.3, over_at=10.3),
        DOOR,
        DAEMON,
        DISK,
        KEY,
    ],
    ids=["another service's", "dead before it began", "killed after it had failed", "door", "daemon", "disk", "key"],
)
def test_a_lost_worker_that_nobody_killed_is_flagged(harm: Harm) -> None:
    assert allowed(LOST, harm) is None
    assert allowed(LOST) is None


def test_an_error_that_comes_too_late_is_flagged() -> None:
    assert allowed(dataclasses.replace(LOST, ended_at=10.02 + ERROR_WITHIN_S), WORKER) is None
    assert allowed(dataclasses.replace(CLOSED, ended_at=10.02 + ERROR_WITHIN_S), DOOR) is None


def test_a_connection_may_end_with_the_door_and_with_nothing_else() -> None:
    assert allowed(CLOSED, DOOR) == "at a killed door"
    assert allowed(CLOSED, WORKER) is None
    assert allowed(CLOSED, DAEMON) is None


def test_nobody_may_hang_or_get_other_tokens() -> None:
    for harms in ((), (WORKER, DOOR, DAEMON, DISK, KEY)):
        assert allowed(request(outcome="hung"), *harms) is None
        assert allowed(request(outcome="wrong"), *harms) is None
        assert allowed(dataclasses.replace(LOST, in_order=False), *harms) is None
        assert allowed(request(in_order=False), *harms) is None


@pytest.mark.parametrize(
    "code", ["internal_error", "deadline_exceeded", "queue_full", "state_unusable", "not_typed", ""]
)
def test_other_errors_are_flagged_whatever_happens(code: str) -> None:
    assert allowed(request(outcome="error", code=code), WORKER, DOOR, DAEMON, DISK, KEY) is None


def test_a_service_may_turn_away_while_all_its_workers_are_away() -> None:
    away = sick("service plain", 10.0, 11.0)
    assert allowed(TURNED_AWAY, WORKER, health=away) == "nobody to serve it"
    assert allowed(TURNED_AWAY, health=away) is None
    assert allowed(dataclasses.replace(TURNED_AWAY, told_again=False), WORKER, health=away) is None
    late = dataclasses.replace(TURNED_AWAY, begun_at=13.1, ended_at=13.2)
    assert allowed(late, WORKER, health=away) is None, "it was back by then"


def test_one_of_two_workers_is_no_reason_to_turn_anybody_away() -> None:
    away = sick("service twice", 10.0, 11.0)
    first = dataclasses.replace(WORKER, service="twice")
    second = dataclasses.replace(first, fault=9, at=10.3, done_at=10.31, over_at=10.31)
    turned = dataclasses.replace(TURNED_AWAY, service="twice")
    assert allowed(turned, first, health=away) is None
    assert allowed(turned, first, second, health=away) == "nobody to serve it"


def test_no_door_only_after_one_was_killed_and_until_the_next() -> None:
    gone = sick("door", 10.0, 11.0)
    refused = request(outcome="refused", begun_at=10.5, ended_at=10.5)
    assert allowed(refused, DOOR, health=gone) == "no door"
    assert allowed(refused, WORKER, DAEMON, health=gone) is None
    assert allowed(dataclasses.replace(refused, begun_at=12.0, ended_at=12.0), DOOR, health=gone) is None


def test_a_door_is_not_back_while_nobody_can_say_so() -> None:
    """The daemon is away too: that no door was seen to be missing says nothing."""
    unknown = sick("daemon", 10.0, 13.0)
    refused = request(outcome="refused", begun_at=12.0, ended_at=12.0)
    assert allowed(refused, DOOR, DAEMON, health=unknown) == "no door"


def test_a_key_turns_away_only_when_it_was_taken_back() -> None:
    turned = request(outcome="error", code="unauthorized")
    assert allowed(turned, KEY) == "key taken back"
    assert allowed(dataclasses.replace(turned, code="rate_limited"), KEY) == "key taken back", "who goes on showing it"
    assert allowed(dataclasses.replace(turned, code="rate_limited"), DAEMON) is None
    fresh = dataclasses.replace(turned, key=f"{KEY.key}-57-3", code="rate_limited", told_again=True)
    assert allowed(fresh, KEY) == "slowed down", "its holder has shown the old one too often"
    assert allowed(dataclasses.replace(fresh, told_again=False), KEY) is None
    assert allowed(dataclasses.replace(fresh, code="unauthorized"), KEY) is None
    assert allowed(dataclasses.replace(fresh, key="c99-57-3"), KEY) is None
    assert allowed(dataclasses.replace(fresh, begun_at=90.0, ended_at=90.0), KEY) is None
    assert allowed(turned, dataclasses.replace(KEY, key="c1")) is None
    assert allowed(dataclasses.replace(turned, begun_at=9.0, ended_at=9.9), KEY) is None
    assert allowed(turned, DAEMON, DOOR, WORKER) is None


def test_who_is_let_in_by_a_key_that_was_taken_back_is_flagged() -> None:
    assert allowed(request(begun_at=10.06, ended_at=10.5), KEY) is None
    assert allowed(request(begun_at=10.06, ended_at=10.5, outcome="closed", num_chars=3), KEY, DOOR) is None
    assert allowed(request(begun_at=10.02, ended_at=10.5), KEY) == "whole", "the node had not yet said that it is done"
    assert allowed(request(begun_at=9.0, ended_at=12.0), KEY) == "whole", "it began before"


def test_a_full_disk_may_turn_away_who_writes_and_nobody_else() -> None:
    full = request(outcome="error", code="disk_full", what="write", begun_at=11.0, ended_at=11.1)
    assert allowed(full, DISK) == "disk full"
    assert allowed(dataclasses.replace(full, what="stream"), DISK) is None
    assert allowed(dataclasses.replace(full, begun_at=16.5, ended_at=16.6), DISK) is None
    assert allowed(full) is None


def test_the_bound_is_what_was_in_flight_on_the_killed_process() -> None:
    bystanders = [
        request(begun_at=9.0, ended_at=10.5),  # on its way too, and whole
        request(begun_at=9.0, ended_at=9.9),
        request(begun_at=10.1, ended_at=10.5),
        request(begun_at=9.0, ended_at=10.5, service="twice"),
    ]
    found = verdict(LOST, *bystanders, harms=(WORKER,))
    (kill,) = found.kills
    assert (kill.failed, kill.in_flight, kill.slowest_s) == (1, 2, 0.09)
    assert (found.failed_by_kills, found.bound, found.failures) == (1, 2, ())
    (kill,) = verdict(CLOSED, *bystanders, harms=(DOOR,)).kills
    assert (kill.failed, kill.in_flight) == (1, 3), "a door has the requests of all services"


def test_who_came_through_the_death_of_a_daemon_is_counted() -> None:
    found = verdict(request(), request(ended_at=9.9), request(begun_at=10.02, ended_at=11.0), harms=(DAEMON,))
    assert (found.unhurt, found.failures) == (1, ())
    assert verdict(request(), harms=(WORKER,)).unhurt == 0


JOB = Worked(
    name="j", wanted=0, phase="succeeded", exit_code=0, ended_by="exit", num_attempts=1, begun=(1,), ended=(1,)
)
KILLED = Harm(kind="job", fault=7, at=10.0, done_at=10.01, over_at=10.01, service="j")
AGAIN = dataclasses.replace(JOB, num_attempts=2, begun=(1, 2), ended=(2,))


def job_failures(job: Worked, *harms: Harm) -> tuple[str, ...]:
    facts = Facts(replicas={})
    facts.jobs.append(job)
    facts.harms += harms
    return judge(facts).failures


def test_jobs_that_end_as_they_were_made_to_pass() -> None:
    assert job_failures(JOB) == ()
    assert job_failures(AGAIN, KILLED) == ()
    assert job_failures(dataclasses.replace(AGAIN, begun=(2,)), KILLED) == (), "killed before it could say a word"
    seven = dataclasses.replace(JOB, wanted=7, phase="failed", exit_code=7)
    assert job_failures(seven) == ()
    assert job_failures(dataclasses.replace(seven, exit_code=None, ended_by="lost", ended=()), KILLED) == ()


@pytest.mark.parametrize(
    ("job", "harms"),
    [
        (AGAIN, ()),
        (AGAIN, (dataclasses.replace(KILLED, service="another"),)),
        (AGAIN, (DAEMON, WORKER, DOOR, DISK)),
        (dataclasses.replace(AGAIN, begun=(1, 2, 2)), (KILLED,)),
        (dataclasses.replace(JOB, begun=(1, 2)), ()),
        (dataclasses.replace(JOB, ended=()), (KILLED,)),
        (dataclasses.replace(JOB, phase="failed", exit_code=None, ended_by="lost"), (KILLED,)),
        (dataclasses.replace(JOB, phase="failed", exit_code=1), ()),
        (dataclasses.replace(JOB, wanted=7), ()),
        (dataclasses.replace(JOB, wanted=7, phase="failed", exit_code=None, ended_by="lost"), (DAEMON,)),
    ],
    ids=[
        "tried again", "another was killed", "a daemon is no reason", "twice by one number", "more than it says",
        "did not come to its end", "given up though it was to be tried again", "another code", "success it was not",
        "failed by nobody",
    ],
)  # fmt: skip
def test_jobs_that_do_not_are_flagged(job: Worked, harms: tuple[Harm, ...]) -> None:
    assert len(job_failures(job, *harms)) == 1


def test_a_node_that_does_not_heal_is_flagged() -> None:
    for harms in ((WORKER,), (WORKER, DAEMON)):
        last = max(harm.over_at for harm in harms)
        in_time = sick("service plain", 10.0, last + HEALED_WITHIN_S - 3)
        assert verdict(harms=harms, health=in_time).failures == ()
    long = [Health(at=0.0), Health(at=10.0, missing=("door",)), Health(at=11.1 + HEALED_WITHIN_S)]
    assert "after the last fault: door" in verdict(harms=(DAEMON,), health=long).failures[0]
    assert "at the end: door" in verdict(health=[Health(at=1.0, missing=("door",))]).failures[-1]


def test_a_node_that_falls_ill_by_itself_and_stays_so_is_flagged() -> None:
    long = [Health(at=0.0), Health(at=50.0, missing=("door",)), Health(at=51.0 + HEALED_WITHIN_S)]
    assert len(verdict(harms=(WORKER,), health=long).failures) == 1


def test_what_others_found_wrong_stays_wrong() -> None:
    facts = Facts(replicas={})
    facts.failures.append("a leak")
    assert judge(facts).failures == ("a leak",)


def test_recoveries_are_told_by_kind_and_those_overlapped_apart() -> None:
    facts = Facts(replicas={"plain": 1})
    later = dataclasses.replace(WORKER, fault=5, at=20.0, done_at=20.01, over_at=20.01)
    into_it = dataclasses.replace(DAEMON, fault=6, at=20.3, done_at=20.3, over_at=20.4)
    facts.harms += [WORKER, later, into_it]
    facts.health += [
        Health(at=number / 10, missing=("service plain",) if 101 <= number < 110 or 201 <= number < 213 else ())
        for number in range(300)
    ]
    found = judge(facts, {0: "kill_worker", 5: "kill_worker", 6: "kill_daemon"}).recoveries
    told = found["kill_worker"]
    assert (told.alone.count, told.alone.median, told.alone.max) == (1, 0.99, 0.99)
    assert (told.all.count, told.all.median, told.all.max) == (2, 1.14, 1.29)
    assert (found["kill_daemon"].alone.count, found["kill_daemon"].all.max) == (0, 0.9)
