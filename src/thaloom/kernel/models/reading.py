"""A model of the store opened for reading: small files whole, weights tensor by tensor, every byte checked."""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import CorruptObject, MalformedFile, NotServable
from thaloom.base.files import atomic_writer
from thaloom.hal.tensors import QuantTensor, Tensor
from thaloom.hal.types import DType
from thaloom.kernel.models.locks import StoreLock, share
from thaloom.kernel.models.objects import BadObject, Objects
from thaloom.kernel.models.packed import PackedPlace, find_packed, unpack
from thaloom.kernel.models.read_ahead import AHEAD, NUM_THREADS, ReadAhead
from thaloom.kernel.models.safetensors import TensorPlace, read_header
from thaloom.kernel.models.trees import Tree, read_chunks, read_tree
from thaloom.kernel.models.types import FileEntry, Manifest

_NUMPY: dict[str, tuple[DType, str]] = {"F32": ("f32", "<f4"), "F16": ("f16", "<f2"), "BF16": ("bf16", "<u2")}


class StoredModel:
    """One model's files. Cheap to make; keeps nothing open."""

    def __init__(self, manifest: Manifest, trees: Objects, chunks: Objects, lock: Path) -> None:
        self.manifest = manifest
        self._trees = trees
        self._chunks = chunks
        self._lock = lock
        self._files = {file.path: file for file in manifest.files}

    def has(self, path: str) -> bool:
        return path in self._files

    def read_file(self, path: str) -> bytes:
        """One small file. Raises NotServable if the model has no such file, CorruptObject if it is damaged."""
        entry = self._entry(path)
        with self._reporting(path):
            return b"".join(read_chunks(self._chunks, self._tree(entry)))

    def config(self) -> dict[str, Any]:
        """config.json. Raises NotServable if the model has none."""
        try:
            value = json.loads(self.read_file("config.json"))
        except (ValueError, RecursionError) as error:
            raise MalformedFile(f"'config.json' is not JSON: {error}", file="config.json") from error
        if not isinstance(value, dict):
            raise MalformedFile("'config.json' is JSON, but not an object", file="config.json")
        return value

    def copy_file(self, path: str, target: Path) -> None:
        """Put a copy at `target`, whole or not at all, for a process that does not know the store."""
        entry = self._entry(path)
        with self._reporting(path), atomic_writer(target) as file:
            for data in read_chunks(self._chunks, self._tree(entry)):
                file.write(data)

    def weights(self) -> WeightReader:
        """All tensors of all weight files. Nothing is swept from the store until the reader is closed or forgotten.

        Raises CorruptObject naming the file; MalformedFile if two files hold tensors of one name.
        """
        reader = WeightReader(str(self.manifest.name), share(self._lock))
        try:
            for entry in self.manifest.files:
                if entry.path.endswith(".safetensors"):
                    with self._reporting(entry.path):
                        reader.add(_ChunkedFile(entry.path, self._chunks, self._tree(entry), reader.threads))
        except BaseException:
            reader.close()
            raise
        return reader

    def _entry(self, path: str) -> FileEntry:
        if path not in self._files:
            raise NotServable(f"model {str(self.manifest.name)!r} has no file {path!r}")
        return self._files[path]

    def _tree(self, entry: FileEntry) -> Tree:
        return read_entry_tree(self._trees, entry)

    @contextmanager
    def _reporting(self, path: str) -> Iterator[None]:
        with _naming(str(self.manifest.name), path):
            yield


def read_entry_tree(trees: Objects, entry: FileEntry) -> Tree:
    """The tree of one file, of the length its manifest states. Raises BadObject."""
    tree = read_tree(trees, entry.tree)
    if tree.num_bytes != entry.num_bytes:
        raise BadObject("altered", f"its chunks add up to {tree.num_bytes} bytes instead of {entry.num_bytes}")
    return tree


class ByteFile(Protocol):
    """A file that is read by offset."""

    @property
    def path(self) -> str: ...
    @property
    def num_bytes(self) -> int: ...
    def read_at(self, offset: int, num_bytes: int) -> bytes: ...
    def read_into(self, offset: int, target: memoryview) -> None: ...


class PlainFile:
    """A weight file outside the store, for reading what was just written. Nothing is checked but its header."""

    def __init__(self, path: Path) -> None:
        self._file = path
        self.path = path.name
        self.num_bytes = path.stat().st_size

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        with self._file.open("rb") as file:
            file.seek(offset)
            return file.read(num_bytes)

    def read_into(self, offset: int, target: memoryview) -> None:
        with self._file.open("rb") as file:
            file.seek(offset)
            if file.readinto(target) != len(target):
                raise BadObject("truncated", f"it ends before byte {offset + len(target)}")


