"""Phases, conditions, back-offs and what is remembered between rounds."""

from __future__ import annotations

import dataclasses
import math

import pytest

from thaloom.base.ids import ServiceName
from thaloom.init.rounds.actions import Hold
from thaloom.init.rounds.backoff import CRASH_LOOP, FIRST_S, FORGIVEN_AFTER_S, LONGEST_S, Backoff
from thaloom.init.rounds.conditions import Evidence, complete, conditions, judge, keep_since
from thaloom.init.rounds.last_words import LastWords
from thaloom.init.rounds.records import Records

A = ServiceName("a")
LOOPING = Backoff(failures=CRASH_LOOP, unready=CRASH_LOOP)
SHORT = LastWords(reason="OutOfMemory", message="needs 5, 3 free", short=True)
HOLD = Hold(service=A, reason="OutOfMemory", message="needs 5, 3 free")


@pytest.mark.parametrize(
    ("evidence", "phase", "reason"),
    [
        (Evidence(), "loading", "Starting"),
        (Evidence(alive=True), "loading", "Loading"),
        (Evidence(alive=True, ready=True), "ready", "Serving"),
        (Evidence(alive=True, ready=True, late=True), "ready", "Serving"),
        (Evidence(alive=True, ready=True, stopping="down"), "stopping", "Stopping"),
        (Evidence(alive=True, ready=True, stopping="wish changed"), "loading", "Stopping"),
        (Evidence(idle=True), "idle", "Idle"),
        (Evidence(idle=True, alive=True, ready=True), "idle", "Idle"),
        (Evidence(idle=True, alive=True, ready=True, stopping="idle"), "idle", "Idle"),
        (Evidence(waking=True), "loading", "Waking"),
        (Evidence(waking=True, alive=True, ready=True, stopping="idle"), "loading", "Loading"),
        (Evidence(waking=True, alive=True, ready=True), "ready", "Serving"),
        (Evidence(hold=HOLD), "pending", "OutOfMemory"),
        (Evidence(backoff=Backoff(failures=1)), "loading", "Restarting"),
        (Evidence(backoff=Backoff(failures=1), last_words=SHORT), "pending", "OutOfMemory"),
        (Evidence(backoff=Backoff(failures=1), last_words=SHORT, waking=True), "loading", "OutOfMemory"),
        (Evidence(backoff=Backoff(failures=1), last_words=SHORT, alive=True), "loading", "Loading"),
        (Evidence(backoff=LOOPING), "failed", "Crashed"),
        (Evidence(alive=True, backoff=LOOPING), "failed", "Crashed"),
        (Evidence(alive=True, ready=True, backoff=LOOPING), "ready", "Serving"),
        (Evidence(backoff=Backoff(failures=1, next_try_at=math.inf)), "failed", "Crashed"),
    ],
)
def test_phase(evidence: Evidence, phase: str, reason: str) -> None:
    verdict = judge(evidence)
    assert (verdict.phase, verdict.reason) == (phase, reason)


def test_a_failed_service_says_what_its_worker_said() -> None:
    words = LastWords(reason="CorruptObject", message="model.safetensors is altered", hopeless=True)
    verdict = judge(Evidence(backoff=Backoff().lost(0.0, ready_since=None, hopeless=True), last_words=words))
    assert (verdict.phase, verdict.reason, verdict.message) == ("failed", words.reason, words.message)


def test_what_is_degraded_is_told() -> None:
    late = Evidence(alive=True, ready=True, late=True, degraded="no compiler")
    ready, degraded = conditions(late, judge(late))
    assert (ready.kind, ready.status) == ("Ready", True)
    assert (degraded.kind, degraded.reason) == ("Degraded", "HeartbeatLate")
    slow = Evidence(alive=True, ready=True, degraded="no compiler")
    assert conditions(slow, judge(slow))[1].message == "no compiler"
    fine = Evidence(alive=True, ready=True)
    assert len(conditions(fine, judge(fine))) == 1


def test_a_worker_whose_model_was_replaced_is_outdated_and_still_ready() -> None:
    evidence = Evidence(alive=True, ready=True, degraded="no compiler", outdated="it runs aaa, 'm' is bbb now")
    told = {condition.kind: condition for condition in conditions(evidence, judge(evidence))}
    assert told["Ready"].status
    assert (told["Outdated"].reason, told["Outdated"].message) == ("ModelReplaced", "it runs aaa, 'm' is bbb now")
    assert "Degraded" in told


