"""The process that makes a model in whole numbers of one of the store: converts, measures, takes it into the store.

`python -m thaloom.quantiser --spec JSON`: JSON is a QuantiseSpec. It tells its progress on standard output, one
JSON object a line: `{"stage": ..., "done": ..., "total": ...}`, and at the end `{"model": name}` or `{"error": ...}`.
Told to end (SIGTERM), or with nobody left to read what it tells, it ends and leaves nothing behind; killed, it leaves a
folder that the store's next sweep takes away. The model is in the store whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import msgspec

from thaloom.base.clock import SystemClock
from thaloom.base.errors import BadParameter, InternalError, NotServable, ThaloomError
from thaloom.base.files import require_space
from thaloom.base.log import LogWriter
from thaloom.base.plugins import Registry
from thaloom.hal.driver import Backend, Driver
from thaloom.hal.ops import Program
from thaloom.hal.quantise import formats, heads
from thaloom.hal.types import MatrixFormat, WeightFormat
from thaloom.kernel.models.converting import convert, write_record
from thaloom.kernel.models.foreign import staged
from thaloom.kernel.models.quantising import QuantisedModel
from thaloom.kernel.models.reading import StoredModel
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.models.types import Manifest, ModelName, Quality
from thaloom.work.runtime.architectures import Architecture, select
from thaloom.work.runtime.quality import (
    SAMPLE,
    WINDOW,
    Comparison,
    LanguageModel,
    cut,
    describe,
    log_softmax,
    store_predictions,
    stored_predictions,
)
from thaloom.work.runtime.text.tokenizer import Tokenizer, read_text_files
from thaloom.work.runtime.worker.loading import choose_kv_dtype

MAX_TOKENS = 2048
"""Measured at most: the original's predictions are kept on the disk meanwhile, 4 bytes for each token and entry of the
vocabulary."""
MAX_TOKENS_SLOW = 512
"""The same where the NumPy reference runs."""
Tell = Callable[[str, int, int], None]
"""(stage, done, in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiseSpec:
    """What to make of which model, and where."""

    store: str
    model: str
    name: str
    to: WeightFormat
    replace: bool = False
    text: str | None = None
    """Path of the text to measure on; None: the one that comes with Thaloom."""
    driver: str = "cpu"
    num_threads: int | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it in this process; the exit code."""
    parser = argparse.ArgumentParser(prog="thaloom-quantiser", description="Quantise a model; started by thaloomd.")
    parser.add_argument("--spec", required=True, help="JSON that says what to do")
    signal.signal(signal.SIGTERM, _end)
    try:
        spec = msgspec.json.decode(parser.parse_args(arguments).spec, type=QuantiseSpec)
        manifest = quantise_model(spec, _tell)
    except ThaloomError as error:
        _say({"error": error.to_dict()})
        return error.exit_code
    except BrokenPipeError:
        return 1  # nobody waits for it any more
    except Exception as error:  # noqa: BLE001 - supervisor of the process: whatever ends it must be told to the daemon
        traceback.print_exc()
        _say({"error": InternalError(f"the quantiser broke: {type(error).__name__}: {error}").to_dict()})
        return 1
    _say({"model": str(manifest.name)})
    return 0


def quantise_model(spec: QuantiseSpec, tell: Tell) -> Manifest:
    """Raises any ThaloomError that says why not; whatever `tell` raises gives it up."""
    store = ModelStore(Path(spec.store), SystemClock(), LogWriter(SystemClock(), stream=sys.stderr))
    source, name = store.get(spec.model), ModelName.parse(spec.name)
    if name == source.name:
        raise BadParameter(f"model {spec.model!r} cannot be put in its own place: give another name", param="name")
    original = store.open(source)
    program = _program(original)
    quantised = QuantisedModel(original, _formats(program, spec.to), spec.to)
    require_space(store.root, 2 * quantised.most_bytes)
    with staged(store.root) as folder, staged(store.root) as scratch:
        record = convert(quantised, folder, lambda share: tell("quantising", int(share * 1000), 1000))
        quality = _measure(spec, store, original, program, folder, scratch, tell)
        write_record(folder, record, quality)
        return store.import_staged(
            folder,
            name,
            f"{source.name} ({source.digest[:12]})",
            replace=spec.replace,
            progress=lambda done, total: tell("importing", done, total),
        )


def _formats(program: Program, to: WeightFormat) -> dict[str, MatrixFormat]:
    """As a driver makes them at load, but for the head, which is in 8 bits: in 4 it costs about as much quality as
    all other matrices together (benchmarks/quality.py), and who quantises ahead asks for quality."""
    head, in_eight = heads(program), formats(program, "int8")
    return {name: in_eight[name] if name in head else kept for name, kept in formats(program, to).items()}


def _program(model: StoredModel) -> Program:
    architectures: Registry[Architecture] = Registry("architecture")
    architectures.discover()
    config = model.config()
    return select(architectures, config).build(config)


def _measure(
    spec: QuantiseSpec,
    store: ModelStore,
    original: StoredModel,
    program: Program,
    folder: Path,
    scratch: Path,
    tell: Tell,
) -> Quality | None:
    """None if the model has no tokenizer: nothing can be read then, and nothing was measured."""
    if not original.has("tokenizer.json"):
        return None
    text, name = _text(spec)
    config = original.config()
    vocab_size = int(config["vocab_size"])
    length = min(WINDOW, original.manifest.card.context_length or WINDOW)
    backend = _backend(spec)
    most = MAX_TOKENS if backend.degraded is None else MAX_TOKENS_SLOW
    tokens = _tokens(original, scratch, text)[: most + 1]
    windows = cut(tokens, length)
    num_tokens = sum(len(window.targets) for window in windows)
    if not num_tokens:
        raise BadParameter(f"{name!r} is too short to measure anything on", param="text")
    require_space(scratch, 4 * num_tokens * vocab_size)
    kv_dtype = choose_kv_dtype(None, original.manifest.card.dtypes, spec.to, backend)
    with closing(original.weights()) as weights:
        model = LanguageModel(program, weights, backend, kv_dtype=kv_dtype, window=length)
    with closing(model):
        for done in store_predictions(scratch / "predictions", model, windows, vocab_size):
            tell("measuring", done, 2 * num_tokens)
    expected = stored_predictions(scratch / "predictions", vocab_size)
    with closing(store.staged_weights(folder)) as weights:
        model = LanguageModel(program, weights, backend, kv_dtype=kv_dtype, window=length)
    comparison = Comparison()
    with closing(model):
        for logits, targets in model.predictions(windows):
            done = comparison.num_tokens
            p, q = log_softmax(expected[done : done + len(targets)]), log_softmax(logits[:, :vocab_size])
            comparison.add(p, q, targets)
            tell("measuring", num_tokens + comparison.num_tokens, 2 * num_tokens)
    return Quality(
        text=describe(text, name),
        num_tokens=num_tokens,
        perplexity=_short(comparison.perplexity),
        original_perplexity=_short(comparison.original_perplexity),
        mean_kl=_short(comparison.mean_kl),
    )


def _text(spec: QuantiseSpec) -> tuple[str, str]:
    path = SAMPLE if spec.text is None else Path(spec.text)
    try:
        return path.read_text(encoding="utf-8"), "Thaloom's sample" if spec.text is None else path.name
    except (OSError, ValueError) as error:
        raise BadParameter(f"{str(path)!r} cannot be read as text: {error}", param="text") from error


def _tokens(model: StoredModel, scratch: Path, text: str) -> list[int]:
    files = {}
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"):
        if model.has(name):
            model.copy_file(name, scratch / name)
            files[name] = str(scratch / name)
    return Tokenizer(read_text_files(files)).encode_prompt(text)


def _backend(spec: QuantiseSpec) -> Backend:
    drivers: Registry[Driver] = Registry("driver")
    drivers.discover()
    driver = drivers.create(spec.driver)
    devices = driver.probe()
    if not devices:
        raise NotServable(f"driver {spec.driver!r} finds no device here to measure on")
    return driver.open(devices[0].id, num_threads=spec.num_threads or max(1, devices[0].num_cores))


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _tell(stage: str, done: int, total: int) -> None:
    _say({"stage": stage, "done": done, "total": total})


def _say(line: object) -> None:
    print(json.dumps(line), flush=True)


def _end(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    sys.exit(main())
