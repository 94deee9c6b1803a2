"""Sound as bytes of a WAV file and as samples; from one sampling rate to another. Pure.

Sources: "Multimedia Programming Interface and Data Specifications 1.0", Microsoft and IBM, 1991 (RIFF, WAVE);
mmreg.h (WAVE_FORMAT_EXTENSIBLE); J. O. Smith, "Digital Audio Resampling" (windowed sinc).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thaloom.base.errors import BadParameter

Samples = NDArray[np.float32]
"""One channel, (num_samples,), mostly within -1 .. 1."""
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_OTHERS = {
    b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"\xff\xfb": "MP3", b"\xff\xf3": "MP3", b"\xff\xf2": "MP3",
    b"\x1aE\xdf\xa3": "WebM", b"FORM": "AIFF",
}  # fmt: skip
ZERO_CROSSINGS = 16
"""Of the sinc on each side: what is folded back into hearing is 60 dB below what made it."""
_AT_ONCE = 8192
"""Samples that are computed together: bounds the memory of their taps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    samples: Samples
    rate: int
    """Samples a second."""

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.rate


def read_wav(data: bytes) -> Sound:
    """Several channels are made one: their mean. Raises BadParameter naming what it is instead, or what is wrong."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        other = next((name for magic, name in _OTHERS.items() if data.startswith(magic)), None)
        other = other or ("MP4" if data[4:8] == b"ftyp" else "of no kind known here")
        raise _refusal(f"it is {other}; WAV is read (PCM or float, any rate)")
    kind = channels = rate = bits = 0
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8
        if name == b"fmt ":
            if size < 16 or at + size > len(data):
                raise _refusal("its format is cut off")
            kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", data, at)
            if kind == _EXTENSIBLE and size >= 26:
                kind = int.from_bytes(data[at + 24 : at + 26], "little")
        elif name == b"data":
            if not 1 <= channels <= 32 or not 1000 <= rate <= 384_000:
                raise _refusal(f"{channels} channels of {rate} samples a second are not read")
            return Sound(samples=_samples(data[at : at + size], kind, bits, channels), rate=rate)  # or what there is
        at += size + size % 2
    raise _refusal("there is no sound in it")


def write_pcm(samples: Samples) -> bytes:
    """16 bits, little-endian; what is beyond -1 .. 1 is cut."""
    return bytes((np.clip(samples, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes())


def resample(sound: Sound, rate: int) -> Samples:
    """The same sound with `rate` samples a second: nothing above half of the lower rate is left in it."""
    if rate == sound.rate or not len(sound.samples):
        return sound.samples
    step = sound.rate / rate
    cutoff = min(1.0, 1.0 / step)
    reach = math.ceil(ZERO_CROSSINGS / cutoff)
    padded = np.pad(sound.samples.astype(np.float64), reach)
    offsets = np.arange(-reach + 1, reach + 1)
    made = np.empty(round(len(sound.samples) / step), np.float32)
    for begin in range(0, len(made), _AT_ONCE):
        places = np.arange(begin, min(begin + _AT_ONCE, len(made))) * step
        whole = np.floor(places).astype(np.int64)
        distances = offsets[None, :] - (places - whole)[:, None]
        window = np.cos(np.clip(distances / reach, -1.0, 1.0) * (np.pi / 2)) ** 2
        taps = cutoff * np.sinc(cutoff * distances) * window
        near = np.minimum(whole[:, None] + offsets[None, :] + reach, len(padded) - 1)
        made[begin : begin + len(places)] = (padded[near] * taps).sum(axis=1)
    return made


def _samples(data: bytes, kind: int, bits: int, channels: int) -> Samples:
    width = bits // 8
    if (kind, bits) not in {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}:
        raise _refusal(f"samples of kind {kind} with {bits} bits are not read (PCM of 8 to 32, float of 32 or 64 bits)")
    data = data[: len(data) // (width * channels) * width * channels]
    if kind == _FLOAT:
        values = np.frombuffer(data, f"<f{width}").astype(np.float64)
        if not np.isfinite(values).all():
            raise _refusal("it has samples that are no numbers")
    elif bits == 8:
        values = (np.frombuffer(data, np.uint8).astype(np.float64) - 128.0) / 128.0
    elif bits == 24:
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int32)
        whole = parts[:, 0] | parts[:, 1] << 8 | parts[:, 2] << 16
        values = (whole - ((whole & 0x800000) << 1)) / float(1 << 23)
    else:
        values = np.frombuffer(data, f"<i{width}").astype(np.float64) / float(1 << (bits - 1))
    mean: Samples = values.reshape(-1, channels).mean(axis=1).astype(np.float32)
    return mean


def _refusal(why: str) -> BadParameter:
    return BadParameter(f"file: {why}", param="file")
