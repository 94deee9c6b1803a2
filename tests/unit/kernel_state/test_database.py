"""A database is opened sound, migrated forward, or left exactly as it was."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from thaloom.base.clock import ManualClock
from thaloom.base.errors import StateUnusable
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.kernel.state import database, migrations
from thaloom.kernel.state.database import Database
from thaloom.kernel.state.migrations import LATEST, MIGRATIONS, Migration, migrate, version_of
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Lease, Quota, Service, ServiceSpec

DATA = Path(__file__).parent / "data"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def fresh(path: Path) -> None:
    store = StateStore(path, ManualClock(5.0))
    for i in range(10):
        store.put_service(ServiceSpec(name=ServiceName(f"service-{i}"), model="tiny"))
        store.journal.append("X", {"text": "x" * 3000})
    store.close()


def stored(path: Path, version: int) -> None:
    connection = sqlite3.connect(path)
    connection.executescript((DATA / f"version_{version}.sql").read_text())
    connection.close()


def schema(path: Path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {name: " ".join(sql.split()) for name, sql in rows}


def refused(path: Path) -> StateUnusable:
    """Opening is refused, and every file beside stays as it is."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    with pytest.raises(StateUnusable) as caught:
        StateStore(path, ManualClock())
    assert str(path) in caught.value.message
    after = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    assert {name: after.get(name) for name in before} == before
    return caught.value


# -- migrations ------------------------------------------------------------------------------------------------------


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in MIGRATIONS] == list(range(1, LATEST + 1))


def test_a_database_of_every_earlier_version_is_kept() -> None:
    assert {file.name for file in DATA.iterdir()} == {f"version_{version}.sql" for version in range(1, LATEST)}


@pytest.mark.parametrize("version", range(1, LATEST))
def test_a_database_of_every_earlier_version_opens_with_all_it_held(version: int, path: Path, tmp_path: Path) -> None:
    stored(path, version)
    store = StateStore(path, ManualClock(9.0))
    chat, model = store.services()
    assert chat == Service(
        spec=ServiceSpec(
            name=ServiceName("chat"), model="tiny", device=chat.spec.device, num_threads=2, context_length=4096
        ),
        created_at=1001.5,
        revision=3,
    )
    assert model.spec == ServiceSpec(name=ServiceName("模型"), model="tiny:v2")
    assert store.leases() == [
        Lease(
            id=WorkerId("w-0123456789ab"),
            role="worker",
            service=ServiceName("chat"),
            pid=4242,
            start_ticks=99887766,
            socket="/run/workers/w-0123456789ab.sock",
            started_at=1003.25,
            revision=3,
        ),
        Lease(
            id=WorkerId("w-ba9876543210"),
            role="door",
            service=None,
            pid=4243,
            start_ticks=99887799,
            socket="",
            started_at=1003.5,
        ),
    ]
    store.journal.append("X", {})
    store.close()
    fresh(tmp_path / "fresh.db")
    assert schema(path) == schema(tmp_path / "fresh.db")


@pytest.mark.parametrize("version", [4, 5])
def test_keys_of_old_go_on_letting_users_in_and_do_no_more(version: int, path: Path) -> None:
    stored(path, version)
    with contextlib.closing(StateStore(path, ManualClock(9.0))) as store:
        keys = {key.name: key for key in store.keys()}  # noqa: SIM118 - no dictionary
        assert keys.keys() == ({"ci"} if version == 4 else {"ci", "alice@example.org"})
        for key in keys.values():
            assert (key.role, key.tenant, key.scopes, key.parent) == ("user", None, ("infer",), None)
        assert (keys["ci"].id, keys["ci"].limits.concurrent) == ("abcdefgh2345", 2)


def test_jobs_are_what_they_were(path: Path) -> None:
    stored(path, 7)
    with contextlib.closing(StateStore(path, ManualClock(9.0))) as store:
        (job,) = store.jobs.all()
        assert (job.spec.name, job.spec.command, job.spec.retries) == ("nightly", ("backup", "--all"), 2)
        assert job.state.phase == "succeeded"


def test_tenants_and_their_keys_are_what_they_were(path: Path) -> None:
    stored(path, 6)
    with contextlib.closing(StateStore(path, ManualClock(9.0))) as store:
        (tenant,) = store.tenants()
        assert (tenant.name, tenant.quota) == ("acme", Quota(services=3, memory_bytes=1 << 30))
        keys = {key.name: key for key in store.keys()}  # noqa: SIM118 - no dictionary
        assert (keys["acme-admin"].role, keys["acme-admin"].tenant) == ("admin", "acme")
        assert (keys["acme-ci"].parent, keys["acme-ci"].scopes) == (keys["acme-admin"].id, ("infer",))


