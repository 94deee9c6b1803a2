"""Estimates, measures, and the node memory that compares them."""

from __future__ import annotations

import dataclasses
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from thaloom.base.errors import BadParameter, OutOfMemory
from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.base.units import GIB, MIB
from thaloom.hal.types import Device, Reading
from thaloom.init.memory import node_memory
from thaloom.init.memory.admission import (
    MOST,
    WORKER_BASE_BYTES,
    Estimate,
    choose_device,
    context_for,
    estimate,
    kv_bytes_per_token,
)
from thaloom.init.memory.lending import Lending
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.rounds.supervisor import Supervised
from thaloom.kernel.models.types import ModelCard
from thaloom.kernel.state.types import ServiceSpec

CONFIG = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
}
CPU, VIRTUAL = DeviceId("cpu"), DeviceId("virtual:0")


def card(dtype: str = "f32", context_length: int | None = 32768) -> ModelCard:
    return ModelCard(
        architecture="LlamaForCausalLM",
        family="llama",
        num_parameters=100,
        dtypes=(dtype,),  # type: ignore[arg-type]
        weight_bytes=1000,
        context_length=context_length,
        vocab_size=50,
        has_tokenizer=True,
        has_chat_template=False,
    )


def spec(**wish: object) -> ServiceSpec:
    return ServiceSpec(name=ServiceName("a"), model="m", **wish)  # type: ignore[arg-type]


def device(name: DeviceId, kind: str, memory_bytes: int = GIB) -> Device:
    return Device(
        id=name,
        driver=kind,
        kind=kind,  # type: ignore[arg-type]
        name=name,
        vendor="v",
        memory_bytes=memory_bytes,
        num_cores=1,
        dtypes=frozenset({"f32"}),
        isolation="process",
    )


def test_keys_and_values_of_a_token_follow_the_stored_dtype() -> None:
    assert kv_bytes_per_token(card("f32"), CONFIG) == 2 * 2 * 2 * 16 * 4
    assert kv_bytes_per_token(card("bf16"), CONFIG) == 2 * 2 * 2 * 16 * 2
    assert kv_bytes_per_token(card("bf16"), CONFIG, "i8") == 2 * 2 * 2 * (16 + 4)
    assert kv_bytes_per_token(card("bf16"), CONFIG, "f32") == 2 * 2 * 2 * 16 * 4
    assert kv_bytes_per_token(card(), {**CONFIG, "head_dim": 32}) == 2 * 2 * 2 * 32 * 4
    assert kv_bytes_per_token(card(), {}) == 0
    assert kv_bytes_per_token(card(), {"num_attention_heads": "many"}) == 0


def test_an_estimate_holds_four_contexts_unless_told_otherwise() -> None:
    made = estimate(spec(context_length=100), card(), CONFIG)
    assert made.kv_bytes == 4 * 112 * 512
    assert made.weight_bytes == 1000
    assert made.total_bytes > made.kv_bytes + made.weight_bytes + WORKER_BASE_BYTES
    assert estimate(spec(context_length=100, kv_bytes=77777), card(), CONFIG).kv_bytes == 77777
    big = {**CONFIG, "num_hidden_layers": 200, "num_key_value_heads": 64}
    one_context = 8192 * kv_bytes_per_token(card(), big)
    assert one_context > GIB
    assert estimate(spec(), card(), big).kv_bytes == one_context


def test_weights_that_will_be_whole_numbers_are_estimated_as_such() -> None:
    """What is only looked up, and in 8 bits what makes shared keys and values, stays as stored; f16 is widened."""

    def size(dtype: str, weights: str, **config: Any) -> int:
        large = dataclasses.replace(card(dtype), num_parameters=100_000, weight_bytes=200_000)
        return estimate(spec(weights=weights), large, {**CONFIG, **config}).weight_bytes

    table, shared = 50 * 64, 2 * 2 * 2 * 16 * 64
    assert [size(dtype, "stored") for dtype in ("bf16", "f16", "f32")] == [200_000, 400_000, 200_000]
    assert size("bf16", "int4", tie_word_embeddings=True) == 100_000 * 9 // 16
    assert size("bf16", "int4") == (100_000 - table) * 9 // 16 + 2 * table
    assert size("bf16", "int8", tie_word_embeddings=True) == (100_000 - shared) * 9 // 8 + 2 * shared
    assert size("f16", "int8") == (100_000 - shared - table) * 9 // 8 + 4 * (shared + table)
    assert size("bf16", "int8", num_key_value_heads=4, tie_word_embeddings=True) == 100_000 * 9 // 8
    assert estimate(spec(weights="int8"), card(), CONFIG).weight_bytes == 400  # more than all parameters cannot stay


