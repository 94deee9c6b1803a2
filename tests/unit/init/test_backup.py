"""A backup holds what a node keeps, is proved when written and before it is put back, and never half replaces one."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.encrypted import a_key
from tests.killing import Step, killed_at
from tests.models import make_model
from thaloom.base.clock import ManualClock
from thaloom.base.errors import AlreadyRunning, BadParameter, CorruptObject, NameTaken, StateUnusable
from thaloom.base.files import FolderLock
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.base.procs import identify
from thaloom.init.backup import restoring, taking
from thaloom.init.backup.contents import MANIFEST, VERSION, size_of, small_files
from thaloom.init.backup.restoring import Restored, restore
from thaloom.init.backup.taking import back_up
from thaloom.init.layout import Layout
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.state.kept import open_kept
from thaloom.kernel.state.migrations import LATEST
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Lease, ServiceSpec

FORMS = ["backup.tar", "backup"]


def quiet(stage: str, done: int, total: int | None) -> None:
    assert 0 <= done <= (total or 0)


@pytest.fixture
def home(short_path: Path) -> Iterator[Path]:
    """As a node leaves it that was killed: its databases still have their write-ahead logs."""
    layout = Layout(short_path / "node" / "home")
    layout.create()
    store = StateStore(layout.state, ManualClock(5.0))
    for i in range(20):
        store.put_service(ServiceSpec(name=ServiceName(f"service-{i}"), model="tiny"))
    (layout.home / "config.toml").write_text('log_level = "debug"\n')
    (layout.home / "journal-seal.key").write_bytes(b"of a later room")
    (layout.home / "logs" / "door.log").write_text("noise")
    (layout.run / "routes.json").write_text("{}")
    (layout.home / "master.key").write_bytes(b"k" * 32)
    (layout.home / "master.key").chmod(0o600)
    kept = open_kept(layout.home / "kept", ManualClock())
    with contextlib.suppress(Exception):
        kept.responses.get("none", None)  # type: ignore[arg-type]
    kept.close()
    files = layout.home / "kept" / "files"
    files.mkdir(parents=True, exist_ok=True)
    (files / "file-1").write_bytes(b"a client's file")
    yield layout.home
    store.close()


@pytest.fixture
def models(home: Path, tmp_path: Path) -> ModelStore:
    key = a_key()
    store = ModelStore(home / "models", ManualClock(), chunk_bytes=16384, key=lambda: key)
    store.import_path(make_model(tmp_path / "small"))
    store.convert(store.get("small").name, store.get("small").name.parse("sealed"), encrypted=True)
    (home / "models" / "keyring.json").write_text("a ring")
    return store


def services(home: Path) -> list[str]:
    with contextlib.closing(StateStore(home / "state.db", ManualClock())) as store:
        return [service.spec.name for service in store.services()]


def take(home: Path, target: Path, *, with_models: bool = False) -> None:
    back_up(Layout(home), target, ManualClock(100.0), models=with_models, tell=quiet)


def put_back(
    home: Path, source: Path, *, replace: bool = False, step: Callable[[str], None] = lambda _: None
) -> Restored:
    return restore(home, source, replace=replace, tell=quiet, step=step, now=lambda: 7.0)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_backed_up_comes_back_and_nothing_else(form: str, home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / form)
    put_back(tmp_path / "new", tmp_path / form)
    found = tree(tmp_path / "new")
    assert services(tmp_path / "new") == services(home)
    assert found["config.toml"] == b'log_level = "debug"\n'
    assert found["kept/files/file-1"] == b"a client's file"
    assert found["journal-seal.key"] == b"of a later room", "what is not known by name is taken too"
    assert not {name for name in found if name.split("/")[0] in ("run", "logs", "models", "lock", "master.key")}
    assert not [name for name in found if name.endswith(("-wal", "-shm", ".partial"))]


@pytest.mark.parametrize("form", FORMS)
def test_nobody_else_may_read_it_and_the_master_key_is_not_in_it(form: str, home: Path, tmp_path: Path) -> None:
    (home / "config.toml").write_text(f'master_key_file = "{home / "own.key"}"\n')
    (home / "own.key").write_bytes(b"K" * 32)
    take(home, tmp_path / form)
    place = tmp_path / form
    assert place.stat().st_mode & 0o077 == 0
    everything = b"".join(tree(place).values()) if place.is_dir() else place.read_bytes()
    assert b"k" * 32 not in everything
    assert b"K" * 32 not in everything


def test_a_backup_while_the_node_writes_is_one_moment(home: Path, tmp_path: Path) -> None:
    """Pairs of rows are written together; no snapshot has one without the other."""
    done = threading.Event()
    database = sqlite3.connect(home / "state.db", isolation_level=None, check_same_thread=False)
    database.execute("CREATE TABLE pairs (n INTEGER)")
    database.execute("CREATE TABLE twins (n INTEGER)")

    def write() -> None:
        n = 0
        while not done.is_set():
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO pairs VALUES (?)", (n,))
            database.execute("INSERT INTO twins VALUES (?)", (n,))
            database.execute("COMMIT")
            n += 1

    writing = threading.Thread(target=write)
    writing.start()
    try:
        for i in range(5):
            take(home, tmp_path / f"{i}.tar")
    finally:
        done.set()
        writing.join()
        database.close()
    for i in range(5):
        put_back(tmp_path / f"new-{i}", tmp_path / f"{i}.tar")
        with contextlib.closing(sqlite3.connect(tmp_path / f"new-{i}" / "state.db")) as copy:
            pairs, twins = (
                copy.execute(f"SELECT count(*), max(n) FROM {name}").fetchone() for name in ("pairs", "twins")
            )
            assert pairs == twins


@pytest.mark.parametrize("form", FORMS)
def test_models_are_taken_where_asked_and_stay_encrypted(
    form: str, home: Path, models: ModelStore, tmp_path: Path
) -> None:
    take(home, tmp_path / form, with_models=True)
    place = tmp_path / form
    put_back(tmp_path / "new", place)
    key = models._sealed._key  # the test's own
    again = ModelStore(tmp_path / "new" / "models", ManualClock(), chunk_bytes=16384, key=key)
    assert [str(model.name) for model in again.list()] == ["sealed", "small"]
    assert again.verify("small").sound
    assert again.verify("sealed").sound
    assert again.get("sealed").encrypted
    assert (tmp_path / "new" / "models" / "keyring.json").read_text() == "a ring"


def test_without_models_those_that_are_there_stay_and_so_does_the_master_key(
    home: Path, models: ModelStore, tmp_path: Path
) -> None:
    take(home, tmp_path / "backup.tar")
    before = tree(home / "models")
    StateStore(home / "state.db", ManualClock()).delete_service(ServiceName("service-3"))
    restored = put_back(home, tmp_path / "backup.tar", replace=True)
    assert restored.models_kept
    assert "service-3" in services(home)
    after = tree(home / "models")
    assert {name: data for name, data in before.items() if not name.endswith("lock")} == after
    assert (home / "master.key").read_bytes() == b"k" * 32
    assert restored.before is not None
    assert tree(Path(restored.before))["logs/door.log"] == b"noise", "what was there is put aside, and kept"


# -- refusals --------------------------------------------------------------------------------------------------------


def test_a_backup_replaces_nothing_and_is_not_taken_into_itself(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "backup.tar")
    with pytest.raises(NameTaken):
        take(home, tmp_path / "backup.tar")
    with pytest.raises(BadParameter, match="into the folder"):
        take(home, home / "backup.tar")
    with pytest.raises(BadParameter, match="no folder"):
        take(home, tmp_path / "nowhere" / "backup.tar")
    with pytest.raises(BadParameter, match="not the folder of a node"):
        take(tmp_path / "empty", tmp_path / "other.tar")


def test_a_damaged_database_is_not_backed_up_as_if_it_were_sound(home: Path, tmp_path: Path) -> None:
    StateStore(home / "state.db", ManualClock()).close()
    with contextlib.closing(sqlite3.connect(home / "state.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = (home / "state.db").read_bytes()
    (home / "state.db").write_bytes(data[:8192] + b"\x5a" * 4096 + data[12288:])
    with pytest.raises(StateUnusable, match=r"state\.db"):
        take(home, tmp_path / "backup.tar")
    assert list(tmp_path.glob("backup*")) == []


def test_a_folder_with_a_node_in_it_is_refused(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "backup.tar")
    before = tree(home)
    with pytest.raises(NameTaken, match="--replace"):
        put_back(home, tmp_path / "backup.tar")
    lock = FolderLock.take(home)
    assert lock is not None
    with contextlib.closing(lock), pytest.raises(AlreadyRunning, match="down"):
        put_back(home, tmp_path / "backup.tar", replace=True)
    assert tree(home).keys() - {"lock"} == before.keys() - {"lock"}


def test_a_node_whose_daemon_alone_was_killed_is_not_replaced_under_its_workers(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "backup.tar")
    me = identify(os.getpid())
    assert me is not None
    with contextlib.closing(StateStore(home / "state.db", ManualClock())) as store:
        store.put_lease(
            Lease(
                id=WorkerId("w-0123456789ab"), role="worker", service=ServiceName("a"), pid=me.pid,
                start_ticks=me.start_ticks, socket="", started_at=1.0,
            )
        )  # fmt: skip
    with pytest.raises(AlreadyRunning, match="without their daemon"):
        put_back(home, tmp_path / "backup.tar", replace=True)


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """The tar file with other members."""
    with tarfile.open(path) as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    change(members)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def changed(name: str, data: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: data(members[name])})


def manifest_with(**fields: object) -> Callable[[dict[str, bytes]], None]:
    return changed(MANIFEST, lambda text: json.dumps(json.loads(text) | fields).encode())


HARMS: dict[str, Callable[[dict[str, bytes]], None]] = {
    "a byte": changed("config.toml", lambda data: data[:-2] + b"X\n"),
    "a database": changed("state.db", lambda data: data[:8192] + b"\x5a" * 4096 + data[12288:]),
    "cut": changed("state.db", lambda data: data[:-4096]),
    "missing": lambda members: members.pop("config.toml") and None,  # type: ignore[func-returns-value]
    "more": lambda members: members.update({"run/evil": b"x"}),
    "no manifest": lambda members: members.pop(MANIFEST) and None,  # type: ignore[func-returns-value]
    "manifest": changed(MANIFEST, lambda _: b"{}"),
    "outside": manifest_with(entries=[{"path": "../x", "kind": "file", "num_bytes": 0, "sha256": ""}]),
}


@pytest.mark.parametrize("harm", sorted(HARMS))
def test_a_damaged_backup_is_refused_by_name_and_touches_nothing(harm: str, home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "backup.tar")
    rewritten(tmp_path / "backup.tar", HARMS[harm])
    before = tree(home)
    with pytest.raises(CorruptObject) as caught:
        put_back(home, tmp_path / "backup.tar", replace=True)
    assert caught.value.details["file"]
    assert tree(home).keys() - {"lock"} == before.keys() - {"lock"}
    assert [path.name for path in home.parent.iterdir()] == ["home"]


def test_a_cut_file_and_no_backup_at_all_are_refused(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "backup.tar")
    data = (tmp_path / "backup.tar").read_bytes()
    for i, part in enumerate((b"", data[:100], data[: len(data) // 2], b"hello " * 1000)):
        (tmp_path / f"{i}.tar").write_bytes(part)
        with pytest.raises(CorruptObject):
            put_back(tmp_path / "new", tmp_path / f"{i}.tar")
    with pytest.raises(CorruptObject, match="no backup"):
        put_back(tmp_path / "new", tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()


def test_a_link_in_a_backup_is_not_followed(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "backup")
    (tmp_path / "backup" / "config.toml").unlink()
    (tmp_path / "backup" / "config.toml").symlink_to("/etc/hostname")
    with pytest.raises(CorruptObject, match="ordinary"):
        put_back(tmp_path / "new", tmp_path / "backup")


def test_a_newer_backup_is_refused_by_its_versions(home: Path, tmp_path: Path) -> None:
    take(home, tmp_path / "form.tar")
    rewritten(tmp_path / "form.tar", manifest_with(version=VERSION + 1))
    with pytest.raises(StateUnusable, match=f"version {VERSION + 1}"):
        put_back(tmp_path / "new", tmp_path / "form.tar")
    with contextlib.closing(sqlite3.connect(home / "state.db")) as connection:
        connection.execute("INSERT INTO schema_version VALUES (?, 0)", (LATEST + 1,))
        connection.commit()
    take(home, tmp_path / "schema.tar")
    with pytest.raises(StateUnusable, match=rf"state\.db.*version {LATEST + 1}"):
        put_back(tmp_path / "new", tmp_path / "schema.tar")
    assert not (tmp_path / "new").exists()


def test_where_folders_cannot_be_exchanged_it_says_what_to_do(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(home, tmp_path / "backup.tar")
    monkeypatch.setattr(restoring, "_EXCHANGE", 1 << 20)  # a flag no file system knows
    with pytest.raises(StateUnusable, match="move the old folder away"):
        put_back(home, tmp_path / "backup.tar", replace=True)
    assert services(home)
    assert [path.name for path in home.parent.iterdir()] == ["home"]


# -- kills -----------------------------------------------------------------------------------------------------------


def put_back_stepwise(place: Path, source: Path, step: Step) -> None:
    put_back(place, source, replace=True, step=step)


@pytest.mark.parametrize("there", [True, False])
def test_a_restore_that_is_killed_anywhere_leaves_the_old_node_or_the_new_one(
    there: bool, home: Path, models: ModelStore, tmp_path: Path, short_path: Path
) -> None:
    take(home, tmp_path / "backup.tar", with_models=True)
    new = services(home)
    points = []
    while True:
        place = short_path / f"at-{len(points)}" / "home"
        place.parent.mkdir()
        if there:
            Layout(place).create()
            with contextlib.closing(StateStore(place / "state.db", ManualClock())) as store:
                store.put_service(ServiceSpec(name=ServiceName("old"), model="tiny"))
        name = killed_at(
            len(points), lambda step, p=place: put_back(p, tmp_path / "backup.tar", replace=True, step=step)
        )
        found = services(place) if (place / "state.db").exists() else None
        if name in ("begin", "building", "unpacked", "proved") and name is not None:
            assert found == (["old"] if there else None), name
        else:
            assert found == new, name
            assert ModelStore(place / "models", ManualClock(), key=models._sealed._key).verify("sealed").sound
        put_back(place, tmp_path / "backup.tar", replace=True)
        assert services(place) == new
        left = sorted(path.name for path in place.parent.iterdir() if not path.name.startswith("home.before-"))
        assert left == ["home"], f"killed at {name!r}: the next one clears away what was being built"
        if there:
            kept = [path for path in place.parent.glob("home.before-*") if services(path) == ["old"]]
            assert len(kept) == 1, f"killed at {name!r}: the old node is kept"
        if name is None:
            break
        points.append(name)
    expected = ["begin", "building", "unpacked", "proved", *(["exchanged"] if there else []), "end"]
    assert points == expected


@pytest.mark.parametrize("form", FORMS)
def test_a_backup_that_is_killed_anywhere_is_whole_or_not_there(form: str, home: Path, tmp_path: Path) -> None:
    target = tmp_path / "place" / form
    target.parent.mkdir()
    point = 0
    while True:

        def work(step: Step) -> None:
            back_up(Layout(home), target, ManualClock(), models=False, tell=lambda stage, *_: step(stage))

        name = killed_at(point, work)
        if name is None:
            break
        assert not target.exists(), "each step is before the renaming"
        point += 1
    assert point > 6
    assert [path.name for path in target.parent.iterdir()] == [form], "what the killed ones left was cleared away"
    put_back(tmp_path / "new", target)
    assert services(tmp_path / "new") == services(home)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("becomes", ["shorter", "gone", "turned"])
def test_a_log_that_is_turned_while_it_is_read_does_not_fail_the_backup(
    becomes: str, form: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the worst moment: it is listed and opened, and its length is known."""
    log = home / "jobs" / "paper" / "log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * 5000)
    fstat, met = os.fstat, []

    def turned(descriptor: int) -> os.stat_result:
        found = fstat(descriptor)
        if found.st_ino == ino and not met:
            met.append(found.st_size)
            if becomes == "shorter":
                os.truncate(log, 700)
            elif becomes == "gone":
                log.unlink()
            else:
                log.rename(log.with_name("log.1"))
                log.write_bytes(b"anew")
        return found

    ino = log.stat().st_ino
    monkeypatch.setattr(os, "fstat", turned)
    manifest = back_up(Layout(home), tmp_path / form, ManualClock(7.0), models=False, tell=quiet)
    assert met == [5000]
    monkeypatch.undo()
    restore(tmp_path / "new" / "h", tmp_path / form, replace=False, tell=quiet)
    there = {entry.path: entry.num_bytes for entry in manifest.entries if entry.path.startswith("jobs/")}
    assert (
        there
        == {
            "shorter": {"jobs/paper/log": 700},
            "gone": {"jobs/paper/log": 5000},
            "turned": {"jobs/paper/log": 5000, "jobs/paper/log.1": 5000},
        }[becomes]
    )
    back = tmp_path / "new" / "h" / "jobs" / "paper" / "log"
    assert back.read_bytes() == b"x" * there["jobs/paper/log"]
    assert services(tmp_path / "new" / "h") == services(home)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([form, "new"]), "no copy is left"


