"""Files driven by the current `openai` client over a real socket, and uploads that are cut, wrong or too large."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.contract.edge.live_door import LiveDoor
from tests.contract.edge.rehearsed import Scripted
from tests.contract.edge.test_openai_client import in_door
from tests.contract.edge.test_refusals import refusal
from thaloom.kernel.state.kept import KeepLimits

PATH = "/v1/files"
FORM = {"content-type": "multipart/form-data; boundary=b1"}


def form(*parts: tuple[str, str], data: bytes | None = b"data", name: str = "f.jsonl") -> bytes:
    texts = [
        f'--b1\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode() for key, value in parts
    ]
    if data is not None:
        of_file = f'--b1\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        texts.append(of_file.encode() + data + b"\r\n")
    return b"".join(texts) + b"--b1--\r\n"


def on_disk(folder: Path) -> list[Path]:
    return sorted((folder / "kept" / "files").iterdir())


def test_a_file_is_uploaded_listed_read_and_deleted(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        files = door.client.files
        data = bytes(range(256)) * 10_000
        made = await files.create(file=("ä b.bin", data), purpose="user_data")
        assert (made.object, made.bytes, made.filename, made.purpose) == ("file", len(data), "ä b.bin", "user_data")
        assert (made.status, made.expires_at) == ("processed", None)
        assert await files.retrieve(made.id) == made
        content = await files.content(made.id)
        assert content.content == data
        assert content.response.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A4%20b.bin"
        assert [file async for file in files.list()] == [made]
        gone = await files.delete(made.id)
        assert (gone.id, gone.deleted, gone.object) == (made.id, True, "file")
        for ask in (files.retrieve, files.content, files.delete):
            with pytest.raises(openai.NotFoundError):
                await ask(made.id)
        assert on_disk(tmp_path) == []

    in_door(tmp_path, test, generation=Scripted())


def test_files_are_listed_page_by_page_and_by_purpose(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        files = door.client.files
        made = [await files.create(file=(f"{n}", b"x"), purpose="batch" if n % 2 else "evals") for n in range(5)]
        ids = [file.id for file in made]
        page = await files.list(limit=2)
        assert ([file.id for file in page.data], page.has_more) == (ids[:2:-1], True)
        assert [file.id async for file in files.list(limit=2)] == ids[::-1]
        assert [file.id async for file in files.list(limit=3, order="asc")] == ids
        assert [file.id async for file in files.list(purpose="batch")] == [ids[3], ids[1]]
        for query, param in (
            ("limit=0", "limit"),
            ("limit=x", "limit"),
            ("order=up", "order"),
            ("limit=%F0%9F", "limit"),
        ):
            assert refusal(await door.http.get(f"{PATH}?{query}")) == (400, "bad_parameter", param)
        assert refusal(await door.http.get(f"{PATH}?after=file-none")) == (404, "not_kept", "after")

    in_door(tmp_path, test, generation=Scripted())


def test_how_long_a_file_stays_is_told(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        create = door.client.files.create
        batch = await create(file=("f", b"x"), purpose="batch")
        assert batch.expires_at == batch.created_at + 30 * 86_400
        hour = await create(file=("f", b"x"), purpose="evals", expires_after={"anchor": "created_at", "seconds": 3600})
        assert hour.expires_at == hour.created_at + 3600
        for wrong in ({"anchor": "created_at", "seconds": 3599}, {"anchor": "never", "seconds": 3600}):
            with pytest.raises(openai.BadRequestError) as refused:
                await create(file=("f", b"x"), purpose="evals", expires_after=wrong)  # type: ignore[arg-type]
            assert str(refused.value.param).startswith("expires_after.")

    in_door(tmp_path, test, generation=Scripted())


def test_what_is_wrong_with_an_upload_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        async def upload(body: bytes, headers: dict[str, str] = FORM) -> Any:
            return refusal(await door.post(PATH, content=body, headers=headers))

        assert await upload(form(("purpose", "batch"), data=None)) == (400, "bad_parameter", "file")
        assert await upload(form(("purpose", "fun"))) == (400, "bad_parameter", "purpose")
        assert await upload(form()) == (400, "bad_parameter", "purpose")
        assert await upload(form(("purpose", "batch"))[:-10]) == (400, "bad_request", None)
        assert await upload(b"") == (400, "bad_request", None)
        assert await upload(b"nonsense") == (400, "bad_request", None)
        assert await upload(b"{}", {"content-type": "application/json"}) == (400, "bad_request", None)
        assert await upload(form(("purpose", "batch"), data=b"x" * 2_000_000)) == (413, "too_large", None)
        assert on_disk(tmp_path) == []
        assert (await door.http.put(PATH)).headers["allow"] == "GET, POST, HEAD"
        response = await door.post(PATH, content=form(("purpose", "batch"), data=b"x" * 900_000, name=""), headers=FORM)
        assert (response.status_code, response.json()["filename"]) == (200, "file")

    in_door(tmp_path, test, generation=Scripted(), limits=KeepLimits(max_file_bytes=1_000_000))


def test_a_full_store_refuses_and_says_how_full_it_is(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        body = form(("purpose", "batch"), data=b"x" * 30_000)
        assert (await door.post(PATH, content=body, headers=FORM)).status_code == 200
        response = await door.post(PATH, content=body, headers=FORM)
        assert refusal(response) == (507, "disk_full", None)
        assert response.json()["error"]["details"]["allowed_bytes"] == 50_000
        assert len(on_disk(tmp_path)) == 1

    in_door(tmp_path, test, generation=Scripted(), limits=KeepLimits(max_bytes=50_000))


def test_a_large_file_does_not_stand_in_memory_and_its_length_need_not_be_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    async def pieces() -> AsyncIterator[bytes]:
        head, tail = form(("purpose", "user_data"), data=b"@").split(b"@")
        yield head
        for _ in range(64):
            yield b"x" * 500_000
        yield tail

    async def test(door: LiveDoor) -> None:
        from thaloom.kernel.state.kept.files import Upload

        plain = Upload.write

        def write(self: Upload, data: bytes) -> None:
            written.append(len(data))
            plain(self, data)

        monkeypatch.setattr(Upload, "write", write)
        response = await door.post(PATH, content=pieces(), headers=FORM)
        assert response.json()["bytes"] == 32_000_000
        assert max(written) < 2_000_000
        content = await door.http.get(f"{PATH}/{response.json()['id']}/content")
        assert content.content == b"x" * 32_000_000

    in_door(tmp_path, test, generation=Scripted())


def test_an_upload_whose_client_leaves_or_says_no_more_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thaloom.edge.api.openai.kept.files.routes.SILENCE_DEADLINE_S", 0.2)
    head = b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b1\r\n"
    half = form(("purpose", "batch"), data=b"x" * 1000)[:-500]

    async def test(door: LiveDoor) -> None:
        port = int(door.url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"Content-Length: 100000\r\n\r\n" + half)
        assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"Content-Length: 100000\r\n\r\n" + half)
        await writer.drain()
        writer.close()
        async with asyncio.timeout(10):
            while on_disk(tmp_path):
                await asyncio.sleep(0.01)
        assert (await door.http.get("/healthz")).status_code == 200

    in_door(tmp_path, test, generation=Scripted())


def test_the_sync_client_streams_a_file_up(tmp_path: Path) -> None:
    async def test(door: LiveDoor) -> None:
        def upload() -> str:
            with openai.OpenAI(base_url=f"{door.url}/v1", api_key="none", max_retries=0) as client:
                made = client.files.create(file=io.BytesIO(b"a\n" * 1000), purpose="batch")
                assert client.files.content(made.id).read() == b"a\n" * 1000
                return made.id

        made = await asyncio.to_thread(upload)
        assert (await door.client.files.retrieve(made)).bytes == 2000

    in_door(tmp_path, test, generation=Scripted())
