"""What the bytes of each block stand for: the same, to the bit, as in the format's own Python package."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from thaloom.kernel.models.gguf_blocks import DECODE


@pytest.mark.parametrize("name", DECODE)
def test_any_bytes_decode_to_what_the_format_says(name: str) -> None:
    kind = GGMLQuantizationType[name]
    elements, num_bytes = GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(0).integers(0, 256, (3000, num_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):  # any bytes: scales that are not finite are among them
        values, expected = DECODE[name](blocks), quants.dequantize(blocks, kind)
    assert values.shape == (3000, elements)
    assert values.dtype == np.float32
    assert np.array_equal(values, expected, equal_nan=True)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_what_the_package_writes_comes_back_close(name: str) -> None:
    values = np.random.default_rng(1).standard_normal((8, 64), dtype=np.float32)
    data = quants.quantize(values, GGMLQuantizationType[name])
    num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    decoded = DECODE[name](data.reshape(-1, num_bytes)).reshape(8, 64)
    assert np.abs(decoded - values).max() < {"8": 0.05, "5": 0.2, "4": 0.5}[name[1]]
