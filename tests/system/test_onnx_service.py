"""A real node over an ONNX model: imported, shown, served without naming an engine, asked, killed, back, stopped."""

from __future__ import annotations

from pathlib import Path

import httpx2
import numpy as np
import pytest

from tests.onnx_models import expected_scores, image_classifier
from tests.system.cli import thaloom
from tests.system.node import Node, eventually, node
from thaloom.base.errors import NotServable
from thaloom.edge.wire.control import ServeRequest

__all__ = ["node"]

pytestmark = pytest.mark.slow
pytest.importorskip("onnxruntime", reason="the extra is not installed: pip install 'thaloom[onnx]'")


def test_an_onnx_model_from_file_to_answer(node: Node, tmp_path: Path) -> None:
    node.start()
    node.wait_for_door()
    path = image_classifier(tmp_path / "classes.onnx")
    assert thaloom(node, "pull", str(path)).code == 0
    with node.client() as client:
        card = client.model("classes").card
        assert [(one.name, one.dtype, one.shape) for one in card.inputs] == [("pixels", "FP32", [-1, 3, 8, 8])]
        with pytest.raises(NotServable, match="engine 'thaloom', not 'onnx'"):
            node.serve_tiny()
            client.serve("tiny", ServeRequest(model="tiny", engine="onnx"))
    served = thaloom(node, "serve", "classes", "--threads", "1")
    assert served.code == 0, served.err
    image = np.random.default_rng(3).standard_normal((2, 3, 8, 8)).astype(np.float32)
    tensor = {"name": "pixels", "shape": [2, 3, 8, 8], "datatype": "FP32", "data": image.ravel().tolist()}

    def scores() -> np.ndarray | None:
        answer = httpx2.post(f"{node.url}/v2/models/classes/infer", json={"inputs": [tensor]}, trust_env=False)
        return np.array(answer.json()["outputs"][0]["data"]).reshape(2, 5) if answer.status_code == 200 else None

    first = eventually(lambda: [found] if (found := scores()) is not None else None)[0]
    np.testing.assert_allclose(first, expected_scores(image), rtol=1e-5)
    with node.client() as client:
        assert client.service("classes").spec.engine == "onnx"
    node.kill(node.process("worker", "classes").pid)
    again = eventually(lambda: [found] if (found := scores()) is not None else None)
    np.testing.assert_array_equal(again[0], first)
    assert thaloom(node, "stop", "classes").code == 0
    assert thaloom(node, "rm", "classes").code == 0
