"""What each format costs in quality: `make bench-quality`. Writes benchmarks/records/<date>-quality.json and a table.

Every way to keep weights, keys and values reads the same text in the same windows beside the original: the same model
with weights, keys and values in f32. Told are perplexity and mean KL(original || other) in nats, over all scored tokens
(work/runtime/quality.py has the arithmetic).

* `tiny` reads documents it never saw: benchmarks/heldout.py rebuilds them from Debian packages, text for text, and the
  record says how many of the 438 were there. Of each document the first
  tokens are read, in windows of 1,024.
* Random models have nothing to say, so their perplexity means nothing; their KL does, above all with outlier channels:
  a few channels far larger than the rest, as trained models have, which is what whole-number formats suffer from.
* `weights alone` are the peers' formats: quantised by the `gguf` package as llama.cpp does, computed in f32. A peer
  also rounds activations, so it cannot be better than this on the same weights.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from thaloom.base.clock import SystemClock
from thaloom.base.plugins import Registry
from thaloom.hal.driver import Backend, Driver, WeightSource
from thaloom.hal.ops import Program
from thaloom.hal.quantise import convertible, heads, quantise
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.types import DType, WeightFormat
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import ModelName
from thaloom.work.runtime.architectures import Architecture, select
from thaloom.work.runtime.quality import Comparison, LanguageModel, Window, cut, log_softmax

HERE = Path(__file__).resolve().parent
TINY = HERE.parent / "models" / "tiny"
BARS = {"int8, kv bf16": 0.005, "int4, kv bf16": 0.03, "int4 but int8 head, kv bf16": 0.03, "as stored, kv i8": 0.005}
"""How much perplexity may rise on tiny's held-out text, by variant."""
Change = Callable[[str, Tensor], Tensor | QuantTensor]


class Changed:
    """A WeightSource that hands out each tensor changed."""

    def __init__(self, source: WeightSource, change: Change) -> None:
        self._source = source
        self._change = change

    def names(self) -> Iterable[str]:
        return self._source.names()

    def read(self, name: str) -> Tensor | QuantTensor:
        tensor = self._source.read(name)
        assert isinstance(tensor, Tensor), "quality is measured from a model in floats"
        return self._change(name, tensor)


def widen(_: str, tensor: Tensor) -> Tensor:
    return Tensor("f32", tensor.to_f32())


def by_groups(matrices: frozenset[str]) -> Change:
    """8 bits with a scale for each 32 columns: what a Q8_0 file becomes when it is imported."""
    return lambda name, tensor: quantise(tensor.to_f32(), 8, 32) if name in matrices else tensor


def as_gguf(kind: str, matrices: frozenset[str]) -> Change:
    from gguf import GGMLQuantizationType, quants

    number = GGMLQuantizationType[kind]

    def change(name: str, tensor: Tensor) -> Tensor:
        values = np.ascontiguousarray(tensor.to_f32())
        return Tensor("f32", quants.dequantize(quants.quantize(values, number), number) if name in matrices else values)

    return change


def head_in_8_bits(head: frozenset[str]) -> Change:
    """What `thaloom quantize --to int4` stores of the matrix that makes logits."""
    return lambda name, tensor: quantise(tensor.to_f32(), 8) if name in head else tensor


def variants(
    matrices: frozenset[str], head: frozenset[str]
) -> Iterator[tuple[str, Change | None, DType, WeightFormat]]:
    """(name, what is done to the weights before, keys and values, format the driver makes of the weights)."""
    yield "as stored, kv f16", None, "f16", "stored"
    yield "as stored, kv bf16", None, "bf16", "stored"
    yield "int8, kv bf16", None, "bf16", "int8"
    yield "int8 in groups of 32, kv bf16", by_groups(matrices), "bf16", "stored"
    yield "int4, kv bf16", None, "bf16", "int4"
    yield "int4 but int8 head, kv bf16", head_in_8_bits(head), "bf16", "int4"
    yield "as stored, kv i8", None, "i8", "stored"
    yield "int8, kv i8", None, "i8", "int8"
    yield "int4, kv i8", None, "i8", "int4"
    for kind in ("Q8_0", "Q4_0"):
        yield f"weights alone {kind}, kv f32", as_gguf(kind, matrices), "f32", "stored"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heldout", type=Path, help="heldout.jsonl of benchmarks/heldout.py")
    parser.add_argument("--random", type=Path, help="folder to keep the random models in; without it they are left out")
    parser.add_argument(
        "--tokens", type=int, default=30_000, help="how many of the held-out tokens, from each document alike"
    )
    parser.add_argument("--dry", action="store_true", help="print only, write no record")
    given = parser.parse_args()
    texts = [json.loads(line)["text"] for line in given.heldout.read_text().splitlines()]
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    most = given.tokens // len(texts)
    tokens = [[0, *tokenizer.encode(text).ids, 0][: most + 1] for text in texts]
    windows = [window for document in tokens for window in cut(document, 1024)]
    read = {
        "documents": len(texts),
        "first_tokens_of_each": most,
        "sha256": hashlib.sha256("".join(texts).encode()).hexdigest(),
    }
    backend = open_cpu()
    record: dict[str, Any] = machine() | {"driver": describe(backend), "heldout": read, "models": {}}
    record["models"]["tiny"] = measure("tiny", TINY, windows, backend)
    if given.random is not None:
        for name, folder in random_models(given.random):
            ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("".join(texts)[:16_000]).ids[:513]
            record["models"][name] = measure(name, folder, cut(ids, 256), backend)
    if not given.dry:
        path = HERE / "records" / f"{record['when'][:10]}-quality.json"
        path.write_text(json.dumps(record, indent=2) + "\n")
        print(path)
    return 0 if within_bars(record["models"]["tiny"]) else 1


