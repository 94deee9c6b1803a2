"""A model that makes images, asked by OpenAI's own client; the PNG is read by hand."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

pytest.importorskip("onnxruntime", reason="the extra is not installed: pip install 'thaloom[onnx]'")
from tests.contract.onnx.test_onnx_audio import client
from tests.contract.onnx.test_onnx_served import site
from tests.models import make_tokenizer
from tests.onnx_models import painter

PAINTING = {"task": "image", "input": "tokens", "length": 8, "pad": 1, "noise": "noise", "output": "image"}


def model(folder: Path, job: dict[str, Any], *, tokenizer: bool = True) -> Path:
    folder.mkdir()
    if tokenizer:
        make_tokenizer().save(str(folder / "tokenizer.json"))
    painter(folder / "model.onnx", {"thaloom": json.dumps(job)})
    return folder


def pixels_of(data: bytes) -> np.ndarray:
    """(height, width, 3). Checks every part's sum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", data, at + 8 + size)[0] == zlib.crc32(name + body)
        parts[name] = body
        at += 12 + size
    width, height, depth, colour = struct.unpack_from(">IIBB", parts[b"IHDR"])
    assert (depth, colour, list(parts)[-1]) == (8, 2, b"IEND")
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def expected(prompt: str, seed: int) -> np.ndarray:
    tokens = make_tokenizer().encode(prompt).ids
    tokens += [1] * (8 - len(tokens))
    noise = np.random.default_rng(seed).standard_normal((3, 4, 6), np.float32)
    colour = np.array([0.01 * np.mean(tokens), 0, 0])[:, None, None]
    return (np.tanh(0.1 * noise + colour).transpose(1, 2, 0) + 1) / 2 * 255


def test_a_text_becomes_images_that_its_seed_decides(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, model(tmp_path / "brush", PAINTING)) as door, client(door) as asking:
            ask = asking.images.generate
            told = await ask(model="net", prompt="the inner", n=2, size="6x4", extra_body={"seed": 7})
            assert told.data is not None
            found = [pixels_of(base64.b64decode(one.b64_json or "")) for one in told.data]
            for number, pixels in enumerate(found):
                np.testing.assert_allclose(pixels, expected("the inner", 7 + number), atol=0.51)
            again = await ask(model="net", prompt="the inner", size="auto", extra_body={"seed": 8})
            assert again.data is not None
            assert again.data[0].b64_json == told.data[1].b64_json
            free = [await ask(model="net", prompt="the inner") for _ in range(2)]
            assert free[0].data != free[1].data
            refused: list[dict[str, Any]] = [
                {"size": "8x8"}, {"response_format": "url"}, {"output_format": "webp"}, {"n": 11}, {"quality": "hd"},
                {"background": "transparent"},
            ]  # fmt: skip
            for options in refused:
                with pytest.raises(openai.BadRequestError, match=next(iter(options))):
                    await ask(model="net", prompt="the", **options)
            with pytest.raises(openai.BadRequestError, match="the model reads 8"):
                await ask(model="net", prompt="a long text " * 20)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"input": "words"}, "inputs"),
        ({"noise": None}, "inputs"),
        ({"output": "picture"}, "no output 'picture'"),
        ({"range": [1, 1]}, "range"),
        ({"length": 0}, "length"),
    ],
)
def test_a_model_that_says_something_wrong_of_itself_is_not_served(
    change: dict[str, Any], why: str, tmp_path: Path
) -> None:
    async def run() -> None:
        async with site(tmp_path, model(tmp_path / "brush", PAINTING | change)) as door:
            assert why in str(door.ended)

    asyncio.run(run())


def test_without_its_tokenizer_it_is_not_served(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, model(tmp_path / "brush", PAINTING, tokenizer=False)) as door:
            assert "tokenizer.json" in str(door.ended)

    asyncio.run(run())
