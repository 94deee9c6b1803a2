"""A server that speaks the OpenAI protocol the way engines do, and misbehaves as told. Run as `llama-server` or `vllm`.

Configured by the environment: FAKE_ENGINE is JSON: {"mood": ..., "text": [...]} and the moods below. It writes every
request it gets, one JSON a line, to the file FAKE_ENGINE_LOG.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOLD: dict[str, Any] = json.loads(os.environ.get("FAKE_ENGINE", "{}"))
MOOD = TOLD.get("mood", "well")
TEXT = TOLD.get("text", ["Hel", "lo"])
KEY = next((os.environ[name] for name in ("LLAMA_API_KEY", "VLLM_API_KEY") if name in os.environ), None)


def option(name: str, default: str) -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


MODEL = option("--alias", option("--served-model-name", "there"))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/health":
            if MOOD == "never healthy":
                print("asked how it is", flush=True)
            self.answer(503 if MOOD == "never healthy" else 200, {"status": "ok"})
        else:
            self.answer(200, {"object": "list", "data": [{"id": MODEL, "max_model_len": 512}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if path := os.environ.get("FAKE_ENGINE_LOG"):
            with Path(path).open("a") as log:
                log.write(json.dumps({"path": self.path, "body": body}) + "\n")
        if KEY is not None and self.headers.get("authorization") != f"Bearer {KEY}":
            self.answer(401, {"error": {"message": "no"}})
        elif MOOD == "die at a request":
            print("out of luck", flush=True)
            os._exit(3)
        elif MOOD == "status":
            self.answer(TOLD["status"], TOLD["answer"], TOLD.get("headers", {}))
        elif MOOD == "not http":
            self.wfile.write(b"what?\r\n\r\n")
            self.close_connection = True
        elif MOOD == "silent":
            time.sleep(3600)
        elif self.path.endswith("/embeddings"):
            given = body["input"]
            usage = {"prompt_tokens": len(given), "total_tokens": len(given)}
            values = TOLD.get("embedding", [3.0, 4.0])
            self.answer(200, {"data": [{"index": 0, "embedding": values}], "usage": usage})
        else:
            self.stream(body)

    def answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        chunks = TOLD.get("chunks") or usual(body)
        try:
            for index, chunk in enumerate(chunks):
                if MOOD == "cut" and index == 1:
                    self.close_connection = True
                    return
                if MOOD == "hang" and index == 1:
                    time.sleep(3600)
                self.event(chunk if isinstance(chunk, str) else json.dumps(chunk))
                if MOOD == "endless":
                    for _ in range(2000):
                        time.sleep(0.005)
                        self.event(json.dumps(chunk))
            if MOOD != "no end":
                self.event("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            print("client went away", flush=True)

    def event(self, data: str) -> None:
        raw = f"data: {data}\n\n".encode()
        self.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")
        self.wfile.flush()


def usual(body: dict[str, Any]) -> list[Any]:
    chat = "messages" in body
    chunks: list[Any] = []
    for text in TEXT:
        choice: dict[str, Any] = {"index": 0, "finish_reason": None}
        choice |= {"delta": {"content": text}} if chat else {"text": text}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": text, "logprob": -0.5, "bytes": list(text.encode()), "id": 7}]}
        chunks.append({"choices": [choice]})
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": TOLD.get("reason", "stop")}]})
    if TOLD.get("usage", True):
        details = {"cached_tokens": 2}
        usage = {"prompt_tokens": 5, "completion_tokens": len(TEXT), "prompt_tokens_details": details}
        chunks.append({"choices": [], "usage": usage})
    return chunks


def main() -> None:
    print(f"fake engine: {MOOD}", flush=True)
    if MOOD == "die while loading":
        print("cannot read the weights", flush=True)
        sys.exit(9)
    if MOOD == "ignore SIGTERM":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if MOOD == "with a child":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)  # a child of the fake engine"])
    if MOOD == "hang while loading":
        time.sleep(3600)
    server = ThreadingHTTPServer((option("--host", "127.0.0.1"), int(option("--port", "0"))), Handler)
    server.daemon_threads = True
    if "--tell-port" in sys.argv:
        print(f"port {server.server_port}", flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
