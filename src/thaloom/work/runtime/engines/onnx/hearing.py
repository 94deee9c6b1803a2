"""Speech to text by an acoustic model with CTC: the likeliest letter of each frame, equal neighbours once, blanks out.

Source: A. Graves et al., "Connectionist Temporal Classification", ICML 2006, 3.2 ("best path decoding"); windows that
overlap, of which the middles are kept: P. Suri and N. Patry, "Making automatic speech recognition work on large files
with Wav2Vec2", 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thaloom.base.errors import BadParameter, NotServable
from thaloom.work.runtime.engines.onnx.arrays import Array
from thaloom.work.runtime.engines.onnx.session import Session
from thaloom.work.runtime.engines.onnx.sound import Samples, read_wav, resample
from thaloom.work.runtime.engines.onnx.tasks import Hearing
from thaloom.work.runtime.types import SpokenWord, TranscribeRequest

WINDOW_S = 30.0
"""Of sound in one pass: what attention needs grows with its square."""
OVERLAP_S = 5.0
"""Of two windows, on each side; half of it is each window's to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    text: str
    words: tuple[SpokenWord, ...]
    duration_s: float


class Ear:
    """Belongs to whatever thread runs the session."""

    def __init__(self, session: Session, job: Hearing) -> None:
        """Raises NotServable if the model does not have what `job` names."""
        self._session = session
        self._job = job
        floats = [tensor.name for tensor in session.inputs if tensor.dtype == "FP32"]
        self._input = job.input or (floats[0] if len(floats) == 1 else "")
        self._output = job.output or session.outputs[0].name
        wanted = {self._input: "FP32"} | ({job.mask: "INT64"} if job.mask is not None else {})
        given = {tensor.name: tensor.dtype for tensor in session.inputs}
        self._mask = job.mask if job.mask in given else None  # as many are exported without
        others = {name: dtype for name, dtype in given.items() if wanted.get(name) != dtype}
        if self._input not in given or others:
            raise NotServable(f"the model's inputs {given} are not those of a transcription", param="model")
        if self._output not in {tensor.name for tensor in session.outputs}:
            raise NotServable(f"the model has no output {self._output!r}", param="model")

    def hear(self, request: TranscribeRequest) -> Heard:
        """Raises BadParameter for what is no sound, DeadlineExceeded."""
        sound = read_wav(request.audio)
        if not len(sound.samples):
            raise BadParameter("file: there is no sound in it", param="file")
        samples = resample(sound, self._job.sampling_rate)
        if self._job.normalize:
            samples = ((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)).astype(np.float32)
        letters, times = self._letters(samples)
        words = spelled(letters, times, self._job)
        text = " ".join(word.text for word in words)
        return Heard(text=text, words=words, duration_s=sound.duration_s)

    def _letters(self, samples: Samples) -> tuple[Array, Array]:
        """The likeliest letter of each frame, and where the frame begins, in seconds."""
        rate = self._job.sampling_rate
        window, half = int(WINDOW_S * rate), int(OVERLAP_S * rate) // 2
        if len(samples) <= window:
            best = self._pass(samples)
            return best, np.arange(len(best)) * (len(samples) / rate / max(1, len(best)))
        letters, times = [], []
        begin = 0
        while True:
            part = samples[begin : begin + window]
            best = self._pass(part)
            places = begin + np.arange(len(best)) * (len(part) / max(1, len(best)))
            last = begin + window >= len(samples)
            kept = places >= (begin + half if begin else 0)
            if not last:
                kept &= places < begin + window - half
            letters.append(best[kept])
            times.append(places[kept] / rate)
            if last:
                return np.concatenate(letters), np.concatenate(times)
            begin += window - 2 * half

    def _pass(self, samples: Samples) -> Array:
        inputs: dict[str, Array] = {self._input: samples[None, :]}
        if self._mask is not None:
            inputs[self._mask] = np.ones((1, len(samples)), np.int64)
        (scores,) = self._session.run(inputs, [self._output])
        size = len(self._job.vocabulary)
        if scores.ndim != 3 or scores.shape[0] != 1 or scores.shape[2] < size or scores.dtype.kind != "f":
            raise NotServable(f"the model's scores have the shape {list(scores.shape)}; {size} letters are told of")
        best: Array = scores[0, :, :size].argmax(axis=-1)
        return best


def spelled(letters: Array, times: Array, job: Hearing) -> tuple[SpokenWord, ...]:
    """`letters`, `times`: one for each frame. A word lasts until the frame after its last letter begins."""
    left_out = {job.blank, *job.unspoken} - {job.word_separator}
    words: list[SpokenWord] = []
    text, begin_s, end_s = "", 0.0, 0.0
    changes = np.flatnonzero(np.diff(letters, prepend=-1))
    ends = np.append(changes[1:], len(letters))[: len(changes)]
    frame_s = float(times[1] - times[0]) if len(times) > 1 else 0.0
    for first, after in zip(changes, ends, strict=True):
        letter = job.vocabulary[int(letters[first])]
        if letter == job.word_separator:
            if text:
                words.append(SpokenWord(text=text, begin_s=begin_s, end_s=end_s))
            text = ""
        elif letter not in left_out:
            if not text:
                begin_s = float(times[first])
            text += letter
            end_s = float(times[after]) if after < len(times) else float(times[after - 1]) + frame_s
    if text:
        words.append(SpokenWord(text=text, begin_s=begin_s, end_s=end_s))
    return tuple(words)
