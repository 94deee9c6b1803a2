"""Last words of processes, and logs as they grow."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from thaloom.base.clock import ManualClock
from thaloom.base.errors import CorruptObject, InternalError, OutOfMemory
from thaloom.base.events import Degraded, Event, Recorder
from thaloom.init.history import History
from thaloom.init.log_stream import follow_log
from thaloom.init.rounds.last_words import MAX_BYTES, MAX_LINES, LastWords, last_lines, read_last_words, tail


def test_the_error_a_worker_left_is_its_last_word(tmp_path: Path) -> None:
    failure, log = tmp_path / "f.json", tmp_path / "log"
    log.write_text("noise\n")
    failure.write_text(json.dumps(CorruptObject("model.safetensors is altered").to_dict()))
    assert read_last_words(failure, log) == LastWords(
        reason="CorruptObject", message="model.safetensors is altered", hopeless=True
    )
    failure.write_text(json.dumps(InternalError("broke").to_dict()))
    assert not read_last_words(failure, log).hopeless
    failure.write_text(json.dumps(OutOfMemory("needs 5, 3 free").to_dict()))
    assert read_last_words(failure, log) == LastWords(reason="OutOfMemory", message="needs 5, 3 free", short=True)


def test_without_one_the_end_of_its_log_is(tmp_path: Path) -> None:
    failure, log = tmp_path / "f.json", tmp_path / "log"
    assert read_last_words(failure, log) == LastWords()
    log.write_text("earlier life\nboom\n")
    assert read_last_words(failure, log, len("earlier life\n")).message == "boom"
    failure.write_text("not JSON")
    assert read_last_words(failure, log).message == "earlier life\nboom"
    failure.write_text("[]")
    assert read_last_words(failure, log).reason == "Crashed"


def test_what_went_as_it_should_is_nobodys_last_word(tmp_path: Path) -> None:
    failure, log = tmp_path / "f.json", tmp_path / "log"
    log.write_text('{"time": 1.0, "level": "info", "event": "WorkerListening", "pid": 7}\n')
    assert read_last_words(failure, log) == LastWords(), "a worker that was killed while all was well"
    with log.open("a") as file:
        file.write('{"time": 2.0, "level": "error", "event": "X", "message": "no room"}\n')
        file.write('{"time": 2.0, "level": "warning", "event": "Y"}\nSegmentation fault\n')
    assert read_last_words(failure, log).message.splitlines() == [
        "no room",
        '{"time": 2.0, "level": "warning", "event": "Y"}',
        "Segmentation fault",
    ]


def test_last_words_are_few(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\n".join(b"line %d" % number for number in range(10_000)) + b"\n\n\xff\n")
    text = last_lines(log)
    assert len(text.splitlines()) == MAX_LINES
    assert len(text) <= MAX_BYTES
    assert text.endswith("\ufffd")
    log.write_bytes(b"x" * 100_000)
    assert len(last_lines(log)) == MAX_BYTES


def test_tail(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a\nb\nc")
    assert tail(log, 2) == (b"b\nc", 5)
    assert tail(log, 0) == (b"", 5)
    assert tail(log, 99) == (b"a\nb\nc", 5)
    big = b"".join(b"%060d\n" % number for number in range(5000))
    log.write_bytes(big)
    assert tail(log, 2000)[0] == big[-2000 * 61 :]


class InstantClock(ManualClock):
    async def sleep(self, seconds: float) -> None:
        self._now += seconds


def test_a_log_is_followed_while_its_service_is_wished(tmp_path: Path) -> None:
    async def run() -> list[bytes]:
        log, looks = tmp_path / "log", iter([b"", b"new\n", b"", b"end\n"])
        log.write_bytes(b"old\nlast\n")

        def going_on() -> bool:
            """Each look finds a little more; then nobody wishes for the service any longer."""
            added = next(looks, None)
            if added is not None:
                with log.open("ab") as file:
                    file.write(added)
            return added is not None

        return [block async for block in follow_log(log, 1, InstantClock(), going_on)]

    assert asyncio.run(run()) == [b"last\n", b"new\n", b"end\n"]


def test_a_log_that_is_emptied_while_it_is_followed_begins_anew(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"a long line of an earlier time\n")
    texts = iter([b"new\n", None])

    def going_on() -> bool:
        if (text := next(texts)) is None:
            return False
        log.write_bytes(text)
        return True

    async def run() -> list[bytes]:
        return [block async for block in follow_log(log, 0, InstantClock(), going_on)]

    assert asyncio.run(run()) == [b"new\n"]
    assert last_lines(log, offset=1000) == "new", "last words too are found in what is there now"


def test_a_log_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    async def run() -> list[bytes]:
        return [block async for block in follow_log(tmp_path / "none", 10, ManualClock(), lambda: False)]

    assert asyncio.run(run()) == []


def test_history_keeps_the_latest_events_and_passes_all_on() -> None:
    clock, onward = ManualClock(5.0), Recorder()
    history = History(clock, onward, limit=2)
    events: list[Event] = [Degraded(subject=str(number), reason="r", message="m") for number in range(3)]
    for event in events:
        history(event)
    assert list(onward.events) == events
    assert [past.event for past in history.latest(10)] == events[1:]
    assert [past.event for past in history.latest(1)] == events[2:]
    assert history.latest(1)[0].time == 5.0
