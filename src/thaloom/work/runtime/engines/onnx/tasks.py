"""What a model of tensors is for, if its files say so: to hear speech, to speak, or to make images.

They say so in one of three ways: an entry `thaloom` in the file's own metadata (`metadata_props`); a file
`thaloom.json` beside it; both hold one JSON object, `Hearing`, `Speaking` or `Painting` below. Or they are as Hugging
Face keeps a model of such a kind: `config.json`, `vocab.json` and `preprocessor_config.json` of a `*ForCTC` that hears
waveforms (wav2vec 2.0, HuBERT, WavLM ...), or `config.json`, `vocab.json` and `tokenizer_config.json` of a VITS that
reads letters (MMS-TTS).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from thaloom.base.errors import NotServable

KEY = "thaloom"
FILE = "thaloom.json"
Rate = Annotated[int, msgspec.Meta(ge=1000, le=384_000)]
J = TypeVar("J", bound=msgspec.Struct)
ReadFile = Callable[[str], bytes | None]
"""A small file of the model by its name; None: there is none."""


class Hearing(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="task", tag="transcription", forbid_unknown_fields=True
):
    """From sound to letters by CTC: FP32 samples [1, n] to FP32 scores [1, frames, len(vocabulary)]."""

    sampling_rate: Rate
    vocabulary: Annotated[list[str], msgspec.Meta(min_length=2)]
    """What each score is of."""
    blank: str
    """Of the vocabulary: what stands between two equal letters, and for nothing."""
    word_separator: str = "|"
    unspoken: tuple[str, ...] = ("<s>", "</s>", "<unk>", "<pad>", "[PAD]", "[UNK]")
    """Of the vocabulary: left out of texts."""
    normalize: bool = False
    """Whether sound is brought to mean 0 and variance 1 first."""
    input: str | None = None
    """None: the only one that takes FP32."""
    mask: str | None = None
    """An INT64 input [1, n] of ones."""
    output: str | None = None
    """None: the first."""


class Speaking(msgspec.Struct, frozen=True, kw_only=True, tag_field="task", tag="speech", forbid_unknown_fields=True):
    """From letters to sound: INT64 numbers [1, n] to FP32 samples, [1, m] or [1, 1, m]."""

    sampling_rate: Rate
    symbols: Annotated[dict[str, int], msgspec.Meta(min_length=1)]
    """The number of each letter. Letters it does not have are left out, which the answer says."""
    between: int | None = None
    """Stands before, between and after all others (VITS: `add_blank`)."""
    lower_case: bool = False
    input: str | None = None
    """None: the first."""
    mask: str | None = None
    """An INT64 input [1, n] of ones."""
    length: str | None = None
    """An INT64 input [1]: n."""
    constants: dict[str, list[float]] = msgspec.field(default_factory=dict)
    """Other FP32 inputs [len], which are always the same."""
    voice: str | None = None
    """An INT64 input [1]: a number of `voices`."""
    voices: dict[str, int] = msgspec.field(default_factory=dict)
    output: str | None = None


class Painting(msgspec.Struct, frozen=True, kw_only=True, tag_field="task", tag="image", forbid_unknown_fields=True):
    """From words to an image in one pass: INT64 tokens [1, length], of the `tokenizer.json` beside the model, to pixels
    [1, 3, height, width] or [1, height, width, 3], in UINT8 or floats of `range`."""

    input: str
    length: Annotated[int, msgspec.Meta(ge=1, le=65_536)]
    pad: int = 0
    """The token behind the text's own."""
    mask: str | None = None
    """An INT64 input [1, length]: 1 where there is text."""
    noise: str | None = None
    """An FP32 input of normal draws: what makes one image differ from another of the same words."""
    constants: dict[str, list[float]] = msgspec.field(default_factory=dict)
    """Other FP32 inputs [len], which are always the same."""
    output: str
    range: tuple[float, float] = (-1.0, 1.0)
    """Black and white."""


Job = Hearing | Speaking | Painting


def job_of(metadata: Mapping[str, str], read: ReadFile) -> Job | None:
    """Raises NotServable for a file that says something wrong."""
    if (told := metadata.get(KEY)) is not None:
        return _decoded(told.encode(), f"metadata {KEY!r}")
    if (data := read(FILE)) is not None:
        return _decoded(data, FILE)
    return _as_hugging_face(read)


def _decoded(data: bytes, where: str) -> Job:
    try:
        job: Job = msgspec.json.decode(data, type=Job)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotServable(f"{where} of the model: {error}", param="model") from error
    if isinstance(job, Hearing) and job.blank not in job.vocabulary:
        raise NotServable(f"{where} of the model: blank {job.blank!r} is not in the vocabulary", param="model")
    if isinstance(job, Speaking) and (job.voice is None) != (not job.voices):
        raise NotServable(f"{where} of the model: `voice` and `voices` go together", param="model")
    if isinstance(job, Painting) and job.range[0] >= job.range[1]:
        raise NotServable(f"{where} of the model: `range` is empty", param="model")
    return job


def _as_hugging_face(read: ReadFile) -> Job | None:
    config, letters = _object(read, "config.json"), _object(read, "vocab.json")
    if config is None or not letters or not all(isinstance(number, int) for number in letters.values()):
        return None
    words = _object(read, "tokenizer_config.json") or {}
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else ""
    if isinstance(name, str) and name.endswith("ForCTC"):
        return _hearing(config, letters, words, _object(read, "preprocessor_config.json"))
    if config.get("model_type") == "vits":
        return _speaking(config, letters, words)
    return None


def _hearing(
    config: Mapping[str, Any], letters: Mapping[str, int], words: Mapping[str, Any], sound: Mapping[str, Any] | None
) -> Hearing | None:
    """None without word of how sound is to be prepared, or where that is as something else than samples."""
    if sound is None or sound.get("feature_extractor_type") != "Wav2Vec2FeatureExtractor":
        return None
    vocabulary = [""] * (max(letters.values()) + 1)
    for letter, number in letters.items():
        if number >= 0:
            vocabulary[number] = letter
    number = config.get("pad_token_id", 0)
    if not isinstance(number, int) or not 0 <= number < len(vocabulary):
        return None
    facts = {
        "task": "transcription", "sampling_rate": sound.get("sampling_rate"), "vocabulary": vocabulary,
        "blank": vocabulary[number], "word_separator": words.get("word_delimiter_token") or "|",
        "normalize": sound.get("do_normalize", True), "mask": "attention_mask",
    }  # fmt: skip
    return _made(facts, Hearing)


def _speaking(config: Mapping[str, Any], letters: Mapping[str, int], words: Mapping[str, Any]) -> Speaking | None:
    """None for one that reads sounds (`phonemize`) or romanised text, which it needs other programs for.

    Source of the defaults: transformers, models/vits/tokenization_vits.py.
    """
    if words.get("phonemize", True) or words.get("is_uroman", False):
        return None
    facts = {
        "task": "speech", "sampling_rate": config.get("sampling_rate"), "symbols": dict(letters),
        "between": 0 if words.get("add_blank", True) else None, "lower_case": words.get("normalize", True),
        "input": "input_ids", "mask": "attention_mask", "output": "waveform",
    }  # fmt: skip
    return _made(facts, Speaking)


def _made(facts: Mapping[str, Any], kind: type[J]) -> J | None:
    try:
        return msgspec.convert(facts, kind)
    except msgspec.ValidationError:
        return None


def _object(read: ReadFile, name: str) -> dict[str, Any] | None:
    data = read(name)
    if data is None:
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
