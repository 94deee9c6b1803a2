"""From a spec to a model ready to run, on the made-up device, with small random models from a store."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import pytest

from tests.models import make_config, make_model, make_weights, write_weights
from thaloom.base.clock import ManualClock
from thaloom.base.errors import (
    BadParameter,
    CorruptObject,
    DeviceNotFound,
    DriverUnavailable,
    MalformedFile,
    ModelNotFound,
    NotServable,
    OutOfMemory,
    StateUnusable,
    ThaloomError,
)
from thaloom.base.ids import DeviceId, ServiceName, WorkerId
from thaloom.base.plugins import Manifest, Plugin, Registry
from thaloom.hal.driver import Backend, Driver
from thaloom.hal.drivers.virtual.driver import VirtualDevice, VirtualDriver
from thaloom.hal.types import DType, Reading, Support, WeightFormat
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.work.runtime.architectures import Architecture
from thaloom.work.runtime.architectures.llama import ARCHITECTURE
from thaloom.work.runtime.kv.pool import size_pool
from thaloom.work.runtime.spec import WorkerSpec, read_spec, write_spec
from thaloom.work.runtime.worker.loading import LoadedModel, LoadingStopped, choose_context, choose_kv_dtype, load
from thaloom.work.runtime.worker.shared_weights import InheritedMemory

DEVICE = DeviceId("virtual:0")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", ManualClock())


def spec(store_root: Path, **changes: Any) -> WorkerSpec:
    fields: dict[str, Any] = {
        "worker": WorkerId("w-1"),
        "service": ServiceName("s"),
        "model": "small",
        "store": str(store_root),
        "socket": str(store_root / "s"),
        "driver": "virtual",
    }
    return WorkerSpec(**fields | changes)


def put(store: ModelStore, folder: Path, name: str = "small", **settings: Any) -> None:
    store.import_path(make_model(folder, **settings), ModelName.parse(name))


class Crowded(VirtualDriver):
    """So much of its device is free, it says; all of it can be had."""

    def __init__(self, device: VirtualDevice, free: int) -> None:
        super().__init__([device])
        self._free = free

    def read(self, device: DeviceId) -> Reading:
        return dataclasses.replace(super().read(device), memory_free_bytes=self._free)


def loading(
    store: ModelStore,
    tmp_path: Path,
    *,
    stop: threading.Event | None = None,
    memory: int = 1 << 30,
    free: int | None = None,
    level: Literal["L1", "L3"] = "L3",
    shared: InheritedMemory | None = None,
    **changes: Any,
) -> LoadedModel:
    drivers: Registry[Driver] = Registry("driver")
    formats: tuple[WeightFormat, ...] = ("stored", "int8")
    device = VirtualDevice(id=DEVICE, num_cores=3, memory_bytes=memory, weight_formats=formats, level=level)
    driver = VirtualDriver([device]) if free is None else Crowded(device, free)
    drivers.add(
        Plugin(
            manifest=Manifest(kind="driver", name="virtual", version="1", summary=""),
            factory=lambda: driver,
        )
    )
    architectures: Registry[Architecture] = Registry("architecture")
    architectures.add(ARCHITECTURE)
    wish, stop = spec(tmp_path, **changes), stop or threading.Event()
    return load(wish, store, drivers, architectures, stop, memory=shared)


def test_a_model_comes_with_its_figures(store: ModelStore, tmp_path: Path) -> None:
    put(store, tmp_path / "model")
    model = loading(store, tmp_path)
    assert (model.config.context_length, model.config.num_blocks) == (256, 4 * 16)
    assert model.pool.promised_bytes == 64 * model.executable.block_bytes
    assert model.num_threads == 3
    assert model.operator_levels["paged_attention"] == "L3"
    booked = {entry.purpose: (entry.num_bytes, entry.measured) for entry in model.ledger.holdings()}
    assert booked == {
        "weights": (model.executable.weight_bytes, True),
        "kv": (model.pool.promised_bytes, True),
        "scratch": (model.executable.scratch_bytes, True),
    }
    model.ledger.check()
    model.close()


@pytest.mark.parametrize(
    ("stored", "weights", "offered", "wanted"),
    [
        ({"bf16"}, "stored", {"f32", "bf16", "f16", "i8"}, "f16"),
        ({"f16", "f32"}, "stored", {"f32", "bf16", "f16"}, "f16"),
        ({"bf16"}, "stored", {"f32", "bf16"}, "bf16"),
        ({"bf16"}, "stored", {"f32", "i8"}, "f32"),
        ({"f32"}, "stored", {"f32", "bf16", "f16"}, "f32"),
        ({"bf16"}, "int8", {"f32", "bf16", "f16"}, "bf16"),
        ({"bf16", "i8"}, "stored", {"f32", "bf16", "f16"}, "bf16"),
        ({"f32"}, "int4", {"f32", "bf16", "f16"}, "bf16"),
        ({"f32", "i8"}, "stored", {"f32", "bf16", "f16"}, "bf16"),
        ({"bf16"}, "int8", {"f32"}, "f32"),
    ],
)
def test_keys_and_values_fit_the_weights(stored: Any, weights: Any, offered: set[DType], wanted: str) -> None:
    """The same whether a model was quantised ahead or is at load."""
    backend = cast(Backend, SimpleNamespace(support=Support(kv_dtypes=frozenset(offered))))
    assert choose_kv_dtype(None, stored, weights, backend) == wanted


@pytest.mark.parametrize(("dtype", "asked", "bytes_each"), [("f32", None, 4), ("bf16", None, 2), ("bf16", "f32", 4)])
def test_keys_and_values_are_as_precise_as_the_weights(
    store: ModelStore, tmp_path: Path, dtype: Any, asked: Any, bytes_each: int
) -> None:
    put(store, tmp_path / "model", dtype=dtype)
    model = loading(store, tmp_path, kv_dtype=asked)
    values_per_token = 2 * 2 * 2 * 8  # layers, keys and values, heads, head size
    assert model.executable.block_bytes == values_per_token * 16 * bytes_each


def test_what_is_asked_for_is_what_is_made(store: ModelStore, tmp_path: Path) -> None:
    put(store, tmp_path / "model")
    kv_bytes = 100 * 2048 + 5
    model = loading(
        store, tmp_path, context_length=100, kv_bytes=kv_bytes, num_threads=2, prefix_reuse=False, device=DEVICE
    )
    assert (model.config.context_length, model.num_threads, model.config.prefix_reuse) == (100, 2, False)
    assert model.config.num_blocks == kv_bytes // model.executable.block_bytes


def test_two_models_do_not_share_prefixes(store: ModelStore, tmp_path: Path) -> None:
    put(store, tmp_path / "one", seed=1)
    put(store, tmp_path / "two", name="other", seed=2)
    assert loading(store, tmp_path).config.salt != loading(store, tmp_path, model="other").config.salt


def test_two_weight_formats_of_a_model_do_not_share_prefixes(store: ModelStore, tmp_path: Path) -> None:
    put(store, tmp_path / "model")
    assert loading(store, tmp_path).config.salt != loading(store, tmp_path, weights="int8").config.salt


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "error", "says"),
        [
            ({"model": "absent"}, ModelNotFound, "absent"),
            ({"model": "No Name"}, BadParameter, "No Name"),
            ({"driver": "quantum"}, DriverUnavailable, "quantum"),
            ({"device": "virtual:9"}, DeviceNotFound, "virtual:9"),
            ({"context_length": 257}, BadParameter, "257 tokens is asked for; the model was made for 256"),
            ({"kv_bytes": 1000}, BadParameter, "one context of 256 tokens needs 32.0 KiB .* kv_bytes is 1000 B"),
            ({"kv_dtype": "i8"}, NotServable, "bf16, f16, f32, not i8"),
            ({"weights": "int4"}, NotServable, "keeps weights as int8, stored, not int4"),
            ({"kv_host_bytes": 1000}, BadParameter, "kv_host_bytes is 1000 B; one block of 16 tokens takes 4.0 KiB"),
        ],
    )
    def test_a_wish_that_cannot_be_met(
        self, store: ModelStore, tmp_path: Path, changes: dict[str, Any], error: type[ThaloomError], says: str
    ) -> None:
        put(store, tmp_path / "model")
        with pytest.raises(error, match=says):
            loading(store, tmp_path, **changes)

    def test_room_below_a_pool_that_cannot_be_left(self, store: ModelStore, tmp_path: Path) -> None:
        put(store, tmp_path / "model")
        with pytest.raises(NotServable, match="cannot leave device 'virtual:0'") as caught:
            loading(store, tmp_path, level="L1", kv_host_bytes=1 << 20)
        assert caught.value.param == "kv_host_bytes"

    def test_a_disk_tier_that_another_process_has(self, store: ModelStore, tmp_path: Path) -> None:
        put(store, tmp_path / "model")
        sizes = {"kv_host_bytes": 1 << 20, "kv_disk_bytes": 1 << 20, "tier_folder": str(tmp_path / "tier")}
        first = loading(store, tmp_path, **sizes)
        with pytest.raises(StateUnusable, match="in use by another process"):
            loading(store, tmp_path, **sizes)
        first.close()
        loading(store, tmp_path, **sizes).close()

    def test_weights_that_do_not_fit_now(self, store: ModelStore, tmp_path: Path) -> None:
        put(store, tmp_path / "model")
        with pytest.raises(OutOfMemory) as caught:
            loading(store, tmp_path, free=10_000)
        assert caught.value.details["needed_bytes"] > caught.value.details["free_bytes"] == 10_000

    def test_a_pool_that_does_not_fit_beside_the_weights_now(self, store: ModelStore, tmp_path: Path) -> None:
        put(store, tmp_path / "model")
        with pytest.raises(OutOfMemory, match="for kv on virtual:0"):
            loading(store, tmp_path, free=200_000, kv_bytes=150_000)

    @pytest.mark.parametrize(
        ("memory", "changes", "purpose"),
        [(10_000, {}, "weights"), (200_000, {"kv_bytes": 150_000}, "kv")],
    )
    def test_what_no_device_of_that_size_could_ever_hold(
        self, store: ModelStore, tmp_path: Path, memory: int, changes: dict[str, Any], purpose: str
    ) -> None:
        """The pool alone would fit: it is the weights beside it that are too many."""
        put(store, tmp_path / "model")
        with pytest.raises(NotServable, match=rf"for {purpose} on virtual:0, .*; virtual:0 has .* in all") as caught:
            loading(store, tmp_path, memory=memory, **changes)
        assert caught.value.details["needed_bytes"] > memory

    def test_an_unknown_architecture(self, store: ModelStore, tmp_path: Path) -> None:
        folder = make_model(tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"architectures": ["OracleForCausalLM"]}))
        store.import_path(folder, ModelName.parse("small"))
        with pytest.raises(NotServable, match="OracleForCausalLM"):
            loading(store, tmp_path)

    def test_a_missing_tensor_is_named(self, store: ModelStore, tmp_path: Path) -> None:
        self._with_weights(store, tmp_path, without="model.norm.weight")
        with pytest.raises(MalformedFile, match=r"lacks 1 of its tensors: 'model\.norm\.weight'"):
            loading(store, tmp_path)

    def test_a_tensor_of_another_shape_is_named_with_both(self, store: ModelStore, tmp_path: Path) -> None:
        self._with_weights(store, tmp_path, intermediate_size=64)
        with pytest.raises(
            MalformedFile, match=r"gate_proj.* has shape \(64, 32\); its config.json asks for \(48, 32\)"
        ):
            loading(store, tmp_path)

    def test_altered_weights_are_named(self, store: ModelStore, tmp_path: Path) -> None:
        put(store, tmp_path / "model")
        largest = max((path for path in (tmp_path / "models").rglob("*") if path.is_file()), key=_size)
        largest.chmod(0o600)
        data = bytearray(largest.read_bytes())
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
        with pytest.raises(CorruptObject, match=r"model\.safetensors"):
            loading(store, tmp_path)

    def _with_weights(self, store: ModelStore, tmp_path: Path, *, without: str = "", **other_config: Any) -> None:
        folder = make_model(tmp_path / "model")
        weights = make_weights(make_config(**other_config))
        write_weights(folder, {name: tensor for name, tensor in weights.items() if name != without})
        store.import_path(folder, ModelName.parse("small"))


def test_weights_that_lie_there_already_are_not_taken_a_second_time(store: ModelStore, tmp_path: Path) -> None:
    """They are no part of what is free, and nothing is needed for them any more."""
    put(store, tmp_path / "model")
    with pytest.raises(OutOfMemory):
        loading(store, tmp_path, free=200_000, kv_bytes=150_000)
    memory = cast(InheritedMemory, SimpleNamespace(there_bytes=lambda: 100_000, shared=lambda _: None))
    memory.given_up = memory.loaded = lambda **_: None  # type: ignore[method-assign]
    loading(store, tmp_path, free=200_000, kv_bytes=150_000, shared=memory).close()


@pytest.mark.parametrize(("weights", "purpose"), [("stored", "weights"), ("int8", "kv")])
def test_only_weights_that_are_kept_as_they_are_stored_are_refused_by_their_size(
    store: ModelStore, tmp_path: Path, weights: str, purpose: str
) -> None:
    """How much less others take is known when they are there."""
    put(store, tmp_path / "model")
    with pytest.raises(OutOfMemory, match=f"needs .* for {purpose} on"):
        loading(store, tmp_path, weights=weights, free=60_000)


def _size(path: Path) -> int:
    return path.stat().st_size


def test_loading_stops_between_two_tensors(store: ModelStore, tmp_path: Path) -> None:
    put(store, tmp_path / "model")
    stop = threading.Event()
    stop.set()
    with pytest.raises(LoadingStopped):
        loading(store, tmp_path, stop=stop)


@pytest.mark.parametrize(
    ("wanted", "of_model", "given"), [(None, 131072, 8192), (None, 2048, 2048), (100, 2048, 100), (9000, 131072, 9000)]
)
def test_choose_context(wanted: int | None, of_model: int, given: int) -> None:
    assert choose_context(wanted, of_model) == given


@pytest.mark.parametrize(
    ("wanted_bytes", "context", "block_bytes", "blocks"),
    [
        (None, 160, 1000, 40),
        (None, 8192, 1 << 20, 1024),  # four contexts are 2 GiB: at most 1
        (None, 8192, 1 << 22, 512),  # but never less than one context
        (10_000, 160, 1000, 10),
        (10_999, 160, 1000, 10),
    ],
)
def test_size_pool(wanted_bytes: int | None, context: int, block_bytes: int, blocks: int) -> None:
    assert size_pool(wanted_bytes, context, block_bytes) == blocks


class TestSpec:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        wanted = spec(tmp_path, device=DEVICE, kv_bytes=5, prefix_reuse=False)
        write_spec(tmp_path / "spec.json", wanted)
        assert read_spec(tmp_path / "spec.json") == wanted

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("{", "truncated"),
            ("[]", "object"),
            ('{"worker": 1}', "worker"),
            ('{"worker": "w"}', "service"),
            ('{"nonsense": 1}', "nonsense"),
        ],
    )
    def test_what_is_none_is_refused_with_file_and_field(self, tmp_path: Path, text: str, says: str) -> None:
        (tmp_path / "spec.json").write_text(text)
        with pytest.raises(BadParameter, match=says) as caught:
            read_spec(tmp_path / "spec.json")
        assert "spec.json" in caught.value.message

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(BadParameter, match=r"spec\.json"):
            read_spec(tmp_path / "spec.json")

    def test_limits_are_positive_and_the_socket_can_be_bound(self, tmp_path: Path) -> None:
        with pytest.raises(BadParameter) as caught:
            spec(tmp_path, max_queue=0)
        assert caught.value.param == "max_queue"
        with pytest.raises(BadParameter, match="at most 100"):
            spec(tmp_path, socket="/" + "x" * 100)

    @pytest.mark.parametrize(
        ("sizes", "param"),
        [
            ({"kv_host_bytes": -1}, "kv_host_bytes"),
            ({"kv_disk_bytes": -1}, "kv_disk_bytes"),
            ({"kv_disk_bytes": 1 << 20, "tier_folder": "/x"}, "kv_disk_bytes"),
            ({"kv_host_bytes": 1 << 20, "prefix_reuse": False}, "kv_host_bytes"),
            ({"kv_host_bytes": 1 << 20, "kv_disk_bytes": 1 << 20}, "tier_folder"),
        ],
        ids=["less than nothing", "less than no disk", "a disk alone", "nothing used again", "no folder"],
    )
    def test_room_below_the_pool_makes_sense(self, tmp_path: Path, sizes: dict[str, Any], param: str) -> None:
        with pytest.raises(BadParameter) as caught:
            spec(tmp_path, **sizes)
        assert caught.value.param == param

    @pytest.mark.parametrize(("field", "value"), [("stretch", 0.5), ("token_s", -1.0), ("keep_throughput", 2.0)])
    def test_targets_make_sense(self, tmp_path: Path, field: str, value: float) -> None:
        with pytest.raises(BadParameter) as caught:
            spec(tmp_path, **{field: value})
        assert caught.value.param == field

    def test_it_is_plain_data(self, tmp_path: Path) -> None:
        assert json.dumps(dataclasses.asdict(spec(tmp_path)))
