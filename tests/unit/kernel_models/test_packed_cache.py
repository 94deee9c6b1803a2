from __future__ import annotations

import os
from pathlib import Path

from tests.models import make_model
from thaloom.base.clock import ManualClock
from thaloom.base.ids import Digest
from thaloom.kernel.models.packed_cache import PackedCache
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName

A, B, C = (Digest(f"sha256:{letter * 64}") for letter in "abc")


def fill(cache: PackedCache, digest: Digest, used_at: int, num_bytes: int = 100, layout: str = "cpu") -> Path:
    path = cache.path(digest, layout)
    path.write_bytes(bytes(num_bytes))
    os.utime(path, (used_at, used_at))
    return path


def test_each_model_and_each_layout_has_a_place_of_its_own(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path / "packed")
    places = {cache.path(digest, layout) for digest in (A, B) for layout in ("one", "two")}
    assert len(places) == 4
    assert cache.path(A, "one") in places


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path, max_bytes=250)
    old, older, new = fill(cache, A, 2), fill(cache, B, 1), fill(cache, C, 3)
    cache.path(Digest("sha256:" + "d" * 64), "cpu")
    assert [path.exists() for path in (old, older, new)] == [True, False, True]


def test_asking_for_a_place_counts_as_use(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path, max_bytes=150)
    old, new = fill(cache, A, 1), tmp_path / "new.packed"
    new.write_bytes(bytes(100))
    os.utime(new, (2, 2))
    assert cache.path(A, "cpu") == old
    assert old.exists()
    assert not new.exists()


def test_a_file_larger_than_the_bound_is_kept_while_it_is_asked_for(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path, max_bytes=10)
    path = fill(cache, A, 1)
    assert cache.path(A, "cpu").exists()
    cache.path(B, "cpu")
    assert not path.exists()


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    cache = PackedCache(tmp_path)
    dead = tmp_path / "x.packed.999999999.0.partial"
    living = tmp_path / f"x.packed.{os.getpid()}.0.partial"
    for path in (dead, living):
        path.touch()
    cache.path(A, "cpu")
    assert not dead.exists()
    assert living.exists()


def test_removing_a_model_frees_what_was_made_of_it(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store", ManualClock())
    kept = store.import_path(make_model(tmp_path / "kept", seed=1), ModelName("kept"))
    gone = store.import_path(make_model(tmp_path / "gone", seed=2), ModelName("gone"))
    paths = [fill(store.packed, manifest.digest, 1, num_bytes=1000) for manifest in (kept, gone)]
    swept = store.remove("gone")
    assert [path.exists() for path in paths] == [True, False]
    assert swept.freed_bytes > 1000
