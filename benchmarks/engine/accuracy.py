"""How far each engine's predictions are from f32, on the same weights: `python -m benchmarks.engine.accuracy`.

Writes benchmarks/records/<date>-accuracy.{json,md}. The measure is the mean over tokens of KL(f32 || engine) in nats,
where f32 is our reference (NumPy, exact weights, f32 everywhere). Models:

* `tiny`, trained, on its held-out text (with perplexity beside it);
* `outliers`, random weights whose norms make a few channels twenty times as large as the rest, on random tokens: the
  large channels of trained models, which whole-number formats of activations suffer from.

llama.cpp's logits come from its library (children/llama_logits.cpp); vLLM's from its prompt log-probabilities;
OpenVINO's from its plain inference of the weights that its pipeline runs. As a check of the way itself llama.cpp also
runs in f32: its distance must be next to nothing.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.engine import environments
from benchmarks.engine.engines import CHILDREN, Unavailable, end_in_order
from benchmarks.engine.models import vocabulary, w8a8_model
from benchmarks.engine.peers import openvino, vllm
from benchmarks.engine.peers.llama_cpp import LlamaCpp, Quantisation
from benchmarks.engine.peers.openvino import OpenVino
from benchmarks.engine.roofline import program_of
from benchmarks.node import machine
from benchmarks.random_models import SHAPES, Shape, make
from numpy.typing import NDArray
from tokenizers import Tokenizer

from thaloom.base.clock import SystemClock
from thaloom.base.ids import DeviceId
from thaloom.base.plugins import Registry
from thaloom.hal.driver import Backend, Driver, WeightSource
from thaloom.hal.reference import ReferenceBackend
from thaloom.hal.types import Device, DType, WeightFormat
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.work.runtime.quality import Comparison, LanguageModel, Window, log_softmax
from thaloom.work.runtime.worker.loading import choose_kv_dtype

HERE = Path(__file__).resolve().parent
RECORDS = HERE.parent / "records"
TINY = HERE.parent.parent / "models" / "tiny"
OUTLIERS = Shape(
    family="llama", layers=6, hidden=512, mlp=1408, heads=8, kv_heads=2, head_size=64, vocab=4096, context=2048,
    rope_theta=1e4, outlier_channels=4, outlier_gain=20.0,
)  # fmt: skip
"""4 of 512 channels. A vocabulary of 4,096, so that every engine can tell all of its logits."""
WINDOW = 256
NUM_WINDOWS = 4
F32 = NDArray[np.float32]
Logits = Callable[[], F32]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and the windows that everybody reads: int32 (windows, WINDOW)."""

    name: str
    folder: Path
    windows: NDArray[np.int32]


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.engine.accuracy", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a toy model, no peers, no record")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default="", help="only engines with one of these words in their name, by commas")
    asked = parser.parse_args()
    end_in_order()
    record: dict[str, Any] = {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **machine(),
        "models": {},
    }
    for subject in [toy()] if asked.short else [tiny(), outliers()]:
        print(f"== {subject.name}", file=sys.stderr, flush=True)
        record["models"][subject.name] = measure(subject, asked.threads, asked.short, asked.peers)
    text = table(record)
    print(text)
    if not asked.short:
        stem = RECORDS / f"{record['when'][:10]}-accuracy"
        stem.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        stem.with_suffix(".md").write_text(text)
    return 0


def measure(subject: Subject, num_threads: int, short: bool, peers: str) -> dict[str, Any]:
    with opened(subject.folder) as weights:
        original = predictions(subject, weights, reference(), "f32", "stored")
        engines: dict[str, Logits] = {}
        formats: tuple[WeightFormat, ...] = ("stored", "int8", "int4")
        for weight_format in formats:
            backend = processor(num_threads)
            kv = choose_kv_dtype(None, {"bf16"}, weight_format, backend)
            engines[f"Thaloom {weight_format}"] = functools.partial(
                predictions, subject, weights, backend, kv, weight_format
            )
        if not short:
            engines |= other_engines(subject, num_threads)
        told: dict[str, Any] = {}
        for name, logits in engines.items():
            if peers and not any(word in name for word in peers.split(",")):
                continue
            try:
                told[name] = compare(subject, original, logits())
                print(f"{name}: mean KL {told[name]['mean_kl']:.3g}", file=sys.stderr, flush=True)
            except Unavailable as error:
                told[name] = {"left_out": str(error)}
                print(f"left out: {name}: {error}", file=sys.stderr, flush=True)
    return told


