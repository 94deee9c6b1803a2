"""Turns that processes take from each other, and what becomes of the killed, the stopped and the damaged."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.killing import Step, killed_at
from tests.mortals import die
from tests.turnstiles import assert_no_crowd, process, watched
from thaloom.base.errors import DeadlineExceeded, StateUnusable
from thaloom.base.shared_words import PATIENCE_S
from thaloom.kernel.sched import turns as sched_turns
from thaloom.work.runtime.turns import place as turnstile_place
from thaloom.work.runtime.turns.file import (
    BUSY_AT,
    HEADER,
    HOLDING,
    LENGTH,
    SEAT_WORDS,
    SEATS,
    SERVICE,
    SINCE,
    STATE,
    TAKEN_AT,
    WAITING,
    WIDTH_AT,
    base_of,
)  # fmt: skip
from thaloom.work.runtime.turns.place import AT_ONCE, Place
from thaloom.work.runtime.turns.turnstile import GUARD_S, Turnstile

LONG_AGO_NS = 60_000_000_000


@pytest.fixture(autouse=True)
def _equals_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harder case: everybody waits for everybody."""
    monkeypatch.setattr(sched_turns, "EQUALS_WAIT", True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "turns"


@pytest.fixture
def turnstile(path: Path) -> Iterator[Turnstile]:
    with closing(Turnstile.create(path, 2)) as turnstile:
        yield turnstile


@pytest.fixture
def join(path: Path, turnstile: Turnstile) -> Iterator[Callable[..., Place]]:
    """Each at an opening of its own, as if it were a process of its own."""
    opened: list[tuple[Turnstile, Place]] = []

    def join(name: str = "one", *, weight: int = 100, width: int = 2) -> Place:
        other = Turnstile.open(path)
        place = other.join(name, weight=weight, width=width)
        opened.append((other, place))
        return place

    yield join
    for other, place in opened:
        place.leave()
        other.close()


Join = Callable[..., Place]


def state_of(turnstile: Turnstile, place: Place) -> int:
    return turnstile.words[base_of(place._seat) + STATE]


def busy(place: Place) -> Place:
    """It has something to do, and no turn: another will not think that it is alone."""
    place._words[BUSY_AT] |= place._bit
    return place


def test_alone_nothing_is_written(turnstile: Turnstile, join: Join, path: Path) -> None:
    place = join()
    before = path.read_bytes()
    assert place.take(0) == AT_ONCE
    place.give()
    assert path.read_bytes() == before


def test_beside_one_that_has_nothing_to_do_there_are_no_turns(turnstile: Turnstile, join: Join) -> None:
    one, two = join("one"), join("two")
    busy(one)
    two.rest()
    assert one.take(0) == AT_ONCE
    one.give()
    assert [seat.turns for seat in turnstile.seated()] == [0, 0]


def test_two_processes_take_turns(path: Path, turnstile: Turnstile, join: Join) -> None:
    """What both change without any lock but the turn is as if one had changed it alone."""
    shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
    place = busy(join("parent"))
    turns = 200

    def take_turns(place: Place) -> None:
        for _ in range(turns):
            assert place.take(time.monotonic_ns()).missed is None
            seen = shared[0]
            os.sched_yield()
            shared[0] = seen + 1
            place.give()

    def child() -> None:
        other = busy(Turnstile.open(path).join("child", weight=100, width=2))
        shared[1] = 1
        while not shared[2]:
            os.sched_yield()
        take_turns(other)
        other.rest()

    with process(child):
        while not shared[1]:
            os.sched_yield()
        shared[2] = 1
        take_turns(place)
        place.rest()
    assert shared[0] == 2 * turns


def test_narrow_steps_go_beside_each_other(turnstile: Turnstile, join: Join) -> None:
    one, two = busy(join("one", width=1)), busy(join("two", width=1))
    one.take(0)
    two.take(0)
    assert state_of(turnstile, one) == state_of(turnstile, two) == HOLDING


def test_a_heavy_one_does_not_wait_for_a_light_one(turnstile: Turnstile, join: Join) -> None:
    light, heavy = busy(join("light", weight=10)), busy(join("heavy", weight=300))
    light.take(0)
    assert heavy.take(0).missed is None
    assert state_of(turnstile, light) == state_of(turnstile, heavy) == HOLDING


def test_a_short_step_does_not_wait_for_a_long_one(turnstile: Turnstile, join: Join) -> None:
    long, short, third = busy(join("long")), busy(join("short")), busy(join("third"))
    long.take(0, 50_000_000)
    assert short.take(0, 4_000_000).missed is None
    assert state_of(turnstile, long) == state_of(turnstile, short) == HOLDING
    turnstile.words[base_of(third._seat) + STATE] = WAITING
    turnstile.words[base_of(third._seat) + LENGTH] = 4_000_000
    long.give()
    assert state_of(turnstile, third) == WAITING, "short ones wait for each other"
    short.give()
    assert state_of(turnstile, third) == HOLDING


def test_a_dead_holder_blocks_nobody(turnstile: Turnstile, join: Join) -> None:
    dead, living = busy(join("dead")), busy(join("living"))
    dead.take(0)
    assert state_of(turnstile, dead) == HOLDING
    die(dead)
    assert living.take(0).missed is None
    assert state_of(turnstile, living) == HOLDING
    assert [seat.name for seat in turnstile.seated()] == ["living"]


def test_a_dead_one_that_waited_is_passed_over(turnstile: Turnstile, join: Join) -> None:
    dead, living, holder = busy(join("dead")), busy(join("living")), busy(join("holder"))
    holder.take(0)
    turnstile.words[base_of(dead._seat) + STATE] = WAITING
    die(dead)
    turnstile.words[base_of(living._seat) + STATE] = WAITING
    holder.give()
    assert state_of(turnstile, living) == HOLDING


def test_a_stopped_holder_is_given_up_and_told(turnstile: Turnstile, join: Join) -> None:
    """Its turn began long ago; when it goes on, it ends its step, and takes part again."""
    stopped, living = busy(join("stopped")), busy(join("living"))
    stopped.take(0)
    turnstile.words[base_of(stopped._seat) + SINCE] -= LONG_AGO_NS
    taken = living.take(0)
    assert taken.missed == "stopped does not end its turn"
    assert state_of(turnstile, living) == HOLDING
    stopped.give()
    assert state_of(turnstile, living) == HOLDING, "only its own turn is ended"
    begin = base_of(stopped._seat)
    assert turnstile.words[begin + SERVICE] <= LONG_AGO_NS // 100, "it is not charged with the time it was stopped"
    living.give()
    assert stopped.take(0).missed is None
    assert {seat.name: seat.missed for seat in turnstile.seated()} == {"stopped": 0, "living": 1}


def test_a_holder_that_is_really_stopped_and_goes_on(path: Path, turnstile: Turnstile, join: Join) -> None:
    shared = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")
    place = busy(join("parent"))

    def child() -> None:
        other = Turnstile.open(path).join("child", weight=100, width=2)
        other.take(0)
        shared[0] = 1
        while not shared[1]:
            os.sched_yield()
        other.give()
        assert other.take(0).missed is None

    with process(child) as pid:
        while not shared[0]:
            os.sched_yield()
        os.kill(pid, signal.SIGSTOP)
        assert place.take(0).missed == "child does not end its turn"
        place.give()
        place.rest()
        shared[1] = 1
        os.kill(pid, signal.SIGCONT)


def test_nobody_waits_without_an_end(turnstile: Turnstile, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where nothing that stands there will ever come to an end."""
    monkeypatch.setattr(turnstile_place, "MOST_WAIT_S", 0.02)
    monkeypatch.setattr(Turnstile, "_is_late", lambda self, begin: False)
    holder, waiting = busy(join("holder")), busy(join("waiting"))
    holder.take(0)
    assert waiting.take(0).missed == "no turn within 0.02 s"
    assert state_of(turnstile, waiting) != WAITING
    waiting.give()


def test_a_guard_that_is_held_for_good_makes_nobody_wait(turnstile: Turnstile, join: Join) -> None:
    one, two = busy(join("one")), busy(join("two"))
    turnstile.file.lock()
    missed = one.take(0).missed
    assert missed is not None
    assert "was stopped in its own" in missed
    assert one.take(0) == AT_ONCE, "it does not try again at once"
    one.give()
    two.rest()
    with pytest.raises(DeadlineExceeded):
        two._turnstile.sweep()
    two.leave()
    turnstile.file.unlock()


def test_who_joins_is_patient_each_time(turnstile: Turnstile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has a place soon goes without a turn; who gets no place goes without for good."""
    patience: list[float] = []
    lock = turnstile.file.lock

    def seen() -> None:
        patience.append(turnstile.file.patience_s)
        lock()

    monkeypatch.setattr(turnstile.file, "lock", seen)
    for _ in range(2):
        turnstile.join("a", weight=100, width=1).leave()
    assert patience == [PATIENCE_S, GUARD_S] * 2


def test_who_leaves_is_gone(turnstile: Turnstile, join: Join) -> None:
    one, two = busy(join("one")), busy(join("two"))
    one.take(0)
    one.leave()
    one.leave()
    assert two.take(0) == AT_ONCE
    assert [seat.name for seat in turnstile.seated()] == ["two"]


def test_seats_are_free_again(turnstile: Turnstile, path: Path) -> None:
    others = [Turnstile.open(path) for _ in range(SEATS)]
    places = [other.join(f"w-{at}", weight=1, width=1) for at, other in enumerate(others)]
    with pytest.raises(StateUnusable, match="all 60 seats"):
        turnstile.join("late", weight=1, width=1)
    die(places[7])
    turnstile.join("late", weight=1, width=1).leave()
    for other, place in zip(others, places, strict=True):
        if place is not places[7]:
            place.leave()
        other.close()


def test_the_width_is_what_it_was_created_with_last(path: Path, turnstile: Turnstile) -> None:
    with closing(Turnstile.create(path, 5)):
        assert turnstile.words[WIDTH_AT] == 5


@pytest.mark.parametrize(("weight", "width"), [(0, 1), (1, 0)])
def test_nobody_weighs_nothing(turnstile: Turnstile, weight: int, width: int) -> None:
    with pytest.raises(ValueError, match="no worker weighs"):
        turnstile.join("one", weight=weight, width=width)


def test_no_device_is_without_a_width(path: Path) -> None:
    with pytest.raises(ValueError, match="no device"):
        Turnstile.create(path, 0)


@pytest.mark.parametrize("data", [b"", bytes(100), bytes(8 * (HEADER + SEATS * SEAT_WORDS))])
def test_what_is_no_turnstile_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(StateUnusable, match="is no turnstile"):
        Turnstile.open(path)


def test_no_width_is_refused(path: Path, turnstile: Turnstile) -> None:
    turnstile.words[WIDTH_AT] = 0
    with pytest.raises(StateUnusable, match="without a width"):
        Turnstile.open(path)


def test_nonsense_in_the_file_makes_nobody_wait_for_good(
    path: Path, turnstile: Turnstile, join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker gets a turn, goes without one, or refuses the file (work.runtime.turns.turns)."""
    monkeypatch.setattr(turnstile_place, "MOST_WAIT_S", 0.02)
    chance = random.Random(1)
    one, two = busy(join("one")), busy(join("two"))
    sound = bytes(turnstile.words)
    words = [*range(4, HEADER), *range(base_of(0), base_of(0) + 2 * SEAT_WORDS)]
    for _ in range(200):
        for place in (one, two):
            for _ in range(chance.randrange(1, 4)):
                value = chance.choice([0, 1, 2, -1, 1 << 40, chance.getrandbits(63), -(1 << 63)])
                turnstile.words[chance.choice(words)] = value
            try:
                place.take(time.monotonic_ns())
                place.give()
                place.rest()
            except (ValueError, struct.error):
                place._holds = False
        for at in range(4, len(sound) // 8):
            turnstile.words[at] = int.from_bytes(sound[8 * at : 8 * at + 8], "little", signed=True)


def test_killed_at_every_store(tmp_path: Path) -> None:
    """Whichever was the last, those that live get their turns, and none too many."""
    point = 0
    while True:
        path = tmp_path / f"turns-{point}"
        with closing(Turnstile.create(path, 2)) as turnstile, closing(Turnstile.open(path)) as other:
            living, dead = turnstile.join("living", weight=100, width=2), other.join("dead", weight=100, width=2)
            busy(living)
            busy(dead)
            die(dead)
            name = killed_at(point, lambda step, path=path: live(path, step))
            with turnstile.guarded():
                assert_no_crowd(turnstile)
            for _ in range(3):
                assert living.take(time.monotonic_ns()).missed is None
                living.give()
            turnstile.sweep()
            assert [seat.name for seat in turnstile.seated()] == ["living"]
            assert turnstile.words[TAKEN_AT] | turnstile.words[BUSY_AT] == 1
            living.leave()
        if name is None:
            break
        point += 1
    assert point > 20


def live(path: Path, step: Step) -> None:
    turnstile = watched(path, step)
    for _ in range(2):
        place = turnstile.join("killed", weight=100, width=2)
        for _ in range(2):
            assert place.take(time.monotonic_ns()).missed is None
            place.give()
        place.rest()
        place.leave()


def test_who_waits_for_one_that_is_killed_as_it_ends_its_turn(tmp_path: Path) -> None:
    """At whichever store: it wakes, and has the turn."""
    point = 0
    while True:
        path = tmp_path / f"turns-{point}"
        with closing(Turnstile.create(path, 2)) as turnstile:

            def wait(path: Path = path) -> None:
                place = Turnstile.open(path).join("waiting", weight=100, width=2)
                assert place.take(time.monotonic_ns()).missed is None

            def end(step: Step, path: Path = path, turnstile: Turnstile = turnstile) -> None:
                ending = watched(path, lambda store: step(store) if is_waited_for(turnstile) else None)
                place = ending.join("ending", weight=100, width=2)
                busy(place)
                turnstile.words[BUSY_AT] |= 2  # whoever comes next
                turnstile.words[TAKEN_AT] |= 2
                place.take(0)
                with process(wait):
                    while not is_waited_for(turnstile):
                        os.sched_yield()
                    place.give()

            name = killed_at(point, end)
        if name is None:
            break
        point += 1
    assert point > 5


def is_waited_for(turnstile: Turnstile) -> bool:
    return any(turnstile.words[base_of(seat) + STATE] == WAITING for seat in turnstile.busy())
