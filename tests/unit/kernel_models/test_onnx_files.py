"""ONNX files as they come in: what they say of themselves, and what is refused by name."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from onnx import TensorProto, helper

from tests.onnx_models import image_classifier, save, tensor
from thaloom.base.clock import SystemClock
from thaloom.base.errors import MalformedFile, NotServable
from thaloom.base.events import ignore
from thaloom.kernel.models.import_files import source_file
from thaloom.kernel.models.onnx import read_onnx
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelTensor


def test_a_model_is_kept_with_what_goes_in_and_out(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store", SystemClock(), ignore)
    path = image_classifier(tmp_path / "Cats & Dogs.onnx")
    manifest = store.import_path(path)
    assert str(manifest.name) == "cats-dogs"
    card = store.get("cats-dogs").card
    assert card.family == "onnx"
    assert card.inputs == (ModelTensor(name="pixels", dtype="FP32", shape=(-1, 3, 8, 8)),)
    assert card.outputs == (
        ModelTensor(name="scores", dtype="FP32", shape=(-1, 5)),
        ModelTensor(name="best", dtype="INT64", shape=(-1,)),
    )
    assert (card.num_parameters, card.dtypes) == (4 * 3 * 3 * 3 + 20, ("f32",))
    assert card.weight_bytes == path.stat().st_size
    assert store.open(manifest).read_file("Cats & Dogs.onnx") == path.read_bytes()


def test_a_folder_with_one_model_is_taken_and_one_with_two_is_not(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store", SystemClock(), ignore)
    folder = tmp_path / "net"
    folder.mkdir()
    image_classifier(folder / "a.onnx")
    (folder / "README.md").write_text("hello")
    assert {file.path for file in store.import_path(folder).files} == {"a.onnx", "README.md"}
    image_classifier(folder / "b.onnx")
    with pytest.raises(NotServable, match="2 ONNX files"):
        store.import_path(folder)


@pytest.mark.parametrize("inside", [False, True])
def test_weights_in_other_files_are_refused(tmp_path: Path, inside: bool) -> None:
    model = onnx.load(str(image_classifier(tmp_path / "m.onnx")))
    if inside:
        hidden = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
        node = helper.make_node("Constant", [], ["c"], value=hidden)
        branch = helper.make_graph([node], "b", [], [tensor("c", TensorProto.FLOAT, [1])])
        model.graph.node.append(helper.make_node("If", ["best"], ["z"], then_branch=branch, else_branch=branch))
        target = model.graph.node[-1].attribute[0].g.node[0].attribute[0].t
    else:
        target = model.graph.initializer[0]
    target.data_location = TensorProto.EXTERNAL
    entry = target.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    path = tmp_path / "away.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(NotServable, match="external data"):
        read_onnx(source_file(path))


def test_what_is_no_tensor_is_refused(tmp_path: Path) -> None:
    inputs = [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)]
    nodes = [helper.make_node("SequenceLength", ["s"], ["n"])]
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("n", TensorProto.INT64, [])], {})
    with pytest.raises(NotServable, match="'s' is no tensor"):
        read_onnx(source_file(path))


def test_weights_among_the_inputs_of_old_files_are_no_inputs(tmp_path: Path) -> None:
    inputs = [tensor("x", TensorProto.FLOAT, [2]), tensor("w", TensorProto.FLOAT, [2])]
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    weights = {"w": np.ones(2, np.float32)}
    path = save(tmp_path / "m.onnx", nodes, inputs, [tensor("y", TensorProto.FLOAT, [2])], weights)
    assert [one.name for one in read_onnx(source_file(path)).inputs] == ["x"]


@pytest.mark.parametrize(
    "data", [b"", b"hello there", b"\x80\x04", b"\x3a\xff\xff\xff\xff\x0f", b"\x08" + b"\xff" * 20]
)
def test_what_is_no_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(MalformedFile):
        read_onnx(source_file(path))


@settings(max_examples=200)
@given(at=some.integers(0, 10**6), value=some.integers(0, 255), cut=some.integers(0, 10**6))
def test_a_spoilt_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("o")
    data = bytearray(image_classifier(folder / "m.onnx").read_bytes())
    data[at % len(data)] = value
    if cut % 3 == 0:
        del data[cut % len(data) :]
    path = folder / "spoilt.onnx"
    path.write_bytes(bytes(data))
    with contextlib.suppress(MalformedFile, NotServable):
        assert read_onnx(source_file(path)).outputs