def compare(subject: Subject, original: F32, logits: F32) -> dict[str, float]:
    """Of all rows but each window's last: not every engine tells what comes after it."""
    rows = WINDOW - 1
    comparison = Comparison()
    p = original.reshape(len(subject.windows), WINDOW, -1)
    q = logits.reshape(len(subject.windows), -1, logits.shape[-1])
    for window, mine, other in zip(subject.windows, p, q, strict=True):
        comparison.add(log_softmax(mine[:rows]), log_softmax(other[:rows, : p.shape[-1]]), window[1:])
    return {
        "mean_kl": comparison.mean_kl,
        "perplexity": comparison.perplexity,
        "original_perplexity": comparison.original_perplexity,
    }


def predictions(
    subject: Subject, weights: WeightSource, backend: Backend, kv_dtype: DType, weight_format: WeightFormat
) -> F32:
    program = program_of(subject.folder)
    model = LanguageModel(program, weights, backend, kv_dtype=kv_dtype, weight_format=weight_format, window=WINDOW)
    try:
        # A window of the measure has one token more than it scores; the one added here is never read.
        windows = [Window(np.append(ids, ids[-1])) for ids in subject.windows]
        return np.concatenate([logits.copy() for logits, _ in model.predictions(windows)])
    finally:
        model.close()


def other_engines(subject: Subject, num_threads: int) -> dict[str, Logits]:
    kinds: tuple[Quantisation, ...] = ("F32", "BF16", "Q8_0", "Q4_0")
    found: dict[str, Logits] = {}
    for kind in kinds:
        engine = LlamaCpp(project="llama.cpp", quantisation=kind, num_threads=num_threads)
        found[engine.name] = lambda engine=engine: llama_logits(engine, subject)  # type: ignore[misc]
    found["vLLM-CPU bf16"] = lambda: vllm_logits(subject, subject.folder, num_threads)
    found["vLLM-CPU W8A8"] = lambda: vllm_logits(subject, w8a8_model(subject.folder), num_threads)
    found["OpenVINO int8"] = lambda: openvino_logits(subject, num_threads)
    return found


def llama_logits(engine: LlamaCpp, subject: Subject) -> F32:
    """Raises Unavailable."""
    weights = engine.weights(subject.folder)
    program = logits_program(engine)
    folder = environments.cache() / "accuracy"
    tokens, out = folder / "tokens.bin", folder / "llama.f32"
    folder.mkdir(exist_ok=True)
    subject.windows.tofile(tokens)
    log = folder / "llama.log"
    environments.run([program, weights, tokens, str(WINDOW), str(engine.num_threads), out], log)
    return np.fromfile(out, np.float32).reshape(subject.windows.size, -1)


def logits_program(engine: LlamaCpp) -> Path:
    """children/llama_logits.cpp, linked with the libraries of the peer's build. Raises Unavailable."""
    build = engine.build().parent
    program = engine.home / "llama_logits"
    source = engine.source()
    libraries = [
        build / "src/libllama.a",
        *(build / f"ggml/src/lib{name}.a" for name in ("ggml", "ggml-cpu", "ggml-base")),
    ]
    command: list[str | Path] = ["g++", "-O2", CHILDREN / "llama_logits.cpp"]
    command += [f"-I{source / 'include'}", f"-I{source / 'ggml/include'}", *libraries, "-fopenmp", "-ldl", "-lpthread"]
    environments.run([*command, "-o", program], engine.home / "logits.log")
    return program


