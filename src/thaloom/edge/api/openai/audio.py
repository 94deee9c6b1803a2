"""`/v1/audio/speech` and `/v1/audio/transcriptions`, by models that are made for it."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from thaloom.base.errors import BadParameter
from thaloom.base.ids import new_request_id
from thaloom.edge.api.errors import to_json
from thaloom.edge.api.openai.kept.files.form import FileForm
from thaloom.edge.api.openai.unserved import refuse_unserved
from thaloom.edge.api.routes.body import ClientGone, read_object, read_plain, while_connected
from thaloom.edge.api.routes.fields import validate
from thaloom.edge.wire import audio as wire
from thaloom.work.runtime.types import Inference, SpeechRequest, TranscribeRequest, Transcript, Utterance

MAX_BODY_BYTES = 15 * 1024 * 1024
"""A form with its file: what a worker takes in one frame. Seven minutes of 16 bits at 16 kHz."""
RATE_HEADER = "x-thaloom-sample-rate"


class Speaking:
    """A plain ASGI application."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            data = await read_object(scope, receive)
            refuse_unserved(data, wire.UNSERVED_IN_SPEECH)
            fields = validate(wire.SpeechRequest, data)
            asked = SpeechRequest(
                id=new_request_id("speech"), model=fields.model, text=fields.input, voice=fields.voice
            )
            spoken = await while_connected(receive, self._inference.speak(asked))
        except ClientGone:
            return
        pcm = fields.response_format == "pcm"
        body = spoken.samples if pcm else wav(spoken)
        headers = {RATE_HEADER: str(spoken.rate)}
        await Response(body, 200, headers, media_type="audio/pcm" if pcm else "audio/wav")(scope, receive, send)


class Transcribing:
    """A plain ASGI application."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            fields, granularities, audio = await _read(Headers(scope=scope), receive)
            asked = TranscribeRequest(id=new_request_id("transcript"), model=fields.model, audio=audio)
            heard = await while_connected(receive, self._inference.transcribe(asked))
        except ClientGone:
            return
        await _written(heard, fields.response_format or "json", granularities)(scope, receive, send)


def wav(spoken: Utterance) -> bytes:
    """One channel of 16 bits. Source: RIFF (work.runtime.engines.onnx.sound)."""
    size = len(spoken.samples)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, spoken.rate,
                       2 * spoken.rate, 2, 16, b"data", size)  # fmt: skip
    return head + spoken.samples


async def _read(headers: Headers, receive: Receive) -> tuple[wire.TranscriptionRequest, list[str], bytes]:
    form = FileForm(headers.get("content-type", ""))
    body = await read_plain(headers, receive, limit=MAX_BODY_BYTES)
    audio = await asyncio.to_thread(form.take, body)
    form.end()
    granularities = form.lists.get("timestamp_granularities[]", [])
    if unknown := [one for one in granularities if one not in wire.GRANULARITIES]:
        raise BadParameter(
            f"timestamp_granularities: there is no {unknown[0][:40]!r} (word, segment)", param="timestamp_granularities"
        )
    if "segment" in granularities:
        raise BadParameter("timestamp_granularities: only words are timed", param="timestamp_granularities")
    refuse_unserved(form.fields, wire.UNSERVED_IN_TRANSCRIPTION)
    fields = validate(wire.TranscriptionRequest, form.fields)
    if granularities and fields.response_format != "verbose_json":
        raise BadParameter(
            "timestamp_granularities needs response_format verbose_json", param="timestamp_granularities"
        )
    return fields, granularities, audio


def _written(heard: Transcript, form: str, granularities: list[str]) -> Response:
    if form == "text":
        return PlainTextResponse(heard.text + "\n")
    body: dict[str, Any] = {"text": heard.text}
    if form == "verbose_json":
        body = {"task": "transcribe", "language": "", "duration": round(heard.duration_s, 3)} | body
        if "word" in granularities:
            body["words"] = [
                {"word": word.text, "start": round(word.begin_s, 3), "end": round(word.end_s, 3)}
                for word in heard.words
            ]
    body["usage"] = {"type": "duration", "seconds": round(heard.duration_s, 3)}
    return Response(to_json(body), media_type="application/json")