class WeightReader:
    """A `hal.driver.WeightSource` over the chunk store.

    Each chunk is checked against its SHA-256 the first time a byte of it is read. Reading in file order reads each
    chunk once, some of them ahead; a dozen chunks are kept. For one thread at a time. Close it when all is read.
    """

    def __init__(self, model: str, lock: StoreLock) -> None:
        self._model = model
        self._lock = lock
        self.threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="weights")
        """They read for it; each ends with it."""
        self._places: dict[str, tuple[ByteFile, TensorPlace]] = {}
        self._packed: dict[str, PackedPlace] = {}

    def add(self, file: ByteFile) -> None:
        header = read_header(file.path, file.num_bytes, file.read_at)
        for place in header.tensors:
            if place.name in self._places:
                raise MalformedFile(f"tensor {place.name!r} is in two files of model {self._model!r}", file=file.path)
            self._places[place.name] = (file, place)
        self._packed = find_packed({name: place for name, (_, place) in self._places.items()})

    def names(self) -> Iterable[str]:
        """In the order of the files and of the bytes in them, which is the fast order to read."""
        matrices = {packed.numbers.name: packed.name for packed in self._packed.values()}
        scales = {packed.scales.name for packed in self._packed.values()}
        return [matrices.get(name, name) for name in self._places if name not in scales]

    def read(self, name: str) -> Tensor | QuantTensor:
        """Raises MalformedFile (no such tensor), NotServable (its dtype), CorruptObject (naming file and model)."""
        if name in self._packed:
            packed = self._packed[name]
            return unpack(packed, self._bytes(packed.numbers.name), self._bytes(packed.scales.name))
        if name not in self._places:
            raise MalformedFile(f"model {self._model!r} has no tensor {name!r}")
        place = self._places[name][1]
        if place.dtype not in _NUMPY:
            raise NotServable(
                f"tensor {name!r} of model {self._model!r} is {place.dtype}; only {', '.join(_NUMPY)} can be served"
            )
        dtype, numpy_dtype = _NUMPY[place.dtype]
        values = self._bytes(name).view(numpy_dtype).reshape(place.shape)
        values.flags.writeable = False
        return Tensor(dtype, values)

    def close(self) -> None:
        """Let the store be swept again. Reading afterwards is an error of ours."""
        self._places.clear()
        self._packed.clear()
        self.threads.shutdown(cancel_futures=True)
        self._lock.close()

    def _bytes(self, stored: str) -> NDArray[np.uint8]:
        """All bytes of one tensor as it is stored."""
        file, place = self._places[stored]
        data = np.empty(place.num_bytes, dtype=np.uint8)
        with _naming(self._model, file.path):
            file.read_into(place.start, data.data)
        return data


class _ChunkedFile:
    """Bytes of one stored file, by offset."""

    def __init__(self, path: str, objects: Objects, tree: Tree, threads: Executor) -> None:
        self.path = path
        self.num_bytes = tree.num_bytes
        self._objects = objects
        self._chunks = tree.chunks
        self._starts = list(itertools.accumulate((chunk.num_bytes for chunk in tree.chunks), initial=0))
        self._checked: set[int] = set()
        self._ahead = ReadAhead(objects, tree.chunks, threads)
        self._last = 0
        """The chunk where the last reading ended."""

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        target = bytearray(max(0, min(num_bytes, self.num_bytes - offset)))
        self.read_into(offset, memoryview(target))
        return bytes(target)

    def read_into(self, offset: int, target: memoryview) -> None:
        """Fill `target` from `offset` on. Raises BadObject."""
        if not len(target):
            return
        done = 0
        i = bisect.bisect_right(self._starts, offset) - 1
        last = bisect.bisect_left(self._starts, offset + len(target)) - 1
        in_order = last > 0 and 0 <= i - self._last <= AHEAD
        until = len(self._chunks) if in_order else last + 1
        while done < len(target):
            at = offset + done - self._starts[i]
            count = min(self._chunks[i].num_bytes - at, len(target) - done)
            self._read_from_chunk(i, at, target[done : done + count], until)
            done += count
            i += 1
        self._last = last

    def _read_from_chunk(self, i: int, at: int, target: memoryview, until: int) -> None:
        """`until`: the chunk that is not needed any more, as far as one can know."""
        if i in self._checked and not self._ahead.has(i):
            self._objects.read_part(self._chunks[i].digest, at, target)
            return
        self._ahead.fetch(
            [each for each in range(i, min(until, i + AHEAD + 1)) if each not in self._checked or each == i]
        )
        chunk = self._ahead.take(i)
        self._checked.add(i)
        # By NumPy, which lets others run while it copies.
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(chunk[at : at + len(target)], np.uint8))


@contextmanager
def _naming(model: str, path: str) -> Iterator[None]:
    """Say of which model and file an object was."""
    try:
        yield
    except BadObject as error:
        raise CorruptObject(
            f"file {path!r} of model {model!r} is {error.problem}: {error.message}", file=path, model=model
        ) from error
