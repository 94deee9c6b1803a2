"""A full disk, a kill, two at once: whole models or none, and nothing left that a sweep does not take."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models import make_model
from thaloom.base.clock import ManualClock
from thaloom.base.errors import DiskFull, NameTaken
from thaloom.kernel.models import importing
from thaloom.kernel.models.locks import exclude, share, try_exclude
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest, ModelName

CHUNK = 4096


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store", ManualClock(), chunk_bytes=CHUNK)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_model(tmp_path / "small")


def files(store: ModelStore) -> set[str]:
    return {path.name for path in store.root.rglob("*") if path.is_file()} - {"lock", "manifests.lock"}


def pretend_free(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(importing, "free_bytes", lambda path: num_bytes)
    monkeypatch.setattr("thaloom.base.files.free_bytes", lambda path: num_bytes)


# -- space -----------------------------------------------------------------------------------------------------------


def test_too_little_space_is_refused_before_anything_is_written(
    store: ModelStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_free(monkeypatch, 10_000)
    with pytest.raises(DiskFull, match="needed") as caught:
        store.import_path(source)
    assert caught.value.details["free_bytes"] == 10_000
    assert caught.value.details["needed_bytes"] > sum(path.stat().st_size for path in source.iterdir())
    assert files(store) == set()


def test_exactly_the_missing_bytes_are_needed(
    store: ModelStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = ModelStore(tmp_path / "reference", ManualClock(), chunk_bytes=CHUNK)
    reference.import_path(source)
    needed = sum(path.stat().st_size for path in (reference.root / "objects").glob("*/*"))
    pretend_free(monkeypatch, needed - 1)
    with pytest.raises(DiskFull) as caught:
        store.import_path(source)
    assert caught.value.details["needed_bytes"] == needed
    pretend_free(monkeypatch, needed)
    monkeypatch.setattr(importing, "free_bytes", lambda path: 0)  # make it count
    store.import_path(source)
    assert store.verify("small").sound


def test_what_is_there_already_needs_no_space(
    store: ModelStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.import_path(source)
    pretend_free(monkeypatch, 0)
    store.import_path(source, ModelName("again"))
    with pytest.raises(DiskFull):
        store.import_path(make_model(tmp_path / "other", seed=1))
    assert [str(manifest.name) for manifest in store.list()] == ["again", "small"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("num_writes", [0, 1, 10])
def test_a_disk_that_fills_in_the_middle_leaves_nothing(
    error: int, num_writes: int, store: ModelStore, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.import_path(make_model(tmp_path / "before", seed=1))
    before = files(store)
    real, calls = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > num_writes:
            raise OSError(error, os.strerror(error))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DiskFull, match="no space left"):
        store.import_path(source)
    monkeypatch.undo()
    assert files(store) == before
    assert [str(manifest.name) for manifest in store.list()] == ["before"]


def test_a_disk_that_fills_at_the_manifest_leaves_nothing(
    store: ModelStore, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(manifest: Manifest) -> None:
        raise DiskFull("no space left")

    monkeypatch.setattr(store._manifests, "write", full)
    with pytest.raises(DiskFull):
        store.import_path(source)
    assert files(store) == set()


# -- kill ------------------------------------------------------------------------------------------------------------

IMPORT_FOREVER = """
import sys
from pathlib import Path
from thaloom.base.clock import SystemClock
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName

store = ModelStore(Path(sys.argv[1]), SystemClock(), chunk_bytes=int(sys.argv[2]))
tell = lambda done, total: print(done, flush=True)
for turn in range(10_000):
    for source in sys.argv[3:]:
        name = ModelName("m", f"{Path(source).name}-{turn % 3}")
        store.import_path(Path(source), name, replace=True, progress=tell)
        if turn % 2:
            store.remove(name)