def random_models(root: Path) -> Iterator[tuple[str, Path]]:
    sys.path.insert(0, str(HERE))
    from dataclasses import replace

    from random_models import SHAPES, make

    shape = SHAPES["llama-135m"]
    yield "random 135M", make(shape, root / "random-135m")
    outliers = replace(shape, outlier_channels=8, outlier_gain=20.0)
    yield "random 135M, 8 channels 20 times as large", make(outliers, root / "random-135m-outliers")


def measure(name: str, folder: Path, windows: list[Window], backend: Backend) -> dict[str, dict[str, float] | str]:
    """Figures by variant. A variant the device does not offer is told as such."""
    with tempfile.TemporaryDirectory() as root:
        store = ModelStore(Path(root), SystemClock())
        model = store.open(store.import_path(folder, ModelName("m")))
        architectures: Registry[Architecture] = Registry("architecture")
        architectures.discover()
        config = model.config()
        program = select(architectures, config).build(config)
        matrices = convertible(program)
        found: dict[str, dict[str, float] | str] = {}
        comparisons: dict[str, Comparison] = {}
        with ExitStack() as stack, closing(model.weights()) as weights:
            size = max(len(window.tokens) for window in windows)
            ready = lambda change, kv, form: stack.enter_context(  # noqa: E731 - one way to say it, nine times
                closing(ready_model(program, weights, backend, change, kv, form, size))
            )
            original = ready(widen, "f32", "stored")
            others: dict[str, LanguageModel] = {}
            for variant, change, kv_dtype, weight_format in variants(matrices, heads(program)):
                if kv_dtype not in backend.support.kv_dtypes or weight_format not in backend.support.weight_formats:
                    found[variant] = "not offered by this driver"
                    continue
                others[variant], comparisons[variant] = ready(change, kv_dtype, weight_format), Comparison()
            streams = {variant: other.predictions(windows) for variant, other in others.items()}
            for logits, targets in original.predictions(windows):
                expected = log_softmax(logits)
                for variant, stream in streams.items():
                    comparisons[variant].add(expected, log_softmax(next(stream)[0]), targets)
    for variant, comparison in comparisons.items():
        found[variant] = figures(comparison)
    show(name, found)
    return found


def ready_model(
    program: Program,
    weights: WeightSource,
    backend: Backend,
    change: Change | None,
    kv: DType,
    form: WeightFormat,
    size: int,
) -> LanguageModel:
    source = weights if change is None else Changed(weights, change)
    return LanguageModel(program, source, backend, kv_dtype=kv, weight_format=form, window=size)


def figures(comparison: Comparison) -> dict[str, float]:
    rise = comparison.perplexity / comparison.original_perplexity - 1
    return {
        "tokens": comparison.num_tokens,
        "perplexity": round(comparison.perplexity, 4),
        "original_perplexity": round(comparison.original_perplexity, 4),
        "perplexity_rise": round(rise, 6),
        "mean_kl": float(f"{comparison.mean_kl:.4g}"),
    }


def show(name: str, found: dict[str, dict[str, float] | str]) -> None:
    print(f"\n{name}\n{'':32} {'perplexity':>12} {'rise':>9} {'mean KL':>10}")
    for variant, told in found.items():
        if isinstance(told, str):
            print(f"{variant:32} {told}")
        else:
            print(f"{variant:32} {told['perplexity']:12.4f} {told['perplexity_rise']:9.3%} {told['mean_kl']:10.2e}")
    sys.stdout.flush()


def within_bars(tiny: dict[str, dict[str, float] | str]) -> bool:
    """Whether all bars are held, as far as the driver offers what they are about."""
    held = True
    for variant, bar in BARS.items():
        told = tiny[variant]
        if isinstance(told, str):
            print(f"{variant}: {told}")
            continue
        rise = told["perplexity_rise"]
        held = held and rise <= bar
        print(f"{variant}: perplexity {rise:+.3%}, at most {bar:+.1%}: {'held' if rise <= bar else 'NOT HELD'}")
    return held


def open_cpu() -> Backend:
    drivers: Registry[Driver] = Registry("driver")
    drivers.discover()
    driver = drivers.create("cpu")
    device = driver.probe()[0]
    return driver.open(device.id, num_threads=device.num_cores)


def describe(backend: Backend) -> str:
    return backend.degraded or f"native, {getattr(backend, 'variant', None) or 'chosen for this machine'}"


def machine() -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