def test_the_context_is_the_models_own_but_not_a_huge_one() -> None:
    assert context_for(spec(), card(context_length=1024)) == 1024
    assert context_for(spec(), card()) == 8192
    assert context_for(spec(), card(context_length=None)) == 8192
    assert context_for(spec(context_length=20000), card()) == 20000


def test_a_wish_no_worker_could_meet_is_refused_before_it_takes_a_healthy_ones_place() -> None:
    with pytest.raises(BadParameter) as long:
        estimate(spec(context_length=2049), card(context_length=2048), CONFIG)
    assert long.value.param == "context_length"
    with pytest.raises(BadParameter) as small:
        estimate(spec(context_length=100, kv_bytes=112 * 512 // 2 - 1), card(), CONFIG)
    assert small.value.param == "kv_bytes"
    for name, most in MOST.items():
        estimate(spec(**{name: most}), card(), CONFIG)
        with pytest.raises(BadParameter) as many:
            estimate(spec(**{name: most + 1}), card(), CONFIG)
        assert many.value.param == name


def test_a_made_up_device_is_never_chosen() -> None:
    assert choose_device([device(VIRTUAL, "virtual"), device(CPU, "cpu")]) == CPU
    assert choose_device([device(VIRTUAL, "virtual")]) is None


def memory(available: int = GIB, reading_free: int | None = None) -> NodeMemory:
    return NodeMemory(
        [device(CPU, "cpu"), device(VIRTUAL, "virtual", 500)],
        host_total_bytes=800 * MIB,
        host_available=lambda: available,
        readings=lambda: {VIRTUAL: Reading(device=VIRTUAL, health="healthy", memory_free_bytes=reading_free)},
        headroom_bytes=100 * MIB,
    )


def wanted(num_bytes: int) -> Estimate:
    return Estimate(weight_bytes=num_bytes, kv_bytes=0, scratch_bytes=0, process_bytes=0, context_length=1)


def test_the_ledger_keeps_headroom_and_refuses_with_figures() -> None:
    kept = memory()
    assert kept.free_bytes([])[CPU] == 700 * MIB
    kept.reserve(WorkerId("w-1"), CPU, wanted(600 * MIB))
    with pytest.raises(OutOfMemory) as refusal:
        kept.reserve(WorkerId("w-2"), CPU, wanted(200 * MIB))
    assert refusal.value.details["needed_bytes"] == 200 * MIB
    assert refusal.value.details["free_bytes"] == 100 * MIB
    assert kept.held_bytes([WorkerId("w-1")], CPU) == 600 * MIB
    kept.release(WorkerId("w-1"))
    assert {memory.device: memory.reserved_bytes for memory in kept.report()} == {CPU: 0, VIRTUAL: 0}
    kept.check()


def test_a_refused_booking_leaves_nothing_behind() -> None:
    kept = memory()
    too_much = Estimate(weight_bytes=1, kv_bytes=GIB, scratch_bytes=0, process_bytes=0, context_length=1)
    with pytest.raises(OutOfMemory):
        kept.reserve(WorkerId("w-1"), CPU, too_much)
    assert kept.held_bytes([WorkerId("w-1")], CPU) == 0


def test_what_leaves_a_device_is_booked_as_the_hosts() -> None:
    kept = memory(reading_free=500)
    estimate = dataclasses.replace(wanted(100), kv_host_bytes=300 * MIB)
    kept.reserve(WorkerId("w-1"), VIRTUAL, estimate)
    kept.expect(WorkerId("w-2"), CPU, estimate, lends=False)
    assert kept.held_bytes([WorkerId("w-1")], VIRTUAL) == 100
    assert kept.held_bytes([WorkerId("w-1")], CPU) == 300 * MIB
    assert kept.held_bytes([WorkerId("w-2")], CPU) == 300 * MIB + 100
    with pytest.raises(OutOfMemory):
        kept.reserve(WorkerId("w-3"), VIRTUAL, estimate)
    assert kept.held_bytes([WorkerId("w-3")], VIRTUAL) == 0, "nothing is left of a booking that was refused"
    kept.check()


def test_memory_somebody_else_took_is_not_promised() -> None:
    assert memory(available=300 * MIB).free_bytes([])[CPU] == 200 * MIB


def test_what_is_promised_and_not_yet_used_is_not_promised_again() -> None:
    kept = memory(available=500 * MIB)
    kept.reserve(WorkerId("w-1"), CPU, wanted(250 * MIB))
    assert kept.free_bytes([])[CPU] == 500 * MIB - 100 * MIB - 250 * MIB


def test_a_device_that_reports_its_free_memory_is_believed() -> None:
    assert memory(reading_free=None).free_bytes([])[VIRTUAL] == 500
    assert memory(reading_free=20).free_bytes([])[VIRTUAL] == 20


# -- programs that are no workers


def test_a_program_books_memory_of_the_host_and_devices_as_a_whole() -> None:
    node = memory()
    assert (node.host, node.accelerators(), node.host_capacity_bytes()) == (CPU, (VIRTUAL,), 700 * MIB)
    assert node.book("job/a", 300 * MIB, 1) == (VIRTUAL,)
    assert node.idle_accelerators() == ()
    assert {each.device: each.free_bytes for each in node.report()} == {CPU: 400 * MIB, VIRTUAL: 0}
    node.give_back("job/a")
    assert {each.device: each.reserved_bytes for each in node.report()} == {CPU: 0, VIRTUAL: 0}


def test_what_does_not_fit_books_nothing() -> None:
    node = memory()
    for num_bytes, devices in ((701 * MIB, 0), (MIB, 2)):
        with pytest.raises(OutOfMemory):
            node.book("job/a", num_bytes, devices)
    node.book("job/a", MIB, 1)
    with pytest.raises(OutOfMemory):
        node.book("job/b", MIB, 1)
    node.check()
    assert {each.device: each.reserved_bytes for each in node.report()} == {CPU: MIB, VIRTUAL: 500}


def test_one_that_is_adopted_is_never_refused() -> None:
    node = memory()
    node.adopt("job/a", 10 * GIB, [VIRTUAL, "gone:0"])
    node.check()
    assert node.idle_accelerators() == ()
    assert next(each.free_bytes for each in node.report() if each.device == CPU) < 0


def test_what_a_program_holds_already_is_not_promised_a_second_time() -> None:
    node = memory(available=600 * MIB)
    node.book("job/a", 300 * MIB, 0)
    assert node.host_free_bytes([]) == 200 * MIB
    node.others = lambda: {"job/a": 250 * MIB}
    assert node.host_free_bytes([]) == 400 * MIB  # the ledger's
    node.give_back("job/a")
    node.others = dict
    assert node.host_free_bytes([]) == 500 * MIB


class Together:
    """What workers share, as a test says."""

    def __init__(self) -> None:
        self.users: dict[str, tuple[int, frozenset[WorkerId]]] = {}
        self.idle = 0
        self.asked: list[int] = []

    def held(self) -> dict[str, tuple[int, frozenset[WorkerId]]]:
        return self.users

    def idle_bytes(self) -> int:
        return self.idle

    def make_room(self, needed_bytes: int) -> int:
        self.asked.append(needed_bytes)
        return 0


def sharing(worker: str, shared: int = 0) -> Supervised:
    stats = SimpleNamespace(
        ready=True, device=CPU, engine="thaloom", pid=os.getpid(), weight_bytes=300 * MIB,
        shared_weight_bytes=shared, kv_bytes=0, kv_host_bytes=0, scratch_bytes=0,
    )  # fmt: skip
    lease = SimpleNamespace(pid=os.getpid())
    return cast(Supervised, SimpleNamespace(id=WorkerId(worker), alive=True, stats=stats, lease=lease))


def test_weights_that_two_workers_share_are_booked_once_and_never_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_memory, "unshared_bytes", lambda _: 50 * MIB)
    kept, together = memory(), Together()
    kept.sharing = together
    one, two = sharing("w-1", 300 * MIB), sharing("w-2", 300 * MIB)
    together.users = {"shared-1": (300 * MIB, frozenset({one.id}))}
    for number, processes in ((1, [one]), (2, [one, two])):
        together.users = {"shared-1": (300 * MIB, frozenset(process.id for process in processes))}
        for process in processes:
            kept.measured(process)
        kept.measured_sharing()
        booked = {memory.device: memory.reserved_bytes for memory in kept.report()}[CPU]
        own = kept.held_bytes([WorkerId("w-1")], CPU) if number == 2 else booked - 300 * MIB
        assert own < 300 * MIB
        assert 300 * MIB + number * WORKER_BASE_BYTES <= booked < 600 * MIB
    assert kept.held_bytes([one.id, two.id], CPU) == booked  # if both end, all of it comes back
    assert kept.held_bytes([one.id], CPU) == kept.held_bytes([two.id], CPU) < 300 * MIB
    together.users = {}
    kept.release(one.id)
    kept.release(two.id)
    kept.measured_sharing()
    assert {memory.device: memory.reserved_bytes for memory in kept.report()}[CPU] == 0
    kept.check()


def test_what_is_idle_counts_as_free_and_goes_when_it_is_asked_for() -> None:
    kept, together = memory(available=300 * MIB), Together()
    kept.sharing = together
    assert kept.free_bytes([])[CPU] == 200 * MIB
    together.idle = 150 * MIB
    assert kept.free_bytes([])[CPU] == 350 * MIB
    kept.reserve(WorkerId("w-1"), CPU, wanted(200 * MIB))
    assert together.asked == []
    kept.reserve(WorkerId("w-2"), VIRTUAL, wanted(1))  # another device's memory
    kept.free_bytes([])
    kept.reserve(WorkerId("w-3"), CPU, wanted(100 * MIB))
    kept.book("job", 1 * MIB, 0)
    assert together.asked == [100 * MIB, 1 * MIB]


def test_a_node_without_a_processor_of_its_own_books_nothing_shared() -> None:
    kept = NodeMemory(
        [device(VIRTUAL, "virtual", 500)],
        host_total_bytes=GIB,
        host_available=lambda: GIB,
        readings=dict,
        headroom_bytes=0,
    )
    kept.sharing = Together()
    kept.measured_sharing()
    kept.check()


class Kept:
    """A node whose standby holds so much of a host of one GiB."""

    def __init__(self, num_bytes: int, *, available: int = GIB) -> None:
        self.available = available
        self.ended = 0
        self.memory = NodeMemory(
            [device(CPU, "cpu")],
            host_total_bytes=GIB,
            host_available=lambda: self.available,
            readings=dict,
            headroom_bytes=0,
        )
        self.memory.give_up = self.end
        self.memory.keep(num_bytes)

    def end(self) -> int:
        self.ended += 1
        held = self.memory.kept_bytes
        self.memory.keep(0)
        self.available += held
        return held


def test_what_a_standby_holds_is_booked_and_counts_as_free() -> None:
    node = Kept(100 * MIB, available=GIB - 100 * MIB)
    (told,) = node.memory.report()
    assert told.reserved_bytes == told.measured_bytes == 100 * MIB
    assert node.memory.free_bytes([]) == {CPU: GIB}
    node.memory.check()
    node.memory.keep(0)
    assert node.memory.report()[0].reserved_bytes == 0


def test_what_a_standby_hands_over_is_lent_to_nobody() -> None:
    """It holds it still, as the worker it becomes."""
    node, freed = Kept(100 * MIB), []
    node.memory.lending = cast(Lending, SimpleNamespace(freed=freed.append, lent_bytes=dict))
    node.memory.keep(90 * MIB)
    assert freed == [10 * MIB]
    node.memory.hand_over()
    assert (freed, node.memory.kept_bytes) == ([10 * MIB], 0)
    assert node.memory.report()[0].reserved_bytes == 0


def test_a_standby_ends_for_who_needs_its_memory_and_for_nobody_else() -> None:
    node = Kept(100 * MIB, available=GIB - 100 * MIB)
    node.memory.free_bytes([])
    node.memory.book("job/small", GIB // 2, 0)
    assert not node.ended
    node.memory.free_bytes([])
    node.memory.book("job/rest", GIB // 2, 0)
    assert node.ended == 1
    assert node.memory.kept_bytes == 0
    with pytest.raises(OutOfMemory):
        node.memory.book("job/more", MIB, 0)
    node.memory.check()


def test_a_standby_ends_where_the_host_has_less_than_the_books_say() -> None:
    node = Kept(100 * MIB, available=200 * MIB)
    node.memory.free_bytes([])
    node.memory.book("job/a", 250 * MIB, 0)
    assert node.ended == 1
