"""Mutated safetensors and GGUF files against their readers: each is read soundly or refused by a named error.

    python -m tests.fuzz_formats --cases 100000 --seed 1     (make fuzz-formats)

Of ten mutants four are safetensors with matrices of whole numbers among them, five GGUF headers, and one is a whole
GGUF model, which is converted as an import does. Harms are blind (bits, bytes, cuts, repeats) and informed (numbers of
4 and 8 bytes replaced by odd ones, words of JSON replaced, tensors made to overlap). The process may take MEMORY_BYTES
beyond what it has at the start, so that an allocation a file asks for and does not fill is a crash here; the slowest
case is told. Equal seeds give equal cases.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from tests.foreign import gguf_metadata, gguf_tensors
from tests.gguf_files import Blocks, Typed, encode_gguf, f32
from tests.models import encode_safetensors, make_config, make_tokenizer, weight_shapes
from thaloom.base.errors import MalformedFile, NotServable, ThaloomError, UnsafeFormat
from thaloom.hal.tensors import Tensor
from thaloom.kernel.models.gguf import read_gguf
from thaloom.kernel.models.gguf_import import GgufModel
from thaloom.kernel.models.import_files import source_file
from thaloom.kernel.models.packed import find_packed, unpack
from thaloom.kernel.models.safetensors import read_header

MEMORY_BYTES = 256 * 1024 * 1024
MEMORY_FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where mutants that need a file get one: disks are slow."""
NAMED: tuple[type[ThaloomError], ...] = (MalformedFile, NotServable, UnsafeFormat)
ODD = (0, 1, 2, 3, 7, 8, 9, 13, 31, 32, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
WORDS = (
    b"9", b"0", b"-1", b"-", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"1e9", b"null", b"true", b"1.5", b"NaN",
    b"18446744073709551615", b"9" * 40, b'"F64"', b'"I64"', b'"BF16"', b'"X"', b"[[[[", b'{"a":' * 20, b"\\ud800",
    b'"__metadata__"', b'"dtype"', b'"shape"', b'"data_offsets"',
)  # fmt: skip


def sound_files() -> dict[str, list[bytes]]:
    """What mutants are made from, by format."""
    weights = {
        "model.a": Tensor("f32", np.arange(12, dtype=np.float32).reshape(3, 4)),
        "model.b": Tensor("bf16", np.arange(7, dtype=np.uint16)),
        "model.c": Tensor("i8", np.arange(5, dtype=np.int8)),
        "model.empty": Tensor("f32", np.zeros((0, 3), np.float32)),
    }
    metadata = {
        "general.architecture": "llama",
        "general.alignment": 32,
        "llama.block_count": 2,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.tokens": ["a", "b", "ab", "<s>"],
        "tokenizer.ggml.scores": [0.0, -1.0, -2.0, 0.0],
        "tokenizer.ggml.token_type": Typed("i32", [1, 1, 1, 3]),
        "tokenizer.ggml.merges": ["a b"],
        "big": Typed("u64", 2**40),
    }
    tensors = {
        "token_embd.weight": Blocks(8, (4, 32), bytes(4 * 34)),
        "blk.0.attn_q.weight": Blocks(12, (2, 256), bytes(2 * 144)),
        "output_norm.weight": f32(np.ones(32, np.float32)),
    }
    overlapping = encode_gguf(metadata, tensors, offsets=[0, 64, 0])
    packed = {
        "model.d.q8": Tensor("i8", np.arange(64, dtype=np.int8).reshape(2, 32)),
        "model.d.scales": Tensor("f32", np.ones((2, 1), np.float32)),
        "model.e.q8": Tensor("i8", np.arange(64, dtype=np.int8).reshape(1, 64)),
        "model.e.scales": Tensor("f16", np.ones((1, 2), np.float16)),
    }
    return {
        "safetensors": [encode_safetensors(weights, {"format": "pt"}), encode_safetensors(packed)],
        "gguf": [encode_gguf(metadata, tensors), encode_gguf({}, tensors, version=2), overlapping],
        "gguf model": list(sound_models()),
    }


def sound_models() -> Iterator[bytes]:
    """Whole models, small: of each kind of vocabulary one, with matrices that are repacked and made anew."""
    config = make_config("llama", hidden_size=32, intermediate_size=32, head_dim=16, num_attention_heads=2,
                         num_key_value_heads=1, num_hidden_layers=1, vocab_size=270)  # fmt: skip
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in weight_shapes(config).items()}
    kinds = dict(zip(weights, itertools.cycle(("Q8_0", "Q4_0", "Q5_0", "F16", "Q4_1"))))
    pieces = ["<unk>", "<s>", "▁", "a", "b", "ab", "▁a", "▁ab", *(f"<0x{i:02X}>" for i in range(256))]
    sentencepiece = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(pieces))],
        "tokenizer.ggml.token_type": Typed("i32", [2, 3, *[1] * 6, *[6] * 256]),
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
    }
    byte_level = gguf_metadata(config, json.loads(make_tokenizer().to_str()))
    for metadata in (byte_level, gguf_metadata(config, None) | sentencepiece):
        yield encode_gguf(metadata, gguf_tensors(config, weights, kinds))