def vllm_logits(subject: Subject, model: Path, num_threads: int) -> F32:
    """Raises Unavailable."""
    folder = environments.cache() / "accuracy"
    folder.mkdir(exist_ok=True)
    tokens, out = folder / "tokens.bin", folder / "vllm.f32"
    subject.windows.tofile(tokens)
    variables = [f"{name}={value}" for name, value in vllm.variables(num_threads).items()]
    command: list[str | Path] = ["env", *variables, vllm.environment(), CHILDREN / "vllm_logits.py"]
    environments.run([*command, model, tokens, str(WINDOW), out], folder / "vllm.log")
    return np.fromfile(out, np.float32).reshape(-1, vocabulary(model))


def openvino_logits(subject: Subject, num_threads: int) -> F32:
    """Raises Unavailable."""
    folder = environments.cache() / "accuracy"
    folder.mkdir(exist_ok=True)
    tokens, out = folder / "tokens.bin", folder / "openvino.f32"
    subject.windows.tofile(tokens)
    weights = OpenVino(num_threads=num_threads).weights(subject.folder)
    command: list[str | Path] = [openvino.environment(), CHILDREN / "openvino_logits.py", weights, tokens]
    environments.run([*command, str(WINDOW), str(num_threads), out], folder / "openvino.log")
    return np.fromfile(out, np.float32).reshape(subject.windows.size, -1)


def tiny() -> Subject:
    text = (TINY / "heldout.txt").read_text(encoding="utf-8")
    ids = Tokenizer.from_file(str(TINY / "tokenizer.json")).encode(text).ids[: NUM_WINDOWS * WINDOW]
    return Subject("tiny", TINY, np.array(ids, np.int32).reshape(NUM_WINDOWS, WINDOW))


def outliers() -> Subject:
    folder = make(OUTLIERS, environments.cache() / "models" / "outliers")
    return Subject("outliers", folder, random_windows(OUTLIERS.vocab, NUM_WINDOWS))


def toy() -> Subject:
    shape = replace(SHAPES["toy"], outlier_channels=2, outlier_gain=20.0)
    folder = make(shape, environments.cache() / "models" / "toy-outliers")
    return Subject("toy", folder, random_windows(shape.vocab, 1))


def random_windows(num_tokens: int, num_windows: int) -> NDArray[np.int32]:
    return np.random.default_rng(0).integers(3, num_tokens, (num_windows, WINDOW), dtype=np.int32)


@contextmanager
def opened(folder: Path) -> Iterator[WeightSource]:
    store = ModelStore(environments.cache() / "thaloom" / "store", SystemClock())
    weights = store.open(store.import_path(folder, ModelName.parse(folder.name), replace=True)).weights()
    try:
        yield weights
    finally:
        weights.close()


def reference() -> Backend:
    return ReferenceBackend(
        Device(
            id=DeviceId("reference"), driver="reference", kind="virtual", name="reference", vendor="thaloom",
            memory_bytes=1 << 34, num_cores=1, dtypes=frozenset({"f32", "bf16", "f16"}), isolation="none",
        )
    )  # fmt: skip


def processor(num_threads: int) -> Backend:
    drivers: Registry[Driver] = Registry("driver")
    drivers.discover()
    driver = drivers.create("cpu")
    return driver.open(driver.probe()[0].id, num_threads=num_threads)


def table(record: dict[str, Any]) -> str:
    lines = [f"# Distance to f32, {record['when'][:10]}", "", "Mean KL in nats over tokens; smaller is better.", ""]
    names = list(dict.fromkeys(name for told in record["models"].values() for name in told))
    lines += ["| engine | " + " | ".join(record["models"]) + " |", "| --- |" + " --- |" * len(record["models"])]
    for name in names:
        cells = [_cell(told.get(name, {"left_out": ""})) for told in record["models"].values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(told: dict[str, Any]) -> str:
    if "left_out" in told:
        return "not measured"
    return f"{told['mean_kl']:.2e} (perplexity {100 * (told['perplexity'] / told['original_perplexity'] - 1):+.2f} %)"


if __name__ == "__main__":
    sys.exit(main())
