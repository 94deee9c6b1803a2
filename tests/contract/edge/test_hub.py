"""Our hub as Hugging Face's own client uses it, and as HTTP says it must be."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.contract.edge.doorkeepers import FixedKeys, bearer, guarded_door
from tests.contract.edge.live_door import LiveDoor, live_door
from tests.models import make_model
from tests.unit.kernel_models_pulling.pulls import Puller, stored_files
from thaloom.base.clock import ManualClock
from thaloom.base.errors import AirGapped, Forbidden, ModelNotFound, ServiceLoading, SourceUnavailable
from thaloom.edge.api.hub import handing
from thaloom.edge.api.hub.routes import HandingBroke
from thaloom.edge.client.read_through import local_name
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest, ModelName

T = TypeVar("T")
UPSTREAM = "ab" * 20
CHUNK = 10_000


@pytest.fixture(autouse=True)
def _client_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The client asks nobody but the hub it is given, and keeps nothing outside the test's folder."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


@dataclass
class Above:
    """An upstream that does as it is told."""

    answer: Callable[[str, str], bool] = lambda repo, revision: False
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def fetch(self, repo: str, revision: str) -> bool:
        self.asked.append((repo, revision))
        return self.answer(repo, revision)


@dataclass
class Hub:
    door: LiveDoor
    store: ModelStore
    folder: Path
    above: Above

    @property
    def url(self) -> str:
        return self.door.url

    @property
    def api(self) -> HfApi:
        return HfApi(endpoint=self.url, token=False)

    async def ask(self, method: str, path: str, **headers: str) -> httpx2.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.door.http.request(method, path, headers=named | {"accept-encoding": "identity"})

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "mine").iterdir()}

    def manifest(self, name: str = "mine") -> Manifest:
        return self.store.get(name)


@contextlib.asynccontextmanager
async def hub(folder: Path, **options: Any) -> AsyncIterator[Hub]:
    """The model `mine`, pulled from `org/Mine` long ago; chunks so small that ranges lie across them."""
    clock = ManualClock(1_700_000_000.0)
    store = ModelStore(folder / "models", clock, chunk_bytes=CHUNK)
    make_model(folder / "mine", num_shards=2, **options)
    (folder / "mine" / "README.md").write_bytes(b"---\nlicense: mit\n---\n# Mine\n\nA model.\n")
    store.import_path(folder / "mine", source=f"hf://org/Mine@{UPSTREAM}")
    above = Above()
    async with live_door(folder, hub=lambda: (store, above)) as door:
        yield Hub(door, store, folder, above)


async def off(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """A blocking client beside the door that answers it."""
    return await asyncio.to_thread(function, *arguments, **options)


def run(test: Callable[[Hub], Any], folder: Path) -> None:
    async def inside() -> None:
        async with hub(folder) as served:
            await test(served)

    asyncio.run(inside())


@pytest.mark.parametrize("repo", ["mine", "org/Mine"])
def test_snapshot_download_gets_every_byte(tmp_path: Path, repo: str) -> None:
    async def test(hub: Hub) -> None:
        place = await off(
            snapshot_download, repo, endpoint=hub.url, cache_dir=tmp_path / "cache", token=False, max_workers=2
        )
        assert {path.name: path.read_bytes() for path in Path(place).iterdir()} == hub.files
        again = ModelStore(tmp_path / "other", ManualClock(), chunk_bytes=CHUNK).import_path(Path(place))
        assert again.digest == hub.manifest().digest, "and they are the same model again"

    run(test, tmp_path)


def test_a_key_takes_home_no_model_that_it_is_not_for(tmp_path: Path) -> None:
    async def run() -> None:
        keys = FixedKeys()
        store = ModelStore(tmp_path / "models", ManualClock(), chunk_bytes=CHUNK)
        store.import_path(make_model(tmp_path / "mine"), source=f"hf://org/Mine@{UPSTREAM}")
        mine, other, free = keys.add("a", models=("mine",)), keys.add("b", models=("other",)), keys.add("c")
        above = Above()
        async with guarded_door(tmp_path, keys, hub=lambda: (store, above)) as door:
            absent = "/far/Away/resolve/main/config.json"
            assert (await door.http.get(absent, headers=bearer(mine))).status_code == 403
            assert above.asked == [], "nothing is fetched for a key that is not for it"
            assert (await door.http.get(absent, headers=bearer(free))).status_code == 404
            assert above.asked == [("far/Away", "main")]
            for path in ("/mine/resolve/main/config.json", "/org/Mine/resolve/main/config.json",
                         "/api/models/mine/auth-check"):  # fmt: skip
                asked = [await door.http.get(path, headers=bearer(key)) for key in (mine, free, other)]
                assert [answer.status_code for answer in asked] == [200, 200, 403], path
                assert asked[2].json()["code"] == "forbidden"
                assert (await door.http.get(path)).status_code == 401

    asyncio.run(run())


def test_one_file_its_etag_and_its_commit(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        place = await off(
            hf_hub_download, "org/Mine", "config.json", endpoint=hub.url, cache_dir=tmp_path / "cache", token=False
        )
        assert Path(place).read_bytes() == hub.files["config.json"]
        assert Path(place).parent.name == hub.manifest().digest[:40]
        assert Path(place).resolve().name == hashlib.sha256(hub.files["config.json"]).hexdigest()

    run(test, tmp_path)


def test_what_the_client_is_told_of_a_model(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        manifest = hub.manifest()
        info = await off(hub.api.model_info, "org/Mine", files_metadata=True)
        assert (info.id, info.sha, info.gated, info.private) == ("org/Mine", manifest.digest[:40], False, False)
        assert {sibling.rfilename: (sibling.size, sibling.lfs.sha256) for sibling in info.siblings} == {
            file.path: (file.num_bytes, file.sha256) for file in manifest.files
        }
        assert "license:mit" in info.tags
        assert sorted(await off(hub.api.list_repo_files, "mine")) == sorted(hub.files)
        entries = await off(lambda: list(hub.api.list_repo_tree("mine", recursive=True, expand=True)))
        assert {entry.path: entry.size for entry in entries} == {name: len(data) for name, data in hub.files.items()}
        assert entries[0].last_commit.oid == manifest.digest[:40]
        found = await off(hub.api.get_paths_info, "mine", ["config.json", "nothing"])
        assert [path.path for path in found] == ["config.json"]
        refs = await off(hub.api.list_repo_refs, "mine")
        assert refs.branches[0].target_commit == manifest.digest[:40]
        await off(hub.api.auth_check, "mine")
        with pytest.raises(RepositoryNotFoundError):
            await off(hub.api.auth_check, "other")
        assert await off(hub.api.repo_exists, "mine")
        assert await off(hub.api.file_exists, "mine", "config.json")
        assert not await off(hub.api.file_exists, "mine", "nothing.json")

    run(test, tmp_path)


def test_a_file_system_reads_parts(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        def read() -> None:
            files = HfFileSystem(endpoint=hub.url, token=False, skip_instance_cache=True)
            name = "model-00001-of-00002.safetensors"
            whole = hub.files[name]
            assert sorted(entry.rpartition("/")[2] for entry in files.ls("org/Mine", detail=False)) == sorted(hub.files)
            with files.open(f"org/Mine/{name}", "rb", block_size=4096) as file:
                assert file.read(100) == whole[:100]
                file.seek(9_990)
                assert file.read(20) == whole[9_990:10_010], "across a chunk"
                file.seek(-7, 2)
                assert file.read() == whole[-7:]
            assert files.cat(f"org/Mine/{name}") == whole

        await off(read)

    run(test, tmp_path)


def test_lists_and_searches(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        hub.store.import_path(hub.folder / "mine", ModelName("other", "v1"), source="elsewhere")
        assert {model.id for model in await off(lambda: list(hub.api.list_models()))} == {"org/Mine", "mine", "other"}
        assert [model.id for model in await off(lambda: list(hub.api.list_models(search="OTH")))] == ["other"]
        assert [model.id for model in await off(lambda: list(hub.api.list_models(author="org")))] == ["org/Mine"]
        page = await hub.ask("GET", "/api/models?limit=1")
        found = [model["id"] for model in page.json()]
        while "next" in page.links:
            page = await hub.ask("GET", page.links["next"]["url"])
            found += [model["id"] for model in page.json()]
        assert sorted(found) == ["mine", "org/Mine", "other"]

    run(test, tmp_path)


def test_revisions_are_tags_and_digests(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        manifest = hub.store.import_path(hub.folder / "mine", ModelName("mine", "v2"), replace=True)
        digest = manifest.digest
        for revision in ("main", "v2", digest, digest[:40]):
            answer = await hub.ask("HEAD", f"/mine/resolve/{revision}/config.json")
            assert (answer.status_code, answer.headers["x-repo-commit"]) == (200, digest[:40])
        pinned = await hub.ask("HEAD", f"/org/Mine/resolve/{UPSTREAM}/config.json")
        assert pinned.headers["x-repo-commit"] == UPSTREAM
        refs = await off(hub.api.list_repo_refs, "mine")
        assert [tag.name for tag in refs.tags] == ["v2"]

    run(test, tmp_path)


def test_what_is_not_there_has_the_word_the_client_knows(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        options = {"endpoint": hub.url, "cache_dir": tmp_path / "cache", "token": False}
        with pytest.raises(RepositoryNotFoundError):
            await off(hf_hub_download, "org/nothing", "config.json", **options)
        with pytest.raises(RepositoryNotFoundError):
            await off(snapshot_download, "nothing", **options)
        with pytest.raises(RevisionNotFoundError):
            await off(hf_hub_download, "mine", "config.json", revision="v9", **options)
        with pytest.raises(EntryNotFoundError):
            await off(hf_hub_download, "mine", "nothing.json", **options)
        with pytest.raises(RevisionNotFoundError):
            await off(hub.api.model_info, "mine", revision="refs/pr/1")
        with pytest.raises(EntryNotFoundError):
            await off(lambda: list(hub.api.list_repo_tree("mine", "no-such-folder")))
        assert hub.above.asked

    run(test, tmp_path)


WHOLE = "model-00001-of-00002.safetensors"


RANGES: tuple[tuple[str | None, int, int, int | None], ...] = (
    (None, 200, 0, None), ("bytes=0-0", 206, 0, 1), ("bytes=9999-10000", 206, 9999, 10001),
    ("bytes=100-", 206, 100, None), ("bytes=-5", 206, -5, None), ("bytes=-99999999", 206, 0, None),
    ("bytes=20000-99999999", 206, 20000, None), ("BYTES=1-2", 206, 1, 3), ("bytes=2-1", 200, 0, None),
    ("bytes=a-b", 200, 0, None), ("bytes=0-1,5-6", 200, 0, None), ("pages=1-2", 200, 0, None),
    ("bytes=", 200, 0, None), ("bytes=-", 200, 0, None), ("bytes=1" + "0" * 18 + "-", 416, 0, 0),
    ("bytes=-0", 416, 0, 0), ("bytes=99999999-", 416, 0, 0),
)  # fmt: skip
"""What is asked; the status; which bytes come."""


def test_ranges(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        data = hub.files[WHOLE]
        for asked, status, start, stop in RANGES:
            answer = await hub.ask("GET", f"/mine/resolve/main/{WHOLE}", **({} if asked is None else {"range": asked}))
            assert answer.status_code == status, asked
            assert answer.headers["accept-ranges"] == "bytes"
            if status == 416:
                assert answer.headers["content-range"] == f"bytes */{len(data)}"
                assert answer.content == b""
                continue
            assert answer.content == data[start:stop], asked
            assert int(answer.headers["content-length"]) == len(data[start:stop])
            if status == 206:
                first = start if start >= 0 else len(data) + start
                last = (len(data) if stop is None else stop) - 1
                assert answer.headers["content-range"] == f"bytes {first}-{last}/{len(data)}"

    run(test, tmp_path)


def test_conditions(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        path = "/mine/resolve/main/config.json"
        head = await hub.ask("HEAD", path)
        etag = head.headers["etag"]
        assert (head.status_code, head.content) == (200, b"")
        assert etag == head.headers["x-linked-etag"] == f'"{hashlib.sha256(hub.files["config.json"]).hexdigest()}"'
        assert (
            int(head.headers["x-linked-size"]) == int(head.headers["content-length"]) == len(hub.files["config.json"])
        )
        assert (await hub.ask("GET", path, range="bytes=0-3", if_range=etag)).status_code == 206
        assert (await hub.ask("GET", path, range="bytes=0-3", if_range='"other"')).status_code == 200
        for known in (etag, "*", f'"x", W/{etag}'):
            unchanged = await hub.ask("GET", path, if_none_match=known)
            assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
        assert (await hub.ask("GET", path, if_none_match='"x"')).status_code == 200
        assert head.headers["x-content-type-options"] == "nosniff"

    run(test, tmp_path)


ODD_PATHS = (
    "/mine/resolve/main/../../../etc/passwd", "/mine/resolve/main/%2e%2e/%2e%2e/etc/passwd",
    "/mine/resolve/main//etc/passwd", "/mine/resolve/main/%00", "/mine/resolve/main/", "/mine/resolve/main",
    "/%2e%2e/resolve/main/config.json", "/a/b/c/resolve/main/x", "/resolve/main/x", "/mine/resolve/%ff/x",
    "/api/models/", "/api/models/a/b/c/d", "/api/models/mine/tree", "/api/models/..%2f..",
    "/api/models/mine/tree/x%2fy", "/api/models/mine/paths-info/main", "/api/models?limit=0", "/api/models?limit=x",
    "/api/models?cursor=-1", "/api/models/mine/revision/", "/api/models/%E2%82%AC",
)  # fmt: skip


def test_odd_paths_are_refused_and_lead_nowhere(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        for path in ODD_PATHS:
            for method in ("GET", "HEAD"):
                request = hub.door.http.build_request(method, hub.url)
                request.url = httpx2.URL(hub.url).copy_with(raw_path=path.encode())
                answer = await hub.door.http.send(request)
                assert 400 <= answer.status_code < 500, (method, path, answer.status_code)

    run(test, tmp_path)


def test_paths_info_is_bounded(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        url = "/api/models/mine/paths-info/main"
        many = await hub.door.http.post(url, data={"paths": ["config.json"] * 5000})
        assert many.status_code == 400
        assert (await hub.door.http.post(url, content=b"x" * (2 << 20))).status_code == 413
        assert (await hub.door.http.post(url, json={"paths": []})).status_code == 400
        assert (await hub.door.http.post(url, content=b"paths=%ff")).status_code == 400
        assert (await hub.door.http.post(url, data={})).json() == []

    run(test, tmp_path)


def test_a_damaged_file_is_never_handed_out_as_whole(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        entry = next(file for file in hub.manifest().files if file.path == WHOLE)
        from thaloom.kernel.models.trees import read_tree

        chunks = read_tree(hub.store._objects, entry.tree).chunks
        second = hub.store._objects.path(chunks[1].digest)
        second.write_bytes(bytes(chunks[1].num_bytes))
        url = f"/mine/resolve/main/{WHOLE}"
        with pytest.raises(httpx2.RemoteProtocolError):
            await hub.ask("GET", url)
        assert hub.door.events.of(HandingBroke)
        assert (await hub.ask("GET", url, range="bytes=0-99")).status_code == 206
        refused = await hub.ask("GET", url, range="bytes=10000-10001")
        assert (refused.status_code, refused.json()["code"]) == (422, "corrupt_object")

    run(test, tmp_path)


def test_a_client_that_leaves_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing, "MOST_AT_ONCE", 1)

    async def test(hub: Hub) -> None:
        big = b"x" * 30_000_000
        (hub.folder / "mine" / "notes.txt").write_bytes(big)
        hub.store.import_path(hub.folder / "mine", ModelName("mine"), replace=True)
        async with hub.door.http.stream("GET", "/mine/resolve/main/notes.txt") as answer:
            assert answer.status_code == 200
            busy = await hub.ask("GET", "/mine/resolve/main/config.json")
            assert (busy.status_code, busy.headers["retry-after"]) == (429, "5")
        for _ in range(200):
            if (await hub.ask("GET", "/mine/resolve/main/config.json")).status_code == 200:
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("a file is still held for a client that left")
        for _ in range(200):  # the answer is here before its lock is given back
            if hub.store.sweep() is not None:
                break
            await asyncio.sleep(0.02)
        assert hub.store.remove("mine").complete, "nor the store's lock"

    run(test, tmp_path)


def test_our_own_puller_takes_from_our_own_hub(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        puller = Puller(tmp_path / "second", hub.url)
        for source in ("org/Mine", f"hf://mine@{hub.manifest().digest}"):
            manifest = await puller.pull(source, name="copy", replace=True)
            assert stored_files(puller.store, manifest) == hub.files

    run(test, tmp_path)


def test_a_miss_may_be_fetched_from_above(tmp_path: Path) -> None:
    async def test(hub: Hub) -> None:
        def fetch(repo: str, revision: str) -> bool:
            name = ModelName.parse(local_name(repo, revision))
            hub.store.import_path(hub.folder / "mine", name, source=f"hf://{repo}@{'cd' * 20}")
            return True

        hub.above.answer = fetch
        options = {"endpoint": hub.url, "cache_dir": tmp_path / "cache", "token": False}
        place = await off(hf_hub_download, "far/Away", "config.json", **options)
        assert Path(place).read_bytes() == hub.files["config.json"]
        assert hub.above.asked == [("far/Away", "main")], "once"
        await off(hf_hub_download, "far/Away", "config.json", revision="v1.0", **options)
        assert hub.above.asked[1:] == [("far/Away", "v1.0")]

    run(test, tmp_path)


@pytest.mark.parametrize(
    ("error", "leaf"),
    [
        (ModelNotFound("none above"), RepositoryNotFoundError),
        (AirGapped("not sent"), RepositoryNotFoundError),
        (Forbidden("wants a token"), GatedRepoError),
        (ServiceLoading("being pulled", retry_after_s=3), HfHubHTTPError),
        (SourceUnavailable("down"), HfHubHTTPError),
    ],
)
def test_what_the_hub_above_refuses(tmp_path: Path, error: Exception, leaf: type[Exception]) -> None:
    async def test(hub: Hub) -> None:
        def refuse(repo: str, revision: str) -> bool:
            raise error

        hub.above.answer = refuse
        with pytest.raises(leaf):
            await off(hub.api.model_info, "far/away")

    run(test, tmp_path)


@pytest.mark.parametrize(
    ("repo", "revision", "name"),
    [
        ("org/name", "main", "org--name"),
        ("Org/Name", "v1.0", "org--name:v1.0"),
        ("name", "main", "name"),
        ("a" * 60 + "/" + "b" * 60, "main", None),
        ("org/name", "refs/pr/1", None),
        ("_x/__y", "main", None),
    ],
)
def test_names_for_models_of_any_organisation(repo: str, revision: str, name: str | None) -> None:
    found = local_name(repo, revision)
    assert ModelName.parse(found)
    assert name in (None, found)
    assert local_name(repo, revision + "x") != found
