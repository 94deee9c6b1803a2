"""An ONNX model behind the door: alone and joined the same numbers, and every refusal by name."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from tests.contract.edge.live_door import FixedRoutes, serving
from tests.onnx_models import (
    across_rows,
    as_long_as_it_likes,
    endless,
    endless_tensors,
    expected_scores,
    image_classifier,
    texts,
)
from thaloom.base.clock import SystemClock
from thaloom.base.errors import DeadlineExceeded, NotServable
from thaloom.base.events import Recorder, ignore
from thaloom.base.ids import ServiceName, WorkerId
from thaloom.edge.api.app import door_app, openapi_document
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.state.types import Alias, Route, Share
from thaloom.work.runtime.frontend.call import Call, Deadlines
from thaloom.work.runtime.frontend.frontend import Frontend
from thaloom.work.runtime.messages import WorkerStats
from thaloom.work.runtime.spec import WorkerSpec
from thaloom.work.runtime.worker.service import WorkerService

pytest.importorskip("onnxruntime", reason="the extra is not installed: pip install 'thaloom[onnx]'")
from thaloom.work.runtime.engines.onnx import session as sessions
from thaloom.work.runtime.engines.onnx.loading import load_onnx
from thaloom.work.runtime.engines.onnx.served import OnnxServed


@dataclass
class Site:
    http: httpx2.AsyncClient
    service: WorkerService
    spec: WorkerSpec
    routes: FixedRoutes
    ended: BaseException | None = None
    """Why there is no worker, if there is none."""

    async def status(self) -> WorkerStats:
        return await Call.status(self.spec.socket, Deadlines())

    async def infer(self, body: Any, **headers: str) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.http.post("/v2/models/net/infer", content=content, headers=headers)


@contextlib.asynccontextmanager
async def site(folder: Path, model: Path, **changes: Any) -> AsyncIterator[Site]:
    store = ModelStore(folder / "store", SystemClock(), ignore)
    manifest = store.import_path(model)
    facts: dict[str, Any] = {
        "worker": WorkerId("w-1"), "service": ServiceName("net"), "model": str(manifest.name),
        "store": str(folder / "store"), "socket": str(folder / "w.sock"), "engine": "onnx", "num_threads": 1,
    }  # fmt: skip
    spec = WorkerSpec(**facts | changes)
    events = Recorder()
    service = WorkerService(spec, lambda stop: load_onnx(spec, store), clock=SystemClock(), emit=events)
    task = asyncio.create_task(service.run())
    while service.phase == "loading" and not task.done():
        await asyncio.sleep(0.005)
    route = Route(
        name=ServiceName("net"), model=str(manifest.name), phase="ready", sockets=(spec.socket,), context_length=None,
        created_at=0.0, engine="onnx",
    )  # fmt: skip
    routes = FixedRoutes(route)
    frontend = Frontend(routes, SystemClock(), events)
    app = door_app(
        frontend, control_socket=folder / "c.sock", clock=SystemClock(), emit=events, inference=frontend
    )  # fmt: skip
    try:
        async with serving(app) as url:
            async with httpx2.AsyncClient(base_url=url, trust_env=False, timeout=30.0) as http:
                yield Site(http, service, spec, routes, task.exception() if task.done() else None)
    finally:
        service.stop(0.0)
        await asyncio.gather(task, return_exceptions=True)
        frontend.close()


def pixels(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 3, 8, 8)).astype(np.float32)


def asked(array: np.ndarray, **more: Any) -> dict[str, Any]:
    tensor = {"name": "pixels", "shape": list(array.shape), "datatype": "FP32", "data": array.ravel().tolist()}
    return {"inputs": [tensor]} | more


def output(answer: httpx2.Response, name: str) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    tensor = next(one for one in answer.json()["outputs"] if one["name"] == name)
    return np.array(tensor["data"]).reshape(tensor["shape"])


def test_an_image_is_classified_as_by_hand(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, image_classifier(tmp_path / "net.onnx")) as door:
            image = pixels(2)
            answer = await door.infer(asked(image, id="mine"))
            np.testing.assert_allclose(output(answer, "scores"), expected_scores(image), rtol=1e-5)
            assert output(answer, "best").tolist() == expected_scores(image).argmax(-1).tolist()
            assert (answer.json()["id"], answer.json()["model_name"]) == ("mine", "net")
            nested = asked(image, outputs=[{"name": "best"}])
            nested["inputs"][0]["data"] = image.tolist()
            only = await door.infer(nested)
            assert [one["name"] for one in only.json()["outputs"]] == ["best"]

    asyncio.run(run())


def test_bytes_beside_json_both_ways(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, image_classifier(tmp_path / "net.onnx")) as door:
            image = pixels(1)
            tensor = {
                "name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP32",
                "parameters": {"binary_data_size": image.nbytes},
            }  # fmt: skip
            head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
            length = {"inference-header-content-length": str(len(head))}
            answer = await door.infer(head + image.tobytes(), **length)
            assert answer.status_code == 200, answer.text
            size = int(answer.headers["inference-header-content-length"])
            described = json.loads(answer.content[:size])["outputs"]
            assert [one["parameters"]["binary_data_size"] for one in described] == [20, 8]
            scores = np.frombuffer(answer.content[size : size + 20], "<f4").reshape(1, 5)
            np.testing.assert_allclose(scores, expected_scores(image), rtol=1e-5)
            for body, more in ((head + image.tobytes()[:-1], length), (head + image.tobytes() + b"x", length)):
                assert (await door.infer(body, **more)).status_code == 400
            for wrong in ("-1", "x", "99999999", "9" * 5000):
                assert (await door.infer(head, **{"inference-header-content-length": wrong})).status_code == 400

    asyncio.run(run())


def test_requests_that_come_together_are_computed_together_and_get_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pass is held until all others wait, so that what is joined does not depend on time."""
    held = asyncio.Event()
    run_once = sessions.Session.run
    passes: list[int] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        def watched(self: Any, inputs: Any, outputs: Any, *rest: Any) -> Any:
            rows = len(inputs["pixels"])
            passes.append(rows)
            if rows == 7:
                asyncio.run_coroutine_threadsafe(held.wait(), loop).result(20)
            return run_once(self, inputs, outputs, *rest)

        async with site(tmp_path, image_classifier(tmp_path / "net.onnx"), max_sequences=8) as door:
            monkeypatch.setattr(sessions.Session, "run", watched)
            first = asyncio.create_task(door.infer(asked(pixels(7))))
            async with asyncio.timeout(20):
                while passes != [7]:
                    await asyncio.sleep(0.002)
                others = [asyncio.create_task(door.infer(asked(pixels(rows, rows)))) for rows in (1, 2, 3, 4)]
                while (await door.status()).waiting < 4:
                    await asyncio.sleep(0.002)
            held.set()
            answers = await asyncio.gather(first, *others)
            for rows, answer in zip((7, 1, 2, 3, 4), answers, strict=True):
                image = pixels(rows, 0 if rows == 7 else rows)
                np.testing.assert_allclose(output(answer, "scores"), expected_scores(image), rtol=1e-5)
            assert sum(passes) == 17
            assert max(passes[1:]) <= 8
            assert len(passes) == 3, "ten rows in passes of at most eight"
            assert {answer.headers["x-thaloom-batch-rows"] for answer in answers} == {"7", *map(str, passes[1:])}

    asyncio.run(run())


