"""A model of the store behind as much of the OpenAI protocol as its worker speaks, on loopback: always as a stream.

`python -P -m thaloom.work.runtime.engines.transformers.server --store DIR --model NAME --name SERVED ...`. It listens
once the model is loaded. The environment has its key (`THALOOM_GUEST_KEY`). The model's files are written out of the
store into a folder that is gone as soon as they are read; no code is among them (kernel.models.import_files).
"""

from __future__ import annotations

import argparse
import hmac
import os
import sys
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from thaloom.base.clock import SystemClock
from thaloom.base.errors import BadParameter, ThaloomError
from thaloom.work.runtime.engines.transformers.answering import Answer, Chunk, Language, Question, prompt_of

KEY_VARIABLE = "THALOOM_GUEST_KEY"
MAX_BODY_BYTES = 16 * 1024 * 1024
_WAIT_S = 60.0
"""For a client that says nothing, or takes nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], name: str, language: Language, key: str) -> None:
        super().__init__(address, _Handler)
        self.name = name
        self.language = language
        self.key = key
        self.turn = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = _WAIT_S

    def log_message(self, format: str, *args: object) -> None:
        """The worker counts requests."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self._say(200, {"status": "ok"})
        elif self._let_in():
            known = self.path == "/v1/models"
            self._say(200 if known else 404, {"data": [{"id": self.server.name}]} if known else _error("no such path"))

    def do_POST(self) -> None:
        if not self._let_in():
            return
        try:
            body = self._body()
            if self.path == "/v1/embeddings":
                self._say(200, self._embed(msgspec.convert(body, EmbeddingQuestion)))
            elif self.path in ("/v1/completions", "/v1/chat/completions"):
                self._stream(msgspec.convert(body, Question))
            else:
                self._say(404, _error("no such path"))
        except ThaloomError as error:
            self._say(error.http_status, _told(error))
        except msgspec.ValidationError as error:
            self._say(400, _error(str(error)))

    def _let_in(self) -> bool:
        shown = self.headers.get("authorization", "").removeprefix("Bearer ")
        if hmac.compare_digest(shown.encode(), self.server.key.encode()):
            return True
        self._say(401, _error("wrong key"))
        return False

    def _body(self) -> Any:
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            raise BadParameter("the body has no length, or is too large")
        try:
            return msgspec.json.decode(self.rfile.read(int(length)))
        except msgspec.DecodeError as error:
            raise BadParameter(f"the body is not JSON: {error}") from error

    def _embed(self, asked: EmbeddingQuestion) -> Chunk:
        with self.server.turn:
            language = self.server.language
            tokens = prompt_of(Question(model=asked.model, prompt=asked.input), language)
            values = language.embed(tokens)
        usage = {"prompt_tokens": len(tokens), "total_tokens": len(tokens)}
        return {"data": [{"index": 0, "embedding": values}], "usage": usage}

    def _stream(self, asked: Question) -> None:
        begun = False

        def tell(chunk: Chunk) -> bool:
            nonlocal begun
            try:
                if not begun:
                    begun = True
                    self._begin()
                self._event(msgspec.json.encode(chunk))
            except OSError:  # it left
                return False
            return True

        with self.server.turn:
            try:
                Answer(asked, self.server.language, tell).run()
            except ThaloomError as error:
                if not begun:
                    raise
                tell(_told(error))
            except Exception as error:  # noqa: BLE001 - one request may not end the others; its worker tells why
                if not begun:
                    self._say(500, _error(f"{type(error).__name__}: {error}"))
                    return
                tell(_error(f"{type(error).__name__}: {error}"))
        try:
            self._event(b"[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def _event(self, data: bytes) -> None:
        raw = b"data: " + data + b"\n\n"
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()

    def _say(self, status: int, body: Any) -> None:
        data = msgspec.json.encode(body)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True


class EmbeddingQuestion(msgspec.Struct, kw_only=True):
    model: str
    input: str | list[int]
    encoding_format: str = "float"


def _error(message: str) -> Chunk:
    return {"error": {"message": message}}


def _told(error: ThaloomError) -> Chunk:
    facts: Chunk = {"message": error.message, "param": error.param}
    if error.code == "prompt_too_long":  # in llama.cpp's words, which the worker knows
        lengths = {"n_prompt_tokens": error.details["prompt_tokens"], "n_ctx": error.details["context_length"]}
        facts |= {"type": "exceed_context_size_error"} | lengths
    return {"error": facts}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="thaloom-transformers")
    for name in ("--store", "--model", "--name", "--host"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args(arguments)
    from thaloom.kernel.models.store import ModelStore
    from thaloom.work.runtime.engines.transformers.language import load

    try:
        store = ModelStore(Path(asked.store), SystemClock())
        language = load(store, asked.model, context_length=asked.context, num_threads=asked.threads)
        server = Server((asked.host, asked.port), asked.name, language, os.environ[KEY_VARIABLE])
    except ThaloomError as error:
        print(error.message, flush=True)
        return error.exit_code
    print(f"serving {asked.model} on {asked.host}:{asked.port}", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
