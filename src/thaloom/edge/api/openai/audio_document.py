"""The OpenAPI document's part on `/v1/audio/*` and `/v1/images/*`."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from thaloom.edge.api.document.plain import Posted, add_posted
from thaloom.edge.api.openai.audio import RATE_HEADER
from thaloom.edge.wire import audio as wire
from thaloom.edge.wire import images

IMAGES = {
    "/v1/images/generations": Posted(
        operation="create_image",
        asks=(images.ImageRequest,),
        answers=images.ImageList,
        about="By a model that is made for it (docs/engines.md). Refused unless they ask for nothing: "
        f"{', '.join(images.UNSERVED_IN_IMAGE)}.",
    )
}
_MODELS = (wire.SpeechRequest, wire.Transcription, wire.VerboseTranscription)
_NEW_NAMES = {"SpeechRequest": "CreateSpeechRequest"}


def add_audio(document: dict[str, Any]) -> dict[str, Any]:
    _, schemas = models_json_schema(
        [(model, "validation") for model in _MODELS], ref_template="#/components/schemas/{model}"
    )
    for name, schema in schemas["$defs"].items():
        document["components"]["schemas"][_NEW_NAMES.get(name, name)] = schema
    document["paths"]["/v1/audio/speech"] = {"post": _speech()}
    add_posted(document, IMAGES)
    document["paths"]["/v1/audio/transcriptions"] = {"post": _transcriptions()}
    return document


def _speech() -> dict[str, Any]:
    sound = {"schema": {"type": "string", "format": "binary"}}
    rate = {"description": "Samples a second.", "schema": {"type": "string"}}
    return {
        "tags": ["openai"],
        "operationId": "create_speech",
        "summary": "Speak a text",
        "description": "By a model that is made for it (docs/engines.md).",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("CreateSpeechRequest")}}},
        "responses": {
            "200": {
                "description": "The sound.",
                "headers": {RATE_HEADER: rate},
                "content": {"audio/wav": sound, "audio/pcm": sound},
            }
        }
        | _errors(),
    }


def _transcriptions() -> dict[str, Any]:
    words = {name: {"type": "string"} for name in ("language", "prompt")}
    form = {
        "type": "object",
        "required": ["file", "model"],
        "properties": {
            "file": {"type": "string", "contentMediaType": "application/octet-stream", "description": "A WAV file."},
            "model": {"type": "string", "minLength": 1, "maxLength": 256},
            "response_format": {"type": "string", "enum": ["json", "text", "verbose_json"]},
            "temperature": {"type": "number", "enum": [0]},
            "timestamp_granularities[]": {"type": "array", "items": {"type": "string", "enum": ["word"]}},
        }
        | words,
    }
    told = {"anyOf": [_ref("Transcription"), _ref("VerboseTranscription")]}
    content = {"application/json": {"schema": told}, "text/plain": {"schema": {"type": "string"}}}
    return {
        "tags": ["openai"],
        "operationId": "create_transcription",
        "summary": "Write down what is said",
        "description": "By a model that is made for it (docs/engines.md). Timed words: with `verbose_json`.",
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": {"200": {"description": "What was heard.", "content": content}} | _errors(),
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _errors() -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {
        "4XX": {"description": "The request cannot be served as it is.", "content": content},
        "5XX": {"description": "Wait and try again, or see the log: the code says which.", "content": content},
    }
