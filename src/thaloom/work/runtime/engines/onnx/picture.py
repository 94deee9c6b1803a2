"""Text to image by a model that does all of it in one pass: words in, pixels out; and pixels as PNG.

Sources: PNG, third edition (W3C), 5 "Datastream structure", 9.2 "Filter types".
"""

from __future__ import annotations

import secrets
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from thaloom.base.errors import BadParameter, NotServable
from thaloom.work.runtime.engines.onnx.arrays import Array
from thaloom.work.runtime.engines.onnx.session import Session
from thaloom.work.runtime.engines.onnx.tasks import Painting
from thaloom.work.runtime.types import PaintRequest

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Painted:
    images: tuple[bytes, ...]
    """PNG."""
    width: int
    height: int


class Brush:
    """Belongs to whatever thread runs the session."""

    def __init__(self, session: Session, job: Painting, tokenizer: bytes | None) -> None:
        """Raises NotServable if the model does not have what `job` names."""
        self._session = session
        self._job = job
        given = {tensor.name: tensor for tensor in session.inputs}
        texts = {job.input: "INT64"} | ({job.mask: "INT64"} if job.mask is not None else {})
        wanted = texts | dict.fromkeys([*job.constants, *([job.noise] if job.noise is not None else [])], "FP32")
        has = {name: tensor.dtype for name, tensor in given.items()}
        if has != wanted:
            raise NotServable(f"the model's inputs are {has}, its task names {wanted}", param="model")
        if job.output not in {tensor.name for tensor in session.outputs}:
            raise NotServable(f"the model has no output {job.output!r}", param="model")
        shape = None if job.noise is None else given[job.noise].shape
        if job.noise is not None and (shape is None or -1 in shape[1:]):
            raise NotServable(f"the shape of {job.noise!r} is open: {shape}", param="model")
        self._noise_shape = None if shape is None else (1, *shape[1:])
        if tokenizer is None:
            raise NotServable(f"a model of this task needs a {TOKENIZER} beside it", param="model")
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_buffer(tokenizer)
        except Exception as error:  # the library raises nothing more precise
            raise NotServable(f"{TOKENIZER} of the model: {error}", param="model") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def paint(self, request: PaintRequest) -> Painted:
        """Raises BadParameter for a text that is too long, or a size that the model does not make."""
        tokens, mask = self._tokens(request.prompt)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        made = [self._one(tokens, mask, seed + number) for number in range(request.count)]
        height, width = made[0].shape[:2]
        if request.size is not None and request.size != (width, height):
            raise BadParameter(f"size: the model makes {width}x{height}", param="size")
        return Painted(images=tuple(png(pixels) for pixels in made), width=width, height=height)

    def _tokens(self, text: str) -> tuple[list[int], list[int]]:
        tokens = self._tokenizer.encode(text).ids
        if len(tokens) > self._job.length:
            raise BadParameter(
                f"prompt: it has {len(tokens)} tokens, the model reads {self._job.length}", param="prompt"
            )
        rest = self._job.length - len(tokens)
        return tokens + [self._job.pad] * rest, [1] * len(tokens) + [0] * rest

    def _one(self, tokens: list[int], mask: list[int], seed: int) -> NDArray[np.uint8]:
        inputs: dict[str, Array] = {self._job.input: np.array([tokens], np.int64)}
        if self._job.mask is not None:
            inputs[self._job.mask] = np.array([mask], np.int64)
        if self._job.noise is not None and self._noise_shape is not None:
            draw = np.random.default_rng(seed % 2**64)
            inputs[self._job.noise] = draw.standard_normal(self._noise_shape, np.float32)
        for name, values in self._job.constants.items():
            inputs[name] = np.array(values, np.float32)
        (image,) = self._session.run(inputs, [self._job.output])
        return self._pixels(image)

    def _pixels(self, image: Array) -> NDArray[np.uint8]:
        """(height, width, 3)."""
        if image.ndim != 4 or image.shape[0] != 1 or 3 not in (image.shape[1], image.shape[3]) or not image.size:
            raise NotServable(f"the model's image has the shape {list(image.shape)}")
        pixels = image[0] if image.shape[3] == 3 else image[0].transpose(1, 2, 0)
        if pixels.dtype == np.uint8:
            return np.ascontiguousarray(pixels)
        if pixels.dtype.kind != "f" or not np.isfinite(pixels).all():
            raise NotServable("the model's image has pixels that are no numbers")
        low, high = self._job.range
        scaled = (pixels.astype(np.float64) - low) / (high - low)
        return np.asarray((np.clip(scaled, 0.0, 1.0) * 255.0).round(), np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """`pixels`: (height, width, 3)."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)  # 0: no filter
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(name, data) for name, data in parts)


def _part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
