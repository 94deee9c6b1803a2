"""Messages of `/v1/audio/*` as they travel. Source: OpenAI's API reference, `audio`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from thaloom.edge.wire.common import Answer, Ask
from thaloom.edge.wire.openai import ModelName

MAX_INPUT_CHARS = 4096


class SpeechRequest(Ask):
    model: ModelName
    input: str = Field(min_length=1, max_length=MAX_INPUT_CHARS)
    voice: str | None = Field(default=None, max_length=256)
    """One of the model's; null: its first."""
    response_format: Literal["wav", "pcm"] | None = None
    """Default: wav. pcm: 16 bits, little-endian, at the model's own rate, which `x-thaloom-sample-rate` tells. Others
    (mp3, opus, aac, flac) need an encoder, and are refused."""
    speed: Annotated[float, Field(ge=1, le=1)] | None = None
    """Only as fast as the model speaks."""
    stream_format: Literal["audio"] | None = None


UNSERVED_IN_SPEECH: dict[str, tuple[Any, ...]] = {
    # name: the values that ask for nothing (null always does)
    "instructions": ("",),
}


class TranscriptionRequest(Ask):
    """The fields of the form beside `file`: words, as a form has nothing else."""

    model_config = ConfigDict(extra="ignore", strict=False, frozen=True, allow_inf_nan=False)

    model: ModelName
    response_format: Literal["json", "text", "verbose_json"] | None = None
    language: str | None = Field(default=None, max_length=64)
    """A hint, which a model of one language has no use for."""
    prompt: str | None = None
    """A hint, which a model that hears letters has no use for."""
    temperature: Annotated[float, Field(ge=0, le=0)] | None = None
    """What is likeliest is written down: there is nothing to draw."""
    stream: Literal["false", "False", "0", ""] | None = None


UNSERVED_IN_TRANSCRIPTION: dict[str, tuple[Any, ...]] = {
    "include[]": (),
    "include": (),
    "chunking_strategy": ("auto",),
    "known_speaker_names[]": (),
    "known_speaker_references[]": (),
}
GRANULARITIES = ("word", "segment")


class DurationUsage(Answer):
    type: Literal["duration"]
    seconds: float


class Transcription(Answer):
    text: str
    usage: DurationUsage


class TranscriptionWord(Answer):
    word: str
    start: float
    end: float


class VerboseTranscription(Answer):
    task: Literal["transcribe"]
    language: str
    """Empty: a model of letters does not say."""
    duration: float
    text: str
    words: list[TranscriptionWord] | None = None
    """With `timestamp_granularities[]=word`."""
    usage: DurationUsage
