"""What happens to work when the device fails: a typed error, in time, and nobody else is hurt."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from thaloom.base.errors import DeviceLost, OutOfMemory
from thaloom.base.events import Recorder
from thaloom.hal.inventory import ReadingImplausible
from thaloom.hal.testing.bench import bench, expect_close, right, sequences_for
from thaloom.hal.testing.checks.health import fault, inventory_of
from thaloom.hal.testing.programs import tiny_model
from thaloom.hal.testing.schedules import together
from thaloom.hal.testing.suite import Nonconforming, Subject, check, expect

DEADLINE_S = 20.0


@check("faults.lost_is_typed", "faults")
def lost_is_typed(subject: Subject) -> None:
    case = tiny_model(1)
    sequences = sequences_for(case)
    with bench(subject.open(), case) as made:
        made.play(sequences, together(sequences))
        with fault(subject, "lost"):
            try:
                made.play(sequences, together(sequences))
            except DeviceLost:
                return
    raise Nonconforming("a step on a lost device gives no DeviceLost")


@check("faults.works_again", "faults")
def works_again(subject: Subject) -> None:
    case = tiny_model(1)
    sequences = sequences_for(case)
    with fault(subject, "lost"):
        pass
    with bench(subject.open(), case) as made:
        expect_close(case, made.play(sequences, together(sequences)), right(case, sequences))


@check("faults.exhausted_is_typed", "faults")
def exhausted_is_typed(subject: Subject) -> None:
    backend = subject.open()
    with fault(subject, "exhausted"):
        try:
            backend.allocate(1 << 12)
        except OutOfMemory as error:
            expect("needed_bytes" in error.details, "the refusal does not say how much was needed")
        else:
            raise Nonconforming("memory is given where there is none")
    backend.allocate(1 << 12).free()


@check("faults.garbage_is_left_out", "faults")
def garbage_is_left_out(subject: Subject) -> None:
    recorder = Recorder()
    inventory = inventory_of(subject, recorder)
    inventory.refresh()
    with fault(subject, "garbage"):
        readings = [reading for reading in inventory.readings() if reading.device == subject.device_id]
    expect(len(readings) == 1, "a device with impossible readings has none")
    expect(readings[0].utilisation is None and readings[0].temperature_c is None, f"believed: {readings[0]}")
    expect(bool(recorder.of(ReadingImplausible)), "nobody is told of impossible readings")


@check("faults.slow_is_still_right", "faults")
def slow_is_still_right(subject: Subject) -> None:
    case = tiny_model(1)
    sequences = sequences_for(case)
    with bench(subject.open(), case) as made, fault(subject, "slow"):
        expect_close(case, made.play(sequences, together(sequences)), right(case, sequences))


@check("faults.hang_ends", "faults")
def hang_ends(subject: Subject) -> None:
    """A step that hangs ends rightly when the device comes back, and with DeviceLost when it does not."""
    case = tiny_model(1)
    sequences = sequences_for(case)
    with bench(subject.open(), case) as made, ThreadPoolExecutor(1) as pool:
        for ending in ("comes back", "is lost"):
            subject.faults().inject(subject.device_id, "hang")
            try:
                future = pool.submit(made.play, sequences, together(sequences))
                threading.Event().wait(0.05)
                expect(not future.done(), "a step on a hanging device ends by itself")
                if ending == "is lost":
                    subject.faults().inject(subject.device_id, "lost")
                    expect(isinstance(future.exception(DEADLINE_S), DeviceLost), "a hanging step outlives its device")
            finally:
                subject.faults().clear(subject.device_id)
            if ending == "comes back":
                expect_close(case, future.result(DEADLINE_S), right(case, sequences))
