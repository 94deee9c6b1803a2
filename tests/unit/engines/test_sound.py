"""Sound from one rate to another, and letters out of frames."""

from __future__ import annotations

import numpy as np
import pytest

from thaloom.base.errors import BadParameter

pytest.importorskip("onnxruntime", reason="the extra is not installed: pip install 'thaloom[onnx]'")
from thaloom.work.runtime.engines.onnx.hearing import spelled
from thaloom.work.runtime.engines.onnx.sound import Sound, read_wav, resample, write_pcm
from thaloom.work.runtime.engines.onnx.tasks import Hearing, Speaking, job_of


def tone(frequency: float, rate: int, seconds: float = 0.5) -> Sound:
    times = np.arange(int(rate * seconds)) / rate
    return Sound(samples=np.sin(2 * np.pi * frequency * times).astype(np.float32), rate=rate)


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000), (22_050, 24_000)]
)
def test_a_tone_stays_what_it_is(from_rate: int, to_rate: int) -> None:
    made = resample(tone(1000.0, from_rate), to_rate)
    wanted = tone(1000.0, to_rate).samples
    assert abs(len(made) - len(wanted)) <= 1
    inside = slice(200, min(len(made), len(wanted)) - 200)
    np.testing.assert_allclose(made[inside], wanted[inside], atol=2e-3)


def test_what_the_lower_rate_cannot_tell_is_gone_and_not_folded_back() -> None:
    made = resample(tone(11_000.0, 44_100), 16_000)
    assert np.abs(made[200:-200]).max() < 2e-3


def test_the_same_rate_changes_nothing() -> None:
    sound = tone(440.0, 16_000)
    assert resample(sound, 16_000) is sound.samples


def test_loud_sound_is_cut_and_not_wrapped() -> None:
    assert np.frombuffer(write_pcm(np.array([2.0, -2.0, 0.5], np.float32)), "<i2").tolist() == [32767, -32767, 16384]


def test_floats_are_read_and_those_that_are_no_numbers_are_refused() -> None:
    head = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x03\0\x01\0\x40\x1f\0\0\0\x7d\0\0\x04\0\x20\0data\x08\0\0\0"
    np.testing.assert_array_equal(read_wav(head + np.array([0.5, -1], "<f4").tobytes()).samples, [0.5, -1])
    with pytest.raises(BadParameter, match="no numbers"):
        read_wav(head + np.array([0.5, np.nan], "<f4").tobytes())


def test_equal_letters_count_once_but_not_across_a_blank() -> None:
    job = Hearing(sampling_rate=16_000, vocabulary=["_", "a", "b", "|", "<unk>"], blank="_")
    letters = np.array([0, 1, 1, 0, 1, 4, 3, 3, 0, 2, 2])
    words = spelled(letters, np.arange(len(letters)) * 0.1, job)
    assert [(word.text, round(word.begin_s, 1), round(word.end_s, 1)) for word in words] == [
        ("aa", 0.1, 0.5), ("b", 0.9, 1.1),
    ]  # fmt: skip
    assert spelled(np.array([], np.int64), np.array([]), job) == ()


VITS = {
    "config.json": b'{"model_type": "vits", "sampling_rate": 16000}',
    "vocab.json": b'{"_": 0, "a": 1}',
    "tokenizer_config.json": b'{"phonemize": false, "add_blank": true, "normalize": true}',
}


def test_a_vits_that_reads_letters_speaks_and_one_that_reads_sounds_does_not() -> None:
    job = job_of({}, VITS.get)
    assert job == Speaking(
        sampling_rate=16_000, symbols={"_": 0, "a": 1}, between=0, lower_case=True, input="input_ids",
        mask="attention_mask", output="waveform",
    )  # fmt: skip
    assert job_of({}, (VITS | {"tokenizer_config.json": b'{"phonemize": true}'}).get) is None
    assert job_of({}, (VITS | {"tokenizer_config.json": b"{}"}).get) is None
    assert job_of({}, (VITS | {"vocab.json": b"[]"}).get) is None
    assert job_of({}, (VITS | {"config.json": b"{"}).get) is None
    assert job_of({}, {}.get) is None


def test_a_file_beside_the_model_says_what_it_is_for() -> None:
    told = b'{"task": "speech", "sampling_rate": 8000, "symbols": {"a": 1}}'
    assert job_of({}, {"thaloom.json": told}.get) == Speaking(sampling_rate=8000, symbols={"a": 1})