def test_a_log_that_is_gone_when_its_turn_comes_is_left_out(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = home / "jobs" / "paper" / "log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x")

    def listed(*given: object) -> list[Path]:
        found = list(small_files(*given))  # type: ignore[arg-type]
        log.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(taking, "small_files", listed)
    manifest = back_up(Layout(home), tmp_path / "b", ManualClock(7.0), models=False, tell=quiet)
    assert not [entry for entry in manifest.entries if entry.path.startswith("jobs/")]


def test_a_job_that_keeps_what_is_no_database_does_not_fail_the_backup(home: Path, tmp_path: Path) -> None:
    odd = home / "jobs" / "paper" / "work" / "odd.db"
    odd.parent.mkdir(parents=True)
    odd.write_bytes(b"SQLite format 3\0and then nothing of the kind" * 100)
    manifest = back_up(Layout(home), tmp_path / "b", ManualClock(7.0), models=False, tell=quiet)
    taken = next(entry for entry in manifest.entries if entry.path == "jobs/paper/work/odd.db")
    assert (taken.kind, taken.num_bytes) == ("file", odd.stat().st_size)


def test_what_goes_while_it_is_listed_is_left_out(tmp_path: Path) -> None:
    """Found by tests.chaos: a job that ended while a backup was taken took its files with it, and the backup failed."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"12345")
    listed = list(small_files(tmp_path, None))
    (tmp_path / "b" / "file").unlink()
    assert size_of(listed) == 10
    listing = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        found = list(listing(folder))
        if folder == tmp_path:
            (tmp_path / "b").rmdir()
        return iter(found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "iterdir", iterdir)
        assert [path.parent.name for path in small_files(tmp_path, None)] == ["a", "c"]
