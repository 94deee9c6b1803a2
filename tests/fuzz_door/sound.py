"""One right request, or several, for every operation of the door: what cases are made from.

Names in capitals (FILE, BATCH, RESPONSE, STREAM) stand for ids that the node made before the first case.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
CHAT: dict[str, Any] = {
    "model": "tiny",
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "u"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "t"},
    ],
    "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "seed": 1, "n": 1, "stop": ["END"], "logit_bias": {"5": 1.5},
    "frequency_penalty": 0.1, "presence_penalty": 0.1, "logprobs": True, "top_logprobs": 2, "user": "u",
    "chat_template_kwargs": {"a": {"b": 1}}, "stream": False,
}  # fmt: skip
SHORT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
STRICT = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
TOOLS: dict[str, Any] = {
    "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False,
}  # fmt: skip
RESPONSES: dict[str, Any] = {
    "model": "tiny", "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}], "store": False,
    "instructions": "Be brief.", "max_output_tokens": 3, "temperature": 1, "metadata": {"a": "b"}, "stream": False,
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}],
    "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}, "tool_choice": "none",
}  # fmt: skip
MESSAGES: dict[str, Any] = {
    "model": "tiny", "max_tokens": 3, "system": [{"type": "text", "text": "Be brief."}], "temperature": 0.5,
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [
            {"type": "text", "text": "I look"}, {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": "b"}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "r", "is_error": True}]},
    ],
    "top_p": 0.5, "top_k": 5, "stop_sequences": ["END"], "metadata": {"user_id": "u"}, "service_tier": "auto",
    "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"},
}  # fmt: skip
OLLAMA: dict[str, Any] = {
    "model": "tiny:latest", "stream": True, "format": SCHEMA, "logprobs": True, "top_logprobs": 2,
    "options": {"num_predict": 3, "temperature": 0.5, "top_k": 4, "seed": 7, "stop": ["END"], "repeat_penalty": 1.1},
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}],
}  # fmt: skip
PROMPT: dict[str, Any] = {"model": "tiny", "prompt": "hi", "options": {"num_predict": 2}, "stream": False}
COMPLETION: dict[str, Any] = {
    "model": "tiny", "prompt": ["a", [1, 2]], "n": 2, "best_of": 3, "echo": True, "logprobs": 1, "max_tokens": 2,
    "suffix": None, "stop": "END", "seed": 3,
}  # fmt: skip
RERANK: dict[str, Any] = {"model": "tiny", "query": "a", "documents": ["a", {"text": "b"}], "top_n": 1}
PAIRS: dict[str, Any] = {"model": "tiny", "text_1": ["a", "b"], "text_2": ["c", "d"]}
UPLOAD = (
    b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'
    b"some words\r\n--edge--\r\n"
)
SPOKEN = (
    b'--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\ntiny\r\n'
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x40\x1f\x00\x00\x80\x3e\x00\x00\x02\x00\x10\x00"
    b"data\x00\x00\x00\x00\r\n--edge--\r\n"
)
INFER: dict[str, Any] = {
    "id": "1",
    "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}],
    "outputs": [{"name": "y", "parameters": {"binary_data": False}}],
}
LINE = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": SHORT}
JOB: dict[str, Any] = {
    "command": ["true"], "env": {"A": "b"}, "retries": 1, "resources": {"memory_bytes": 1 << 26}, "network": "none",
    "depends_on": [{"job": "before", "ending": "ended"}],
}  # fmt: skip
WORKSPACE: dict[str, Any] = {
    "apiVersion": "thaloom/v1", "kind": "Workspace", "metadata": {"name": "w", "labels": {"app": "x"}}, "spec": {},
}  # fmt: skip
JSON_TYPE = b"application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """`body` of type dict is JSON; `weight`: how often it is chosen."""

    method: str
    path: str
    body: dict[str, Any] | bytes | None = None
    query: str = ""
    content_type: bytes = JSON_TYPE
    weight: float = 1.0
    steady: bool = False
    """Its path and method stay as they are: elsewhere the body would do what a fuzzer must not (end the service)."""

    @property
    def operation(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def data(self) -> bytes:
        if isinstance(self.body, bytes) or self.body is None:
            return self.body or b""
        return json.dumps(self.body).encode()


def _post(path: str, body: dict[str, Any] | bytes, weight: float = 1.0, **more: Any) -> Sound:
    return Sound(method="POST", path=path, body=body, weight=weight, **more)


def _get(path: str, query: str = "", weight: float = 0.5) -> Sound:
    return Sound(method="GET", path=path, query=query, weight=weight)


_HUB_PATHS = ("", "/revision/main", "/tree/main", "/refs", "/auth-check")
_CONTROL = "/thaloom/v1"
SOUND: tuple[Sound, ...] = (
    _post("/v1/chat/completions", CHAT, 4),
    _post("/v1/chat/completions", SHORT | STREAM, 2),
    _post("/v1/chat/completions", SHORT | {"response_format": STRICT}, 2),
    _post("/v1/chat/completions", SHORT | TOOLS | STREAM, 2),
    _post("/v1/completions", COMPLETION, 2),
    _post("/v1/completions", {"model": "tiny", "prompt": "a", "max_tokens": 2} | STREAM),
    _post("/v1/completions", {"model": "tiny", "prompt": "a", "max_tokens": 2, "guided_regex": "[a-z]+"}),
    _post("/v1/embeddings", {"model": "tiny", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 2}),
    _post("/v1/embeddings", {"model": "tiny", "input": [[1, 2], [3]]}),
    _post("/v1/rerank", RERANK, 0.5),
    _post("/v2/rerank", RERANK | {"return_documents": True}, 0.5),
    _post("/rerank", RERANK | {"instruction": "i"}, 0.5),
    _post("/score", PAIRS, 0.5),
    _post("/v1/score", {"model": "tiny", "text_1": "a", "text_2": "b"}, 0.5),
    _post("/tokenize", {"messages": CHAT["messages"], "tools": [TOOL], "return_token_strs": True}),
    _post("/tokenize", {"model": "tiny", "prompt": "hi", "add_special_tokens": False}),
    _post("/detokenize", {"model": "tiny", "tokens": [1, 2]}),
    _get("/tokenizer_info", "model=tiny"),
    _post("/v1/responses", RESPONSES, 3),
    _post("/v1/responses", {"model": "tiny", "input": "hi", "max_output_tokens": 2, "stream": True}, 2),
    _post("/v1/responses", {"model": "tiny", "input": "hi", "max_output_tokens": 2, "background": True}, 0.5),
    _post("/v1/responses", {"model": "tiny", "input": "hi", "max_output_tokens": 2,
    "previous_response_id": "RESPONSE"}),
    _post("/v1/responses", {"model": "tiny", "input": "h", "max_output_tokens": 2, "background": True, "stream": True}),
    _post("/v1/responses/input_tokens", {"model": "tiny", "input": "hi", "tools": RESPONSES["tools"]}),
    _get("/v1/responses/RESPONSE", "include[]=message.output_text.logprobs"),
    _get("/v1/responses/RESPONSE", "stream=true&starting_after=0"),
    _get("/v1/responses/STREAM", "stream=true&starting_after=2"),
    _get("/v1/responses/RESPONSE/input_items", "limit=2&order=asc&after=x"),
    _post("/v1/responses/RESPONSE/cancel", b"", 0.3),
    Sound(method="DELETE", path="/v1/responses/resp_gone", weight=0.3),
    _get("/v1/files", "limit=2&order=desc&purpose=batch&after=x"),
    _get("/v1/files/FILE"),
    _get("/v1/files/FILE/content"),
    Sound(method="DELETE", path="/v1/files/file-gone", weight=0.3),
    _post("/v1/files", UPLOAD, 2, content_type=b"multipart/form-data; boundary=edge"),
    _get("/v1/batches", "limit=2&after=x"),
    _get("/v1/batches/BATCH"),
    _post("/v1/batches", {"input_file_id": "FILE", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    0.3),
    _post("/v1/batches/BATCH/cancel", b"", 0.3),
    _get("/v1/models"),
    _get("/v1/models/tiny"),
    _post("/v1/messages", MESSAGES, 3),
    _post("/v1/messages", MESSAGES | {"stream": True, "messages": "hi"}),
    _post("/v1/messages", {"model": "tiny", "max_tokens": 3, "messages": SHORT["messages"], "stream": True}, 2),
    _post("/v1/messages/count_tokens", {name: MESSAGES[name] for name in ("model", "messages", "system", "tools")}),
    _get("/v1/messages/batches"),
    _post("/api/chat", OLLAMA, 3, steady=True),
    _post("/api/generate", PROMPT | {"raw": True}, 1, steady=True),
    _post("/api/generate", PROMPT | {"format": "json", "stream": True, "system": "s"}, 1, steady=True),
    _post("/api/embed", {"model": "tiny", "input": ["a", "b"], "truncate": True, "dimensions": 2}, steady=True),
    _post("/api/embeddings", {"model": "tiny", "prompt": "a"}, steady=True),
    _post("/api/show", {"model": "tiny", "verbose": True}),
    _post("/api/copy", {"source": "tiny", "destination": "copied:here"}, 0.5),
    Sound(method="DELETE", path="/api/delete", body={"model": "copied:here"}, weight=0.5),
    Sound(method="DELETE", path="/api/delete", body={"model": "tiny"}, weight=0.2),
    _post("/api/pull", {"model": "org/name", "stream": True, "insecure": True}),
    _post("/api/create", {"model": "x"}, 0.2),
    _post("/api/push", {"model": "x"}, 0.2),
    _post("/api/blobs/sha256:00", b"junk", 0.2),
    _get("/api/tags"),
    _get("/api/ps"),
    _get("/api/version"),
    _get("/api/models", "search=t&limit=1&cursor=0&full=true&author=x"),
    *(_get(f"/api/models/tiny{path}", "recursive=1&expand=1&blobs=1", 0.3) for path in _HUB_PATHS),
    *(_get(f"/api/models/org/tiny{path}", weight=0.3) for path in _HUB_PATHS),
    *(_post(f"/api/models/{repo}/paths-info/main", b"paths=config.json&expand=true", 0.3,
            content_type=b"application/x-www-form-urlencoded") for repo in ("tiny", "org/tiny")),
    _get("/tiny/resolve/main/config.json"),
    _get("/org/tiny/resolve/main/config.json", weight=0.3),
    *(_get(f"/v2{path}", weight=0.3) for path in
      ("", "/health/live", "/health/ready", "/models/tiny", "/models/tiny/ready")),
    _post("/v2/models/tiny/infer", INFER, 1.5),
    _post("/v1/audio/transcriptions", SPOKEN, content_type=b"multipart/form-data; boundary=edge"),
    _post("/v1/audio/speech", {"model": "tiny", "input": "hi", "voice": "x", "response_format": "wav", "speed": 1.0}),
    _post("/v1/images/generations", {"model": "tiny", "prompt": "x", "n": 1, "size": "8x8", "seed": 1}),
    _get("/healthz"),
    _get("/readyz"),
    _get("/version"),
    _get("/metrics", "names=own", 0.2),
    _get("/openapi.json", weight=0.05),
    _get("/", weight=0.2),
    *(_get(f"{_CONTROL}/{name}", weight=0.3) for name in (
        "version", "status", "processes", "devices", "devices/cpu", "models", "models/tiny", "pulls", "outgoing",
        "services", "services/tiny", "aliases", "aliases/best", "keys", "down", "encryption", "journal/checkpoint",
        "actions/a-0123456789ab",
    )),
    _get(f"{_CONTROL}/actions", "limit=3&subject=service/tiny&by=person:local", 0.3),
    # What only the node's own socket lets in: refused here, whatever it says.
    _post(f"{_CONTROL}/actions/a-0123456789ab/undo", b"", 0.3),
    _post(f"{_CONTROL}/actions/approve", {"digest": "0" * 64, "valid_s": 60}, 0.3),
    _post(f"{_CONTROL}/journal/verify", {"entry": 1, "seal": "x"}, 0.3),
    _post(f"{_CONTROL}/encryption/key", b"", 0.2),
    _post(f"{_CONTROL}/encryption/rotate", {"passphrase": "p", "key_file": None}, 0.2),
    _post(f"{_CONTROL}/models/absent/encrypt", {"name": "made", "replace": True}, 0.2),
    _post(f"{_CONTROL}/models/absent/decrypt", {"name": "made", "replace": True}, 0.2),
    *(_get(f"{_CONTROL}/{name}", weight=0.2) for name in (
        "whoami", "tenants", "tenants/acme", "certificate", "jobs/nightly", "jobs/nightly/logs",
        "documents/service/tiny",
    )),
    _get(f"{_CONTROL}/jobs", "phase=running&limit=3", 0.2),
    _get(f"{_CONTROL}/jobs/nightly/wait", "timeout_s=0.1", 0.2),
    _get(f"{_CONTROL}/documents", "kind=service&label=app=chat&limit=3&after=a", 0.2),
    _post(f"{_CONTROL}/documents", {"documents": [WORKSPACE], "remove": ["job/nightly"], "prune": {"app": "x"}}, 0.3),
    Sound(method="PUT", path=f"{_CONTROL}/jobs/nightly", body=JOB, weight=0.3),
    _post(f"{_CONTROL}/jobs/nightly/stop", b"", 0.2),
    Sound(method="DELETE", path=f"{_CONTROL}/jobs/nightly", query="stop=true", weight=0.2),
    _post(f"{_CONTROL}/tenants", {"name": "acme", "quota": {"services": 1, "concurrent": 2}}, 0.2),
    Sound(method="PUT", path=f"{_CONTROL}/tenants/acme", body={"services": 1, "memory_bytes": None}, weight=0.2),
    Sound(method="DELETE", path=f"{_CONTROL}/tenants/acme", weight=0.2),
    _post(f"{_CONTROL}/keys/k/narrow", {"name": "less", "role": "viewer", "scopes": ["read"]}, 0.2),
    _post(f"{_CONTROL}/access/refused", {"address": "::1", "what": "GET /", "code": "x", "message": "y", "num": 1}, .2),
    _post(f"{_CONTROL}/certificate/make", {"names": ["a"], "days": 3}, 0.2),
    _post(f"{_CONTROL}/certificate/renew", {"names": None, "days": 3}, 0.2),
    _post(f"{_CONTROL}/certificate/import", {"certificate": "/c", "key": "/k"}, 0.2),
    _get(f"{_CONTROL}/events", "limit=3", 0.3),
    _get(f"{_CONTROL}/services/tiny/logs", "tail=2&follow=false", 0.3),
    _get(f"{_CONTROL}/openapi.json", weight=0.05),
    _post(f"{_CONTROL}/models/pull", {"source": "/nowhere", "name": "absent", "replace": True,
                                      "hub": {"hf_endpoint": "http://127.0.0.1:1", "offline": True}}),
    _post(f"{_CONTROL}/models/pull", {"source": "hf://org/name@main", "read_through": False}, 0.5),
    _post(f"{_CONTROL}/models/absent/verify", b"", 0.3),
    _post(f"{_CONTROL}/models/absent/quantise", {"to": "int8", "name": "made"}, 0.5),
    _post(f"{_CONTROL}/models/tiny/copy", {"name": "copied:here", "replace": True}, 0.5),
    Sound(method="DELETE", path=f"{_CONTROL}/models/copied:here", weight=0.3),
    Sound(method="DELETE", path=f"{_CONTROL}/models/tiny", weight=0.2),
    Sound(method="DELETE", path=f"{_CONTROL}/pulls", query="source=hf://a/b@main", weight=0.3),
    Sound(method="PUT", path=f"{_CONTROL}/services/spare", weight=1, steady=True,
          body={"model": "absent", "device": "cpu", "num_threads": 1, "context_length": 64, "kv_dtype": "f32"}),
    Sound(method="PUT", path=f"{_CONTROL}/services/spare", weight=0.1, steady=True,
          body={"model": "tiny", "num_threads": 1, "context_length": 64, "kv_bytes": 2**60}),
    Sound(method="DELETE", path=f"{_CONTROL}/services/spare", weight=0.3, steady=True),
    Sound(method="PUT", path=f"{_CONTROL}/services/spare/keep-alive", body={"seconds": 60}, weight=0.3, steady=True),
    _post(f"{_CONTROL}/services/tiny/wake", b"", 0.3),
    Sound(method="PUT", path=f"{_CONTROL}/aliases/best", body={"services": {"tiny": 1}, "canary": None}, weight=0.5),
    Sound(method="PUT", path=f"{_CONTROL}/aliases/tiny", body={"services": {"tiny": 1}}, weight=0.1),
    Sound(method="DELETE", path=f"{_CONTROL}/aliases/best", weight=0.2),
    _post(f"{_CONTROL}/aliases/best/return", {"revision": 1, "reason": "worse"}, 0.3),
    _post(f"{_CONTROL}/keys", {"name": "k", "requests_per_minute": 5, "models": ["tiny"]}, 0.5),
    Sound(method="DELETE", path=f"{_CONTROL}/keys/k", weight=0.3),
)  # fmt: skip
