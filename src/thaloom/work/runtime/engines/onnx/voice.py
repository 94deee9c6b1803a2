"""Text to speech by a model that reads letters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thaloom.base.errors import BadParameter, NotServable
from thaloom.work.runtime.engines.onnx.arrays import Array
from thaloom.work.runtime.engines.onnx.session import Session
from thaloom.work.runtime.engines.onnx.sound import write_pcm
from thaloom.work.runtime.engines.onnx.tasks import Speaking
from thaloom.work.runtime.types import SpeechRequest

_MOST_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    samples: bytes
    """16 bits, little-endian, one channel."""
    degraded: str | None


class Voice:
    """Belongs to whatever thread runs the session."""

    def __init__(self, session: Session, job: Speaking) -> None:
        """Raises NotServable if the model does not have what `job` names."""
        self._session = session
        self._job = job
        given = {tensor.name: tensor.dtype for tensor in session.inputs}
        self._input = job.input or session.inputs[0].name
        self._mask = job.mask if job.mask in given else None
        whole = {name for name in (self._input, self._mask, job.length, job.voice) if name is not None}
        wanted = dict.fromkeys(whole, "INT64") | dict.fromkeys(job.constants, "FP32")
        if given != wanted:
            raise NotServable(f"the model's inputs are {given}, its task names {wanted}", param="model")
        self._output = job.output or session.outputs[0].name
        if self._output not in {tensor.name for tensor in session.outputs}:
            raise NotServable(f"the model has no output {self._output!r}", param="model")

    @property
    def rate(self) -> int:
        return self._job.sampling_rate

    def say(self, request: SpeechRequest) -> Said:
        """Raises BadParameter for an unknown voice, or a text without a letter it can read."""
        text = request.text.lower() if self._job.lower_case else request.text
        numbers = [self._job.symbols[letter] for letter in text if letter in self._job.symbols]
        if not numbers:
            raise BadParameter("input: the model has no letter of it", param="input")
        if self._job.between is not None:
            numbers = [number for one in numbers for number in (self._job.between, one)] + [self._job.between]
        (sound,) = self._session.run(self._inputs(numbers, request.voice), [self._output])
        if sound.dtype != np.float32 or sound.size != sound.shape[-1]:
            raise NotServable(f"the model's sound has the shape {list(sound.shape)} of {sound.dtype}")
        if not np.isfinite(sound).all():
            raise NotServable("the model's sound has samples that are no numbers")
        unread = sorted({letter for letter in text if letter not in self._job.symbols and not letter.isspace()})
        told = "".join(unread[:_MOST_SHOWN])
        notes = [f"the model has no letters {told!a}: they were left out"] if unread else []
        if request.voice is not None and self._job.voice is None:
            notes.append("the model has one voice")
        return Said(samples=write_pcm(sound.ravel()), degraded="; ".join(notes) or None)

    def _inputs(self, numbers: list[int], voice: str | None) -> dict[str, Array]:
        inputs: dict[str, Array] = {self._input: np.array([numbers], np.int64)}
        if self._mask is not None:
            inputs[self._mask] = np.ones((1, len(numbers)), np.int64)
        if self._job.length is not None:
            inputs[self._job.length] = np.array([len(numbers)], np.int64)
        if self._job.voice is not None:
            inputs[self._job.voice] = np.array([self._voice(voice)], np.int64)
        for name, values in self._job.constants.items():
            inputs[name] = np.array(values, np.float32)
        return inputs

    def _voice(self, name: str | None) -> int:
        """Of one that has several: the first where none is asked for."""
        if name is None:
            return next(iter(self._job.voices.values()))
        if name not in self._job.voices:
            raise BadParameter(
                f"voice: there is no {name[:80]!r} (there are: {', '.join(self._job.voices)})", param="voice"
            )
        return self._job.voices[name]