def mutate(data: bytes, chance: random.Random) -> bytes:
    """One to four small harms, most of them in the header where they matter."""
    result = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(result) or 1)
        harm = chance.randrange(8)
        if harm == 0 and result:
            result[at] ^= 1 << chance.randrange(8)
        elif harm == 1:
            result[at : at + chance.randint(1, 8)] = b""
        elif harm == 2:
            result[at:at] = chance.randbytes(chance.randint(1, 8))
        elif harm == 3:
            word = chance.choice(WORDS)
            result[at : at + chance.choice((0, 1, len(word)))] = word
        elif harm == 4:
            del result[at:]
        elif harm == 5:
            start = chance.randrange(len(result) or 1)
            result[at:at] = result[start : start + chance.randint(1, 60)]
        elif harm == 6:
            result[at : at + 8] = struct.pack("<Q", chance.choice(ODD))
        else:
            result[at : at + 4] = struct.pack("<I", chance.choice(ODD) % 2**32)
    return bytes(result)


def read_safetensors(data: bytes) -> None:
    """Read, and check what a reader relies on: the tensors fill the file, one after the other."""
    header = read_header("m.safetensors", len(data), lambda at, length: data[at : at + length])
    at = header.tensors[0].start if header.tensors else len(data)
    for place in header.tensors:
        assert place.start == at, place
        at = place.end
    assert at == len(data)
    bytes_of = {place.name: np.frombuffer(data[place.start : place.end], np.uint8) for place in header.tensors}
    for packed in find_packed({place.name: place for place in header.tensors}).values():
        assert unpack(packed, bytes_of[packed.numbers.name], bytes_of[packed.scales.name]).shape == packed.shape


def read_gguf_file(data: bytes) -> None:
    header = read_gguf("m.gguf", len(data), lambda at, length: data[at : at + length])
    at = 0
    for tensor in header.tensors:
        assert at <= tensor.start <= tensor.end <= len(data), tensor
        rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
        assert tensor.num_bytes == rows * (tensor.shape[-1] // tensor.block.elements) * tensor.block.num_bytes
        at = tensor.end


def convert_gguf(data: bytes) -> None:
    """All that an import makes of it, but for writing it down."""
    with tempfile.NamedTemporaryFile(suffix=".gguf", dir=MEMORY_FOLDER) as file:
        file.write(data)
        file.flush()
        model = GgufModel(source_file(Path(file.name)))
        for converted in model.tensors():
            assert len(converted.tensor.shape) == model.ranks[converted.name]
        for _, contents in model.files():
            assert contents


READERS: dict[str, Callable[[bytes], None]] = {
    "safetensors": read_safetensors,
    "gguf": read_gguf_file,
    "gguf model": convert_gguf,
}
TENTHS = {"safetensors": 4, "gguf": 5, "gguf model": 1}
"""Of all cases: a conversion takes as long as fifty headers."""


def fuzz(kind: str, cases: int, seed: int) -> tuple[Counter[str], float]:
    """(outcomes by name, seconds of the slowest case). Raises whatever is not a named error."""
    chance = random.Random(f"{kind} {seed}")
    files, read = sound_files()[kind], READERS[kind]
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for case in range(cases):
        mutant = mutate(chance.choice(files), chance)
        begin = time.perf_counter()
        try:
            read(mutant)
            outcomes["read"] += 1
        except NAMED as error:
            outcomes[error.code if error.message else "without a word"] += 1
        except BaseException:
            print(f"{kind}, seed {seed}, case {case}: {mutant[:400]!r}", file=sys.stderr)
            raise
        slowest = max(slowest, time.perf_counter() - begin)
    return outcomes, slowest


def limit_memory() -> None:
    """At most MEMORY_BYTES more address space than now: a larger allocation raises MemoryError, which is no named
    error."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    limit_memory()
    for kind in READERS:
        outcomes, slowest = fuzz(kind, arguments.cases * TENTHS[kind] // 10, arguments.seed)
        told = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
        print(f"{kind}: {sum(outcomes.values())} mutants: {told}; slowest {slowest * 1000:.1f} ms", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