"""


def test_kill_9_at_any_moment_leaves_only_whole_models(store: ModelStore, tmp_path: Path) -> None:
    sources = [make_model(tmp_path / f"s{seed}", seed=seed, num_shards=1 + seed % 2) for seed in range(3)]
    command = [sys.executable, "-c", IMPORT_FOREVER, str(store.root), str(CHUNK), *map(str, sources)]
    chance = random.Random(20261121)
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(chance.randrange(1, 50)):
                assert child.stdout.readline()
            child.send_signal(signal.SIGKILL)
        swept = store.sweep()
        assert swept is not None
        assert swept.complete
        needed = set()
        for manifest in store.list():
            assert store.verify(manifest.name).sound
            opened = store.open(manifest)
            for file in manifest.files:
                assert hashlib.sha256(opened.read_file(file.path)).hexdigest() == file.sha256
            needed |= {file.tree for file in manifest.files}
        if not needed:
            assert not any((store.root / "objects").glob("*/*"))
        assert not any(store.root.rglob("*.partial"))


IMPORT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from thaloom.base.clock import SystemClock
from thaloom.kernel.models.store import ModelStore

def die(done, total):
    if done >= total * float(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

ModelStore(Path(sys.argv[1]), SystemClock(), chunk_bytes=4096).import_path(Path(sys.argv[2]), progress=die)
"""


@pytest.mark.parametrize("share_done", [0.0, 0.5, 1.0])
def test_what_a_killed_import_leaves_is_no_model_and_is_swept(
    share_done: float, store: ModelStore, source: Path
) -> None:
    command = [sys.executable, "-c", IMPORT_AND_DIE, str(store.root), str(source), str(share_done)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert store.list() == []
    assert any((store.root / "objects").glob("*/*"))
    swept = store.sweep()
    assert swept is not None
    assert swept.complete
    assert files(store) == set()
    store.import_path(source)
    assert store.verify("small").sound


# -- two at once -----------------------------------------------------------------------------------------------------


def run_together(*acts: Callable[[], object]) -> list[object]:
    """Start all at one moment; give back what each returned or raised."""
    results: list[object] = [None] * len(acts)
    barrier = threading.Barrier(len(acts))

    def run(i: int) -> None:
        barrier.wait()
        try:
            results[i] = acts[i]()
        except Exception as error:  # noqa: BLE001  # handed to the test, which looks at it
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_imports_of_the_same_model_at_once_agree(store: ModelStore, source: Path) -> None:
    results = run_together(*[lambda: store.import_path(source, ModelName("m"))] * 4)
    assert len({result.digest for result in results if isinstance(result, Manifest)}) == 1
    assert all(isinstance(result, Manifest) for result in results), results
    assert store.verify("m").sound


def test_two_imports_of_different_models_under_one_name_leave_one_whole(
    store: ModelStore, source: Path, tmp_path: Path
) -> None:
    other = make_model(tmp_path / "other", seed=1)
    results = run_together(*[lambda path=path: store.import_path(path, ModelName("m")) for path in (source, other)])
    assert {type(result) for result in results} == {Manifest, NameTaken}, results
    assert store.get("m") in results
    assert store.verify("m").sound
    store.sweep()
    assert store.verify("m").sound


def test_importing_and_removing_at_once_loses_nothing(store: ModelStore, source: Path, tmp_path: Path) -> None:
    store.import_path(source, ModelName("a"))
    for turn in range(3):
        store.import_path(source, ModelName("gone"))
        results = run_together(
            lambda: store.import_path(source, ModelName("b"), replace=True),
            lambda: store.remove("gone"),
            store.sweep,
            lambda: store.verify("a"),
        )
        assert not [result for result in results if isinstance(result, Exception)], (turn, results)
        assert store.verify("a").sound
        assert store.verify("b").sound


def test_a_store_being_imported_into_is_not_swept(store: ModelStore, source: Path) -> None:
    seen: list[object] = []
    store.import_path(source, progress=lambda done, total: seen.append(store.sweep()))
    assert set(seen) == {None}
    assert store.verify("small").sound


def test_many_may_share_a_lock_and_one_exclude_the_others(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with share(path), share(path):
        assert try_exclude(path) is None
    alone = try_exclude(path)
    assert alone is not None
    assert try_exclude(path) is None
    alone.close()
    with exclude(path):
        assert try_exclude(path) is None
