"""Models that hear and speak, asked by OpenAI's own client; the models are made here, and know five loudnesses."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

pytest.importorskip("onnxruntime", reason="the extra is not installed: pip install 'thaloom[onnx]'")
from tests.contract.onnx.test_onnx_served import Site, pixels, site
from tests.onnx_models import FRAME, LETTERS, image_classifier, listener, speaker

RATE = 16_000
HEARING = {"task": "transcription", "sampling_rate": RATE, "vocabulary": LETTERS, "blank": "<pad>"}
SPEAKING = {"task": "speech", "sampling_rate": RATE, "symbols": {"a": 1, "b": 2, "c": 3, " ": 4}, "between": 0}


def samples_of(text: str, frames: int = 3) -> np.ndarray:
    """Each letter so many frames long, with one of silence behind."""
    levels: list[float] = []
    for letter in text:
        level = LETTERS.index("|" if letter == " " else letter) * 0.2
        levels += [level] * frames + [0.0]
    sign = np.where(np.arange(FRAME) % 2, -1.0, 1.0)
    return np.concatenate([level * sign for level in levels])


def wav(samples: np.ndarray, rate: int = RATE, channels: int = 1, width: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, width, rate, 0, "NONE", ""))
        whole = np.round(np.repeat(samples[:, None], channels, axis=1) * (2 ** (8 * width - 1) - 1)).astype("<i4")
        raw = whole.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :width]
        writer.writeframes(raw.tobytes())
    return file.getvalue()


def folder_of(path: Path, files: dict[str, Any]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_text(json.dumps(content))
    return path


def client(door: Site) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{str(door.http.base_url).rstrip(chr(47))}/v1", api_key="none", max_retries=0, timeout=20.0
    )


def test_speech_is_written_down_with_its_words_times(tmp_path: Path) -> None:
    async def run() -> None:
        model = listener(tmp_path / "ear.onnx", {"thaloom": json.dumps(HEARING)})
        async with site(tmp_path, model) as door, client(door) as asking:
            sound = wav(samples_of("ab bb ca"))
            told = await asking.audio.transcriptions.create(model="net", file=("s.wav", sound))
            assert told.text == "ab bb ca"
            text = await asking.audio.transcriptions.create(model="net", file=("s.wav", sound), response_format="text")
            assert text == "ab bb ca\n"
            whole = await asking.audio.transcriptions.create(
                model="net", file=("s.wav", sound), response_format="verbose_json", timestamp_granularities=["word"]
            )
            assert whole.duration == pytest.approx(32 * FRAME / RATE)
            assert [word.word for word in whole.words or ()] == ["ab", "bb", "ca"]
            first, second, _ = whole.words or ()
            assert (first.start, first.end) == (0.0, pytest.approx(7 * FRAME / RATE))
            assert second.start == pytest.approx(12 * FRAME / RATE)
            for channels, width in ((2, 2), (1, 3), (1, 4)):
                other = wav(samples_of("abc"), channels=channels, width=width)
                again = await asking.audio.transcriptions.create(model="net", file=("s.wav", other))
                assert again.text == "abc"

    asyncio.run(run())


def test_a_model_as_hugging_face_keeps_it_hears_without_a_word_of_ours(tmp_path: Path) -> None:
    files = {
        "config.json": {"architectures": ["Wav2Vec2ForCTC"], "model_type": "wav2vec2", "pad_token_id": 0},
        "vocab.json": {letter: number for number, letter in enumerate(LETTERS)},
        "preprocessor_config.json": {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": RATE, "do_normalize": False,
        },
    }  # fmt: skip
    folder = folder_of(tmp_path / "ear", files)
    listener(folder / "model.onnx")

    async def run() -> None:
        async with site(tmp_path, folder) as door, client(door) as asking:
            told = await asking.audio.transcriptions.create(model="net", file=("s.wav", wav(samples_of("cab"))))
            assert told.text == "cab"

    asyncio.run(run())


def test_long_sound_is_heard_in_windows_and_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    text = "".join(np.random.default_rng(5).choice(list("abc "), 1200)).strip()
    text = " ".join(text.split())
    sound = samples_of(text)
    assert len(sound) / RATE > 80

    async def run() -> None:
        model = listener(tmp_path / "ear.onnx", {"thaloom": json.dumps(HEARING)})
        async with site(tmp_path, model) as door, client(door) as asking:
            told = await asking.audio.transcriptions.create(model="net", file=("s.wav", wav(sound)))
            assert told.text == text

    asyncio.run(run())


def test_a_text_is_spoken_and_what_the_model_cannot_read_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        model = speaker(tmp_path / "voice.onnx", {"thaloom": json.dumps(SPEAKING)})
        async with site(tmp_path, model) as door, client(door) as asking:
            spoken = await asking.audio.speech.create(model="net", voice="alloy", input="ab!", response_format="wav")
            with wave.open(io.BytesIO(spoken.content)) as read:
                assert (read.getframerate(), read.getnchannels(), read.getsampwidth()) == (RATE, 1, 2)
                assert read.getnframes() == 5 * 2000  # a, b, and nothing before, between and after
            loud = np.abs(np.frombuffer(spoken.content[44:], "<i2") / 32767).reshape(5, 2000).mean(axis=1)
            np.testing.assert_allclose(loud, [0, 0.2, 0, 0.4, 0], atol=1e-4)
            assert "'!'" in spoken.response.headers["x-thaloom-degraded"]
            raw = await asking.audio.speech.create(model="net", voice="alloy", input="ab", response_format="pcm")
            assert raw.content == spoken.content[44:]
            assert raw.response.headers["x-thaloom-sample-rate"] == str(RATE)
            with pytest.raises(openai.BadRequestError, match="response_format"):
                await asking.audio.speech.create(model="net", voice="alloy", input="ab", response_format="mp3")
            with pytest.raises(openai.BadRequestError, match="no letter"):
                await asking.audio.speech.create(model="net", voice="alloy", input="123", response_format="wav")
            with pytest.raises(openai.BadRequestError, match="speed"):
                await asking.audio.speech.create(model="net", voice="a", input="a", response_format="wav", speed=2.0)
            with pytest.raises(openai.UnprocessableEntityError, match="not made for this"):
                await asking.audio.transcriptions.create(model="net", file=("s.wav", wav(samples_of("a"))))

    asyncio.run(run())


def test_what_cannot_be_heard_is_refused_by_name(tmp_path: Path) -> None:
    async def run() -> None:
        model = listener(tmp_path / "ear.onnx", {"thaloom": json.dumps(HEARING)})
        async with site(tmp_path, model) as door, client(door) as asking:
            create = asking.audio.transcriptions.create
            sound = wav(samples_of("a"))
            for data, why in (
                (b"ID3\x04" + bytes(64), "MP3"),
                (b"fLaC" + bytes(64), "FLAC"),
                (b"", "of no kind"),
                (sound[:20], "no sound|cut off"),
                (sound[:44], "no sound"),
                (sound[:20] + struct.pack("<H", 7) + sound[22:], "kind 7"),
            ):
                with pytest.raises(openai.BadRequestError, match=why):
                    await create(model="net", file=("s.wav", data))
            more: list[dict[str, Any]] = [{"stream": True}, {"temperature": 0.5}, {"response_format": "srt"}]
            for options in [*more, {"timestamp_granularities": ["word"]}, {"include": ["logprobs"]}]:
                with pytest.raises(openai.BadRequestError, match=next(iter(options))):
                    await create(model="net", file=("s.wav", sound), **options)
            with pytest.raises(openai.NotFoundError):
                await create(model="none", file=("s.wav", sound))
            refused = await door.http.post("/v1/audio/transcriptions", data={"model": "net"})
            assert refused.status_code == 400
            too_long = await door.http.post(
                "/v1/audio/transcriptions", data={"model": "net"}, files={"file": ("s.wav", bytes(16 * 1024 * 1024))}
            )
            assert too_long.status_code == 413

    asyncio.run(run())


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ("{", "metadata"),
        (json.dumps(HEARING | {"vocabluary": []}), "vocabluary"),
        (json.dumps(HEARING | {"blank": "?"}), "blank"),
        (json.dumps(HEARING | {"input": "sound"}), "inputs"),
        (json.dumps(HEARING | {"output": "text"}), "no output 'text'"),
        (json.dumps(SPEAKING), "inputs"),
    ],
)
def test_a_model_that_says_something_wrong_of_itself_is_not_served(job: str, why: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, listener(tmp_path / "ear.onnx", {"thaloom": job})) as door:
            assert door.ended is not None
            assert why in str(door.ended)

    asyncio.run(run())


def test_a_model_with_a_talent_is_still_one_of_tensors_and_others_have_none(tmp_path: Path) -> None:
    async def run() -> None:
        async with site(tmp_path, image_classifier(tmp_path / "net.onnx")) as door, client(door) as asking:
            with pytest.raises(openai.UnprocessableEntityError, match="not made for this"):
                await asking.audio.speech.create(model="net", voice="a", input="a", response_format="wav")
            tensor = {"name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": pixels(1).ravel().tolist()}
            assert (await door.infer({"inputs": [tensor]})).status_code == 200

    asyncio.run(run())