def test_a_model_whose_rows_know_each_other_is_never_joined(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, across_rows(tmp_path / "net.onnx")) as door:
            body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [3.0, 4.0]}]}
            answers = await asyncio.gather(*(door.infer(body) for _ in range(8)))
            for answer in answers:
                assert output(answer, "y").tolist() == [[1.0, 1.0]]
                assert answer.headers["x-thaloom-batch-rows"] == "0"

    asyncio.run(run())


def test_answers_whose_length_depends_on_what_is_asked_are_never_joined(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, as_long_as_it_likes(tmp_path / "net.onnx")) as door:
            for count in (1, 5):
                array = np.where(np.arange(8) < count, 2.0, -1.0)[None, :]
                tensor = {"name": "x", "shape": [1, 8], "datatype": "FP32", "data": array.ravel().tolist()}
                answer = await door.infer({"inputs": [tensor]})
                assert output(answer, "y").tolist() == [[2.0] * count]
                assert answer.headers["x-thaloom-batch-rows"] == "0"

    asyncio.run(run())


def test_texts_and_a_pass_that_fails_for_one_alone(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, texts(tmp_path / "net.onnx")) as door:

            def body(words: list[str], count: int) -> dict[str, Any]:
                return {
                    "inputs": [
                        {"name": "words", "shape": [len(words)], "datatype": "BYTES", "data": words},
                        {"name": "x", "shape": [count], "datatype": "FP32", "data": [float(i) for i in range(count)]},
                    ]
                }

            good, bad = await asyncio.gather(door.infer(body(["è", ""], 6)), door.infer(body(["b"], 5)))
            assert good.json()["outputs"][0]["data"] == ["è", ""]
            assert bad.status_code == 400
            assert "refuses these inputs" in bad.json()["error"]
            assert (await door.status()).failed_total == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"inputs": []}, 400, "inputs"),
        ({"inputs": [{"name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP99", "data": []}]}, 400, "datatype"),
        ({"inputs": [{"name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [1.0]}]}, 400, "192"),
        ({"inputs": [{"name": "pixels", "shape": [-1], "datatype": "FP32", "data": []}]}, 400, "shape"),
        ({"inputs": [{"name": "pixels", "shape": [10**12], "datatype": "FP32", "data": []}]}, 400, "shape"),
        ({"inputs": [{"name": "pixels", "shape": [0, *[2**31 - 1] * 3], "datatype": "FP32", "data": []}]}, 400, "shap"),
        ({"inputs": [{"name": "pixels", "shape": [1], "datatype": "FP32", "data": ["a"]}]}, 400, "no FP32"),
        ({"inputs": [{"name": "pixels", "shape": [1], "datatype": "FP32", "data": [1e300]}]}, 400, "does not fit"),
        ({"inputs": [{"name": "pixels", "shape": [1], "datatype": "FP32"}]}, 400, "data"),
        ({"inputs": [{"name": "pixels", "shape": [1], "datatype": "INT64", "data": [1]}]}, 400, "takes FP32"),
        ({"inputs": [{"name": "pixels", "shape": [1], "datatype": "FP32", "data": [1.0]}]}, 400, "[-1, 3, 8, 8]"),
        ({"inputs": [{"name": "other", "shape": [1], "datatype": "FP32", "data": [1.0]}]}, 400, "unknown"),
        ({"outputs": [{"name": "worst"}]}, 400, "'worst'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_by_name(change: dict[str, Any], status: int, words: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, image_classifier(tmp_path / "net.onnx")) as door:
            answer = await door.infer(asked(pixels(1)) | change)
            assert answer.status_code == status, answer.text
            assert words in answer.json()["error"]
            assert list(answer.json()) == ["error", "code"]
            assert (await door.infer(asked(pixels(1)))).status_code == 200

    asyncio.run(run())


def test_bodies_that_are_no_requests(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, image_classifier(tmp_path / "net.onnx")) as door:
            for body in (b"", b"{", b"[]", b"null", b"\xff", b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}"):
                assert (await door.infer(body)).status_code == 400
            assert (await door.infer(b" " * (15 * 1024 * 1024))).status_code == 413
            assert (await door.infer(b"{}", **{"content-encoding": "gzip"})).status_code == 400
            assert (await door.infer(b"{}", **{"content-encoding": "br"})).status_code == 415
            packed = gzip.compress(json.dumps(asked(pixels(1))).encode())
            assert (await door.infer(packed, **{"content-encoding": "gzip"})).status_code == 200

    asyncio.run(run())


def test_health_and_metadata(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, image_classifier(tmp_path / "net.onnx")) as door:
            get = door.http.get
            assert (await get("/v2")).json()["extensions"] == ["binary_tensor_data"]
            assert (await get("/v2/health/live")).json() == {"live": True}
            assert (await get("/v2/health/ready")).json() == {"ready": True}
            assert (await get("/v2/models/net/ready")).json() == {"name": "net", "ready": True}
            model = (await get("/v2/models/net")).json()
            assert model["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]
            assert model["platform"] == "onnx_onnxruntime"
            assert (await get("/v2/models/none")).status_code == 404
            chat = {"model": "net", "messages": [{"role": "user", "content": "hi"}]}
            refused = await door.http.post("/v1/chat/completions", json=chat)
            assert (refused.status_code, refused.json()["error"]["code"]) == (422, "not_servable")
            assert 'thaloom_worker_up{model="net",service="net"} 1.0' in (await get("/metrics")).text

    asyncio.run(run())


def test_a_full_queue_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = asyncio.Event()
    run_once = sessions.Session.run

    async def run() -> None:
        loop = asyncio.get_running_loop()
        begun: list[int] = []

        def watched(self: Any, inputs: Any, outputs: Any, *rest: Any) -> Any:
            begun.append(1)
            asyncio.run_coroutine_threadsafe(held.wait(), loop).result(20)
            return run_once(self, inputs, outputs, *rest)

        async with site(tmp_path, image_classifier(tmp_path / "net.onnx"), max_sequences=1, max_queue=1) as door:
            monkeypatch.setattr(sessions.Session, "run", watched)
            first = asyncio.create_task(door.infer(asked(pixels(1))))
            async with asyncio.timeout(20):
                while not begun:
                    await asyncio.sleep(0.002)
                second = asyncio.create_task(door.infer(asked(pixels(1))))
                while (await door.status()).waiting < 1:
                    await asyncio.sleep(0.002)
            full = await door.infer(asked(pixels(1)))
            assert full.status_code == 429
            assert full.headers["retry-after"]
            held.set()
            assert [answer.status_code for answer in await asyncio.gather(first, second)] == [200, 200]

    asyncio.run(run())


def test_an_alias_leads_to_a_model(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, image_classifier(tmp_path / "net.onnx")) as door:
            door.routes.aliases = (
                Alias(name=ServiceName("best"), shares=(Share(service=ServiceName("net"), weight=1),)),
            )
            image = pixels(2)
            answers = [await door.http.post(f"/v2/models/{name}/infer", json=asked(image)) for name in ("net", "best")]
            np.testing.assert_array_equal(*(output(answer, "scores") for answer in answers))
            assert (await door.http.get("/v2/models/best")).json()["inputs"]
            assert (await door.http.get("/v2/models/best/ready")).status_code == 200

    asyncio.run(run())


def test_a_defect_of_ours_ends_the_worker_and_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, *_: Any) -> Any:
        raise KeyError("a defect")

    async def run() -> None:
        async with site(tmp_path, image_classifier(tmp_path / "net.onnx")) as door:
            monkeypatch.setattr(OnnxServed, "_told", broken)
            answers = await asyncio.gather(*(door.infer(asked(pixels(1))) for _ in range(3)))
            assert {answer.status_code for answer in answers} <= {500, 502}
            async with asyncio.timeout(20):
                while Path(door.spec.socket).exists():
                    await asyncio.sleep(0.01)

    asyncio.run(run())


def test_a_pass_without_end_is_ended(tmp_path: Path) -> None:
    session = sessions.Session(endless(tmp_path / "e.onnx").read_bytes(), *endless_tensors(), 1)
    with pytest.raises(DeadlineExceeded, match="did not end"):
        session.run({"x": np.ones((1, 1), np.float32)}, ["y"], 0.2)


def test_a_model_that_the_runtime_refuses_is_refused(tmp_path: Path) -> None:
    data = endless(tmp_path / "e.onnx").read_bytes().replace(b"Loop", b"Loup")
    with pytest.raises(NotServable, match="ONNX Runtime refuses the model"):
        sessions.Session(data, *endless_tensors(), 1)


def test_the_document_describes_the_routes(tmp_path: Path) -> None:
    frontend = Frontend(FixedRoutes(), SystemClock(), ignore)
    document = openapi_document(frontend, frontend)
    frontend.close()
    assert {path for path in document["paths"] if path.startswith("/v2")} == {
        "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{model}", "/v2/models/{model}/ready",
        "/v2/models/{model}/infer", "/v2/rerank",
    }  # fmt: skip
    assert "InferenceRequest" in document["components"]["schemas"]