def test_a_condition_keeps_its_beginning_while_it_says_the_same() -> None:
    loading, ready = Evidence(alive=True), Evidence(alive=True, ready=True)
    first = keep_since(conditions(loading, judge(loading)), (), 1.0)
    again = keep_since(conditions(loading, judge(loading)), first, 2.0)
    assert again[0].since == 1.0
    assert keep_since(conditions(ready, judge(ready)), again, 3.0)[0].since == 3.0


def test_what_is_not_degraded_has_not_been_since_some_moment() -> None:
    ready = Evidence(alive=True, ready=True)
    late = dataclasses.replace(ready, late=True)
    first = keep_since(complete(conditions(ready, judge(ready))), (), 1.0)
    assert [(one.kind, one.status, one.since) for one in first] == [("Ready", True, 1.0), ("Degraded", False, 1.0)]
    then = keep_since(complete(conditions(late, judge(late))), first, 2.0)
    assert [(one.kind, one.status, one.since) for one in then] == [("Ready", True, 1.0), ("Degraded", True, 2.0)]


def test_another_reason_is_no_other_beginning() -> None:
    loading, held = Evidence(alive=True), Evidence(hold=HOLD)
    first = keep_since(conditions(loading, judge(loading)), (), 1.0)
    (then,) = keep_since(conditions(held, judge(held)), first, 2.0)
    assert (then.reason, then.since) == ("OutOfMemory", 1.0)


def test_back_off_doubles_to_its_longest() -> None:
    backoff, waits = Backoff(), []
    for _ in range(12):
        backoff = backoff.lost(50.0, ready_since=None)
        waits.append(backoff.next_try_at - 50.0)
    assert waits[:4] == pytest.approx([FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S])
    assert max(waits) == pytest.approx(LONGEST_S)
    assert backoff.failed


def test_a_long_life_forgives_earlier_losses() -> None:
    backoff = Backoff(failures=9, unready=2).lost(100.0, ready_since=100.0 - FORGIVEN_AFTER_S)
    assert (backoff.failures, backoff.unready) == (1, 0)
    short = Backoff(failures=2).lost(100.0, ready_since=99.0)
    assert short.failures == 3
    assert not short.failed


def test_what_had_worked_is_started_again_at_once_but_only_once() -> None:
    once = Backoff().lost(10.0, ready_since=9.0)
    assert once.next_try_at == 10.0
    assert once.lost(11.0, ready_since=10.5).next_try_at == pytest.approx(11.0 + 2 * FIRST_S)


def test_hopeless_is_not_tried_again() -> None:
    backoff = Backoff().lost(0.0, ready_since=None, hopeless=True)
    assert backoff.next_try_at == math.inf
    assert backoff.failed


def test_who_lacked_memory_is_tried_again_less_often_and_never_counts_as_failed() -> None:
    backoff, waits = Backoff(), []
    for _ in range(2 * CRASH_LOOP):
        backoff = backoff.lost(50.0, ready_since=None, short=True)
        waits.append(backoff.next_try_at - 50.0)
    assert waits == sorted(waits)
    assert waits[-1] > waits[0]
    assert not backoff.failed
    for _ in range(CRASH_LOOP):
        backoff = backoff.lost(50.0, ready_since=None)
    assert backoff.failed, "what crashes is no better for having lacked memory before"


def test_records_start_afresh_with_a_new_wish_and_forget_a_removed_one() -> None:
    records = Records()
    words = LastWords(reason="Crashed", message="boom")
    records.lost(A, words, now=0.0, ready_since=None)
    assert records.lost(A, words, now=1.0, ready_since=None).failures == 2
    assert (records.restarts(A), records.last_words(A)) == (2, words)
    assert records.backoff(None) == Backoff()
    records.renew(A)
    assert records.backoff(A) == Backoff()
    assert records.last_words(A) == LastWords()
    assert records.restarts(A) == 2
    records.remove(A)
    assert records.restarts(A) == 0


def test_a_hold_is_news_once() -> None:
    records = Records()
    assert records.keep_holds([HOLD]) == [HOLD]
    assert records.keep_holds([HOLD]) == []
    assert records.hold(A) == HOLD
    other = Hold(service=A, reason="ModelNotFound", message="")
    assert records.keep_holds([other]) == [other]
    assert records.keep_holds([]) == []
    assert records.hold(A) is None
