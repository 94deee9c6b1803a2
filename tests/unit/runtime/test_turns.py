"""Turns of an engine: around each step and no longer, whatever becomes of the step, of the file and of the others."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.runtime.doubles import HistoryExecutable, ask
from thaloom.base.clock import ManualClock
from thaloom.base.errors import BadParameter, DeviceLost
from thaloom.base.events import Recorder
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.kernel.sched.steps import StepLimits
from thaloom.work.runtime.core.admission import EngineConfig
from thaloom.work.runtime.core.engine import Engine
from thaloom.work.runtime.events import TurnMissed, TurnsNotTaken
from thaloom.work.runtime.messages import Failed
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.turns import turns as turns_module
from thaloom.work.runtime.turns.file import BUSY_AT, TAKEN_AT, WAITED, base_of
from thaloom.work.runtime.turns.place import AT_ONCE, Taken
from thaloom.work.runtime.turns.turns import SHORT_NS, NoTurns, SharedTurns, join_turns, width_of
from thaloom.work.runtime.turns.turnstile import Turnstile

NUM_BLOCKS = 16


class Written:
    """Turns that are written down, and what the device was asked in between."""

    def __init__(self, executable: HistoryExecutable, taken: Taken = AT_ONCE) -> None:
        self.said: list[str] = []
        self._taken = taken
        run = executable.run

        def told(step: object) -> object:
            self.said.append("run")
            return run(step)  # type: ignore[arg-type]

        executable.run = told  # type: ignore[method-assign,assignment]

    def take(self, decodes: bool, _: float, /) -> Taken:
        self.said.append("take for tokens" if decodes else "take")
        return self._taken

    def give(self, completed: bool, /) -> None:
        self.said.append("give" if completed else "give up")

    def rest(self) -> None:
        self.said.append("rest")

    def close(self) -> None:
        self.said.append("close")


def engine(executable: HistoryExecutable, turns: Written) -> Engine:
    config = EngineConfig(
        vocab_size=61,
        context_length=64,
        num_blocks=NUM_BLOCKS,
        limits=StepLimits(max_sequences=4, chunk_tokens=16),
        max_queue=4,
    )
    return Engine(executable, config, monotonic=ManualClock().monotonic, emit=Recorder(), turns=turns)


def test_a_turn_is_taken_around_each_step_and_none_where_nothing_is_to_do() -> None:
    executable = HistoryExecutable(NUM_BLOCKS)
    turns = Written(executable, Taken(waited_s=0.25))
    running = engine(executable, turns)
    running.step()
    assert turns.said == ["rest"]
    running.submit(ask([1, 2, 3], 2))
    while running.busy:
        running.step()
    assert turns.said[1:] == ["take", "run", "give", "take for tokens", "run", "give", "rest"]
    assert running.counters.turn_wait_seconds == 0.5
    assert running.counters.step_seconds == 0.0, "who waits does not compute"
    assert running.counters.missed_turns == 0


def test_a_step_that_fails_gives_its_turn_back() -> None:
    executable = HistoryExecutable(NUM_BLOCKS)
    turns = Written(executable, Taken(0.0, "somebody was stopped"))
    running = engine(executable, turns)
    executable.next_errors = [ValueError("odd")]
    running.submit(ask([1, 2, 3], 1))
    ((_, news),) = running.step()
    assert isinstance(news, Failed)
    assert turns.said == ["take", "run", "give up", "rest"]
    executable.next_errors = [DeviceLost("gone", device="x")]
    running.submit(ask([1, 2, 3], 1))
    running.step()
    assert turns.said[4:] == ["take", "run", "give up", "rest"]


def test_an_engine_at_rest_has_nothing_to_do() -> None:
    executable = HistoryExecutable(NUM_BLOCKS)
    turns = Written(executable, Taken(0.0, None))
    engine(executable, turns).rest()
    assert turns.said == ["rest"]


def test_a_step_that_failed_says_nothing_of_how_long_steps_take(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(SharedTurns, "_take", lambda _, decodes, __: asked.append(decodes) or AT_ONCE)
    with closing(Turnstile.open(path)) as other:
        busy(other)
        turns = join_turns(spec(path), 2, 2, Recorder())
        turns.take(True, 0.0)
        time.sleep(2 * SHORT_NS / 1e9)
        turns.give(True)
        for _ in range(3):
            turns.take(True, 0.0)
            turns.give(False)
        assert len(asked) == 3, "no step was quick, so each takes its turn"
        turns.close()


def test_missed_turns_are_counted() -> None:
    executable = HistoryExecutable(NUM_BLOCKS)
    running = engine(executable, Written(executable, Taken(1.0, "somebody was stopped")))
    running.submit(ask([1, 2, 3], 3))
    while running.busy:
        running.step()
    assert running.counters.missed_turns == 3


# -- joining


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with closing(Turnstile.create(tmp_path / "turns", 2)):
        return tmp_path / "turns"


def spec(turns: Path | None, weight: int = 100) -> WorkerSpec:
    return WorkerSpec(
        worker=WorkerId("w-1"),
        service=ServiceName("chat"),
        model="tiny",
        store="store",
        socket="sock",
        turns=None if turns is None else str(turns),
        turn_weight=weight,
    )


@pytest.fixture
def _every_step_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "SHORT_NS", 0)


def busy(turnstile: Turnstile, name: str = "other") -> None:
    """Another, which has something to do."""
    place = turnstile.join(name, weight=100, width=2)
    turnstile.words[BUSY_AT] |= place._bit


def test_a_worker_without_a_turnstile_waits_for_nobody() -> None:
    told = Recorder()
    turns = join_turns(spec(None), 2, 2, told)
    assert isinstance(turns, NoTurns)
    assert turns.take(True, 0.0) == AT_ONCE
    turns.give(True)
    turns.rest()
    turns.close()
    assert not told.events


def test_a_place_is_as_wide_as_the_worker_s_threads_and_no_wider_than_the_device(path: Path) -> None:
    with closing(Turnstile.open(path)) as turnstile:
        for threads, cores, width in ((1, 2, 1), (9, 2, 2), (3, 0, 1)):
            turns = join_turns(spec(path, weight=300), threads, cores, Recorder())
            (seated,) = turnstile.seated()
            assert (seated.name, seated.weight, seated.width) == ("w-1", 300, width)
            turns.close()
    assert width_of(0) == 1


def test_no_weight_is_refused(path: Path) -> None:
    with pytest.raises(BadParameter, match="turn_weight must be at least 1"):
        spec(path, weight=0)


@pytest.mark.parametrize("content", [None, b"", b"x" * 4096])
def test_a_file_that_is_none_is_told_once_and_does_without(tmp_path: Path, content: bytes | None) -> None:
    told = Recorder()
    if content is not None:
        (tmp_path / "turns").write_bytes(content)
    turns = join_turns(spec(tmp_path / "turns"), 2, 2, told)
    assert isinstance(turns, NoTurns)
    (event,) = told.events
    assert isinstance(event, TurnsNotTaken)
    assert (event.worker, event.service) == ("w-1", "chat")


@pytest.mark.usefixtures("_every_step_is_long")
def test_nonsense_that_comes_later_is_told_once_and_ends_turns(path: Path) -> None:
    told = Recorder()
    with closing(Turnstile.open(path)) as other:
        busy(other)
        turns = join_turns(spec(path), 2, 2, told)
        own = 1
        other.words[base_of(own) + WAITED] = (1 << 63) - 1
        assert turns.take(True, 0.0) == AT_ONCE
        turns.give(True)
        turns.rest()
        (event,) = told.events
        assert isinstance(event, TurnsNotTaken)
        assert "nonsense" in event.message
        assert turns.take(True, 0.0) == AT_ONCE
        assert len(told.events) == 1
        assert not other.words[TAKEN_AT] >> own & 1, "nobody waits for one that takes no turns"
        turns.close()


@pytest.mark.usefixtures("_every_step_is_long")
def test_missed_turns_are_told_now_and_then(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Recorder()
    with closing(Turnstile.open(path)) as other:
        busy(other)
        turns = join_turns(spec(path), 2, 2, told)
        assert isinstance(turns, SharedTurns)
        other.file.lock()
        assert turns.take(True, 0.0).missed is not None
        monkeypatch.setattr(turns._place, "_away_until", 0.0)
        assert turns.take(True, 0.0).missed is not None
        (event,) = told.events
        assert isinstance(event, TurnMissed)
        assert "was stopped" in event.reason
        other.file.unlock()
        turns.close()


def test_short_steps_take_no_turns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until all of them have been long for a while; the first one nobody knows."""
    now_ns = 0
    monkeypatch.setattr(turns_module.time, "monotonic_ns", lambda: now_ns)
    with closing(Turnstile.open(path)) as other:
        busy(other)
        turns = join_turns(spec(path), 2, 2, Recorder())

        def took_one(step_ns: int) -> bool:
            nonlocal now_ns
            turns.take(True, 0.0)
            (_, own) = other.seated()
            now_ns += step_ns
            turns.give(True)
            return own.holds

        short, long = turns_module.SHORT_NS // 10, 10 * turns_module.SHORT_NS
        assert not took_one(long)
        assert took_one(long)
        assert took_one(short)
        assert not took_one(short)
        assert not took_one(long)
        assert any(took_one(long) for _ in range(1000))
        turns.close()
