from __future__ import annotations

import pytest

from thaloom.base.errors import DeviceNotFound, OutOfMemory
from thaloom.base.ids import DeviceId
from thaloom.kernel.memory.ledger import Holding, Ledger

CPU, GPU = DeviceId("cpu"), DeviceId("gpu")


def ledger() -> Ledger:
    return Ledger({CPU: 1000, GPU: 100})


def test_what_is_booked_is_not_free() -> None:
    books = ledger()
    held = books.reserve("w-1", CPU, 600, purpose="weights")
    assert held == Holding(owner="w-1", device=CPU, purpose="weights", num_bytes=600, measured=False)
    assert (books.free_bytes(CPU), books.free_bytes(GPU)) == (400, 100)
    books.reserve("w-1", CPU, 300, purpose="kv", measured=True)
    assert [entry.purpose for entry in books.holdings(CPU)] == ["weights", "kv"]
    assert books.holdings(GPU) == []
    books.check()


def test_the_same_booking_twice_is_one() -> None:
    books = ledger()
    for _ in range(2):
        books.reserve("w-1", CPU, 600, purpose="weights")
    assert books.free_bytes(CPU) == 400
    books.reserve("w-1", CPU, 1000, purpose="weights")
    assert books.free_bytes(CPU) == 0


def test_a_refusal_says_what_is_needed_what_is_free_and_who_has_the_rest() -> None:
    books = ledger()
    books.reserve("w-1", CPU, 600, purpose="weights")
    with pytest.raises(OutOfMemory, match="w-2 needs 500 B for kv on cpu, 400 B of 1000 B are free; held by w-1") as e:
        books.reserve("w-2", CPU, 500, purpose="kv")
    assert e.value.details == {
        "device": "cpu",
        "needed_bytes": 500,
        "free_bytes": 400,
        "held_bytes": 0,
        "holders": {"w-1/weights": 600},
    }
    with pytest.raises(OutOfMemory) as e:
        books.reserve("w-1", CPU, 500, purpose="kv")
    assert (e.value.details["held_bytes"], e.value.details["holders"]) == (600, {}), "what is its own already"
    assert books.free_bytes(CPU) == 400


def test_a_measurement_replaces_an_estimate_even_beyond_capacity() -> None:
    books = ledger()
    books.reserve("w-1", CPU, 600, purpose="weights")
    assert books.correct("w-1", CPU, 1200, purpose="weights").measured
    assert books.free_bytes(CPU) == -200
    books.check()
    with pytest.raises(OutOfMemory):
        books.reserve("w-2", CPU, 1, purpose="kv")
    books.reserve("w-1", CPU, 1100, purpose="weights", measured=True)
    with pytest.raises(OutOfMemory):
        books.reserve("w-1", CPU, 1101, purpose="weights")


def test_only_what_was_booked_can_be_corrected() -> None:
    with pytest.raises(KeyError):
        ledger().correct("w-1", CPU, 1, purpose="weights")


def test_release_gives_back_everything_once() -> None:
    books = ledger()
    books.reserve("w-1", CPU, 600, purpose="weights")
    books.reserve("w-1", CPU, 10, purpose="kv")
    books.reserve("w-1", GPU, 50, purpose="kv")
    assert books.release("w-1", purpose="weights") == 600
    assert books.release("w-1") == 60
    assert books.release("w-1") == 0
    assert books.holdings() == []


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(DeviceNotFound, match="tpu"):
        ledger().reserve("w-1", DeviceId("tpu"), 1, purpose="kv")


def test_nobody_holds_less_than_nothing() -> None:
    with pytest.raises(ValueError):
        ledger().reserve("w-1", CPU, -1, purpose="kv")
