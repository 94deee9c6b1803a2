"""The models that benchmarks run on are ordinary ones: the store takes them in, every id has a text."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tokenizers import Tokenizer

from thaloom.base.clock import ManualClock
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.work.runtime.architectures.qwen2 import Qwen2

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def random_models() -> ModuleType:
    spec = importlib.util.spec_from_file_location("random_models", ROOT / "benchmarks" / "random_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def toy(random_models: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(random_models.make(random_models.SHAPES["toy"], tmp_path_factory.mktemp("models") / "toy"))


def test_the_store_takes_it_and_the_program_finds_every_weight(toy: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store", ManualClock())
    model = store.open(store.import_path(toy, ModelName("toy")))
    program = Qwen2().build(model.config())
    weights = model.weights()
    try:
        assert {str(name): weights.read(name).shape for name in weights.names()} == dict(program.weights)
        table = weights.read("model.embed_tokens.weight").to_f32()
    finally:
        weights.close()
    assert 0.019 < table.std() < 0.021


def test_every_id_has_a_text(toy: Path) -> None:
    tokenizer = Tokenizer.from_file(str(toy / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 512
    assert all(tokenizer.id_to_token(number) for number in range(512))
    text = "def main() -> int:\n    return '\u00e9\u4f60\U0001f600'"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_seed_decides_the_weights(random_models: ModuleType, toy: Path, tmp_path: Path) -> None:
    shape = random_models.SHAPES["toy"]
    again = random_models.make(shape, tmp_path / "again")
    other = random_models.make(shape, tmp_path / "other", seed=1)
    read = lambda folder: (folder / "model.safetensors").read_bytes()  # noqa: E731
    assert read(again) == read(toy)
    assert read(other) != read(toy)


def test_a_finished_folder_is_left_and_another_recipe_replaces_it(random_models: ModuleType, tmp_path: Path) -> None:
    shape, folder = random_models.SHAPES["toy"], tmp_path / "model"
    random_models.make(shape, folder)
    (folder / "mark").touch()
    random_models.make(shape, folder)
    assert (folder / "mark").exists()
    random_models.make(replace(shape, outlier_channels=3, outlier_gain=20.0), folder)
    assert not (folder / "mark").exists()
    norm = next(random_models.draw(replace(shape, outlier_channels=3, outlier_gain=20.0), 0, "model.norm.weight", 64))
    assert sorted(set(norm.tolist())) == [1.0, 20.0]
    assert np.count_nonzero(norm == 20.0) == 3