def test_the_journal_of_the_version_before_is_still_sound(path: Path) -> None:
    stored(path, 5)
    with contextlib.closing(StateStore(path, ManualClock(9.0))) as store:
        report = store.journal.verify()
        assert (report.faults, report.num_checked) == ((), 2)


def test_the_first_version_is_still_made_as_it_was(path: Path, tmp_path: Path) -> None:
    stored(path, 1)
    connection = sqlite3.connect(tmp_path / "made.db", isolation_level=None)
    migrate(connection, ManualClock(), upto=1)
    assert version_of(connection) == 1
    connection.close()
    assert schema(path) == schema(tmp_path / "made.db")


def test_opening_again_migrates_nothing(path: Path) -> None:
    fresh(path)
    fresh(path)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version, applied_at FROM schema_version ORDER BY version").fetchall() == [
        (version, 5.0) for version in range(1, LATEST + 1)
    ]
    connection.close()


def test_a_step_that_fails_leaves_the_version_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Migration(version=LATEST + 1, summary="broken", statements=("CREATE TABLE new_one (a)", "NO SUCH THING"))
    fresh(path)
    before = schema(path)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*MIGRATIONS, broken))
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, ManualClock(), upto=LATEST + 1)
    assert version_of(connection) == LATEST
    connection.close()
    assert schema(path) == before


# -- refusals --------------------------------------------------------------------------------------------------------


def test_a_newer_database_is_refused_and_left_untouched(path: Path) -> None:
    fresh(path)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO schema_version VALUES (?, 0)", (LATEST + 1,))
    connection.commit()
    connection.close()
    error = refused(path)
    assert f"version {LATEST + 1}" in error.message
    assert error.details == {"version": LATEST + 1, "latest": LATEST}


def test_the_database_of_another_program_is_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (a)")
    connection.close()
    assert "another program" in refused(path).message


@pytest.mark.parametrize("damage", ["text", "truncated", "page", "header"])
def test_a_damaged_database_is_refused_and_left_untouched(damage: str, path: Path) -> None:
    fresh(path)
    data = path.read_bytes()
    assert len(data) > 4 * 4096
    path.write_bytes(
        {
            "text": b"hello, I am not a database " * 100,
            "truncated": data[: len(data) // 2],
            "page": data[:8192] + b"\x5a" * 4096 + data[12288:],
            "header": b"\0" * 16 + data[16:],
        }[damage]
    )
    refused(path)


def test_a_path_that_cannot_be_opened_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StateUnusable, match="cannot be used"):
        StateStore(path, ManualClock())


def test_a_database_another_program_holds_is_refused_after_a_while(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_S", 0.01)
    store = StateStore(path, ManualClock())
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateUnusable, match="locked"):
        store.journal.append("X", {})
    other.execute("COMMIT")
    other.close()
    store.journal.append("X", {})
    store.close()


# -- transactions ----------------------------------------------------------------------------------------------------


def test_what_is_written_is_flushed(path: Path) -> None:
    opened = Database(path, ManualClock())
    assert opened.read("PRAGMA journal_mode")[0][0] == "wal"
    assert opened.read("PRAGMA synchronous")[0][0] == 2, "FULL"
    assert opened.read("PRAGMA foreign_keys")[0][0] == 1
    opened.close()


def test_a_block_that_fails_writes_nothing(path: Path) -> None:
    opened = Database(path, ManualClock())
    with pytest.raises(KeyError), opened.write() as connection:
        connection.execute("INSERT INTO services VALUES ('a', '{}', 0, 1, NULL, 0, NULL)")
        raise KeyError
    assert opened.read("SELECT * FROM services") == []
    with pytest.raises(sqlite3.IntegrityError), opened.write() as connection:
        connection.execute("INSERT INTO services VALUES ('a', '{}', 0, 0, NULL, 0, NULL)")
    assert opened.read("SELECT * FROM services") == []
    opened.close()


def test_an_empty_file_is_a_new_database(path: Path) -> None:
    path.touch()
    fresh(path)


def test_a_folder_that_cannot_be_made_is_told_as_the_rest(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateUnusable, match="database"):
        Database(tmp_path / "file" / "state.db", ManualClock())
