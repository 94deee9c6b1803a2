import dataclasses
import errno
import io
import json

from thaloom.base.clock import ManualClock
from thaloom.base.events import Degraded, Event, Recorder, at_level, ignore
from thaloom.base.log import LogWriter


@at_level("debug")
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Detail(Event):
    size: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    name_of_it: str


def test_an_event_becomes_one_line_for_machines() -> None:
    stream = io.StringIO()
    LogWriter(ManualClock(5.0), stream)(Degraded(subject="cpu", reason="NoCompiler", message="on the\nreference"))
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line) == {
        "time": 5.0, "level": "warning", "event": "Degraded",
        "subject": "cpu", "reason": "NoCompiler", "message": "on the\nreference",
    }  # fmt: skip


def test_an_event_becomes_one_line_for_people() -> None:
    stream = io.StringIO()
    LogWriter(ManualClock(), stream, human=True)(Started(name_of_it="a\nb"))
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("info    Started name_of_it='a\\nb'")


def test_lines_below_the_level_are_left_out() -> None:
    stream = io.StringIO()
    LogWriter(ManualClock(), stream)(Detail(size=1))
    assert stream.getvalue() == ""
    LogWriter(ManualClock(), stream, level="debug")(Detail(size=1))
    assert json.loads(stream.getvalue())["size"] == 1


def test_a_recorder_keeps_the_last_events() -> None:
    recorder = Recorder(limit=2)
    for size in range(3):
        recorder(Detail(size=size))
    recorder(Started(name_of_it="x"))
    assert [event.size for event in recorder.of(Detail) if isinstance(event, Detail)] == [2]
    ignore(Detail(size=1))


class FullDisk(io.StringIO):
    """Takes nothing while `full`."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_log_on_a_full_disk_stops_nobody_and_tells_later_how_much_is_missing() -> None:
    stream = FullDisk()
    log = LogWriter(ManualClock(), stream)
    log(Started(name_of_it="x"))
    log(Started(name_of_it="y"))
    stream.full = False
    log(Started(name_of_it="z"))
    log(Started(name_of_it="a"))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["LogLinesLost", "Started", "Started"]
    assert (lines[0]["num_lines"], lines[1]["name_of_it"]) == (2, "z")
