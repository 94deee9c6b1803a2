"""What travels between a worker and whoever talks to it: small typed messages over a unix socket.

A frame is a 4-byte big-endian length and that many bytes of msgpack. One connection carries one request: the first
frame is `Generate`, `GetStatus` or `Shutdown`. Closing the connection cancels the request, so a killed door leaves
nothing behind. Text stays at the door: a worker of ours knows tokens only. A foreign engine knows text only, so its
worker is asked with `Ask` and `AskEmbedding`, in the words of types.py (docs/decisions/0015-foreign-engines.md).
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import msgspec

from thaloom.base.errors import BadRequest
from thaloom.kernel.models.types import ModelTensor
from thaloom.work.runtime.types import (
    Delta,
    Done,
    Embedding,
    EmbedRequest,
    GenerateRequest,
    Inferred,
    InferRequest,
    PaintRequest,
    Pictures,
    SpeechRequest,
    TranscribeRequest,
    Transcript,
    Utterance,
)

MAX_FRAME_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct(">I")


class Grammar(msgspec.Struct, frozen=True, kw_only=True):
    """What the answer must be, as types.Constraint. `ends`: the model's own stop tokens."""

    kind: str
    text: str
    param: str
    ends: list[int]


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag="generate"):
    """Ask for tokens. Sampling fields as in types.Sampling; `logprobs` and `min_tokens` as in types.GenerateRequest."""

    id: str
    prompt: list[int]
    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    seed: int
    stop_tokens: list[int]
    logprobs: int | None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: list[tuple[int, float]] = []
    min_tokens: int = 0
    grammar: Grammar | None = None
    prompt_logprobs: int | None = None
    """How many of the likeliest tokens to report for each position of the prompt but the first; None: none of it."""
    rank: int = 1
    """Where requests wait, the lower comes first: 0 high, 1 normal, 2 low (types.Priority)."""
    cache_salt: str = ""
    """Blocks are shared with requests of the same salt alone."""
    pins: list[tuple[int, float]] = []
    """Of the prompt, so many tokens from its first on, and for how many seconds after each use their keys and values
    are to stay in the cache. Whole blocks; where several name one, the longest counts."""
    owner: str = ""
    """Against whose part of the room for pins they count; empty: against that of all who have the same salt."""
    report: list[int] = []
    """Tokens whose log-probabilities are reported too, with every token of the answer; needs `logprobs`."""


class Embed(msgspec.Struct, frozen=True, kw_only=True, tag="embed"):
    """Ask for the model's state over a text: at its last token, or the mean over all."""

    id: str
    prompt: list[int]
    pooling: str


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag="ask"):
    """Ask a foreign engine for an answer in text."""

    request: GenerateRequest


class AskEmbedding(msgspec.Struct, frozen=True, kw_only=True, tag="ask_embedding"):
    request: EmbedRequest


class Infer(msgspec.Struct, frozen=True, kw_only=True, tag="infer"):
    """Ask for one pass through a model that is no language model."""

    request: InferRequest


class Transcribe(msgspec.Struct, frozen=True, kw_only=True, tag="transcribe"):
    request: TranscribeRequest


class Speak(msgspec.Struct, frozen=True, kw_only=True, tag="speak"):
    request: SpeechRequest


class Paint(msgspec.Struct, frozen=True, kw_only=True, tag="paint"):
    request: PaintRequest


class GetStatus(msgspec.Struct, frozen=True, tag="get_status"):
    pass


class Shutdown(msgspec.Struct, frozen=True, kw_only=True, tag="shutdown"):
    """Refuse new requests, finish running ones within `grace_s`, then end the process. The answer is a WorkerStats,
    whose phase tells whether it is `stopping`."""

    grace_s: float
    if_idle_s: float | None = None
    """Only if nobody is owed an answer, and nobody has asked anything for so long."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag="accepted"):
    """The request is in the queue. Always the first answer to Generate, unless Failed is."""

    waiting: int


class LogprobRow(msgspec.Struct, frozen=True, kw_only=True):
    """The chosen token's log-probability and the likeliest tokens with theirs, likeliest first."""

    chosen: float
    top_tokens: list[int]
    top_logprobs: list[float]
    reported: list[float] = []
    """Of the tokens of `Generate.report`, in their order."""


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """What the beginning of an answer cost: all that is known of it if the door ends the answer at a stop string."""

    cached_tokens: int
    queue_s: float
    prefill_s: float
    pinned_tokens: int = 0
    """Of the prompt, those that are in the cache to stay as `pins` says: the first ones, as far as there was room."""


class PromptLogprobs(msgspec.Struct, frozen=True, kw_only=True, tag="prompt_logprobs"):
    """Of the prompt's tokens from its second on, in order, in as many messages as it takes; before all Tokens."""

    rows: list[LogprobRow]


class State(msgspec.Struct, frozen=True, kw_only=True, tag="state"):
    """What Embed asked for: float32, little-endian. The end of that request."""

    values: bytes


class Piece(msgspec.Struct, frozen=True, kw_only=True, tag="piece"):
    """Some more of a foreign engine's answer."""

    delta: Delta


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """The end of the answer to Ask."""

    done: Done


class Embedded(msgspec.Struct, frozen=True, kw_only=True, tag="embedded"):
    """The answer to AskEmbedding, and its end."""

    embedding: Embedding


class InferDone(msgspec.Struct, frozen=True, kw_only=True, tag="infer_done"):
    """The answer to Infer, and its end."""

    result: Inferred


class Transcribed(msgspec.Struct, frozen=True, kw_only=True, tag="transcribed"):
    """The answer to Transcribe, and its end."""

    transcript: Transcript


class Spoken(msgspec.Struct, frozen=True, kw_only=True, tag="spoken"):
    """The answer to Speak, and its end."""

    speech: Utterance


class PaintDone(msgspec.Struct, frozen=True, kw_only=True, tag="paint_done"):
    """The answer to Paint, and its end."""

    pictures: Pictures


class Tokens(msgspec.Struct, frozen=True, kw_only=True, tag="tokens"):
    tokens: list[int]
    logprobs: list[LogprobRow] | None
    started: Started | None = None
    """With the first tokens of an answer only."""


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    """The end of an answer. A stop token is not among the tokens sent, but counts in `completion_tokens`."""

    reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    stop_token: int | None = None
    """Which stop token ended it, if one did."""
    pinned_tokens: int = 0


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """A typed error, as base.errors.ThaloomError.to_dict gives it."""

    error: dict[str, Any]


class WorkerStats(msgspec.Struct, frozen=True, kw_only=True, tag="stats"):
    """A worker's account of itself. Counters grow from its start; seconds and bytes."""

    worker: str
    service: str
    model: str
    model_digest: str
    pid: int
    ready: bool
    device: str
    driver: str
    num_threads: int
    context_length: int
    vocab_size: int
    exact: bool
    operator_levels: dict[str, str]
    degraded: str | None
    weight_bytes: int
    kv_bytes: int
    scratch_bytes: int
    num_blocks: int
    free_blocks: int
    cached_blocks: int
    running: int
    waiting: int
    requests_total: int
    cancelled_total: int
    prompt_tokens_total: int
    cached_tokens_total: int
    completion_tokens_total: int
    steps_total: int
    step_seconds_total: float
    preemptions_total: int
    kv_committed_bytes: int = 0
    """Of `kv_bytes`, what has memory behind it now."""
    failed_total: int = 0
    """Accepted requests that ended with an error of ours."""
    failed_steps_total: int = 0
    drafted_tokens_total: int = 0
    """Guessed tokens that were verified; `accepted_tokens_total` of them were right."""
    accepted_tokens_total: int = 0
    inputs: list[ModelTensor] = []
    """Of a model that is no language model."""
    outputs: list[ModelTensor] = []
    engine: str = "thaloom"
    """A foreign one's `weight_bytes` are all its processes hold: nobody can tell more."""
    phase: str = "ready"
    """`loading`, `ready` or `stopping`."""
    idle_s: float | None = None
    """For how long nobody has asked it anything; None: somebody is owed an answer, or it is not ready, or too old to
    tell."""
    turn_wait_seconds_total: float = 0.0
    """Until the device was this worker's; not in `step_seconds_total`."""
    missed_turns_total: int = 0
    """Steps that no longer waited for that."""
    shared_weight_bytes: int = 0
    """Of `weight_bytes`: in memory that outlives the worker and that others may use."""
    kv_host_bytes: int = 0
    """Of the host's memory, for keys and values that left the pool; so many of them are taken, and the same on disk."""
    kv_host_held_bytes: int = 0
    kv_disk_bytes: int = 0
    kv_disk_held_bytes: int = 0
    saved_tokens_total: int = 0
    """Whose keys and values left the pool and were kept; `restored_tokens_total`: came back, and were not computed
    again."""
    restored_tokens_total: int = 0
    pinned_blocks: int = 0
    """Of the blocks that are held or cached."""
    refused_pin_tokens_total: int = 0
    """That were to be pinned, and found no room."""
    broken_pin_tokens_total: int = 0
    """That were pinned, and were given away before their time."""


Task = Generate | Embed | Ask | AskEmbedding | Infer | Transcribe | Speak | Paint
"""What is queued and answered in its turn."""
Request = Task | GetStatus | Shutdown
Whole = Embedded | InferDone | Transcribed | Spoken | PaintDone
"""An answer in one piece."""
Reply = Accepted | PromptLogprobs | Tokens | Finished | Piece | Ended | Whole | Failed | State | WorkerStats

_encoder = msgspec.msgpack.Encoder()
_request_decoder = msgspec.msgpack.Decoder(Request)
_reply_decoder = msgspec.msgpack.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    """One frame, ready to be written."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The next request, or None at a clean end. Raises BadRequest for anything that is not one."""
    body = await _read_frame(reader)
    try:
        return None if body is None else _request_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"not a request: {error}") from error


async def read_reply(reader: asyncio.StreamReader) -> Reply | None:
    """The next reply, or None if the other side went away. Raises BadRequest for anything that is not one."""
    body = await _read_frame(reader)
    try:
        return None if body is None else _reply_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"not a reply: {error}") from error


class ReplyFrames:
    """Replies cut out of a stream of bytes as they come, for a reader that takes whatever is there."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are whole now. Raises BadRequest for anything that is not one; it is of no use then."""
        data, at, replies = self._rest + data, 0, []
        while len(data) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > MAX_FRAME_BYTES:
                raise BadRequest(f"a frame of {length} bytes is larger than {MAX_FRAME_BYTES}")
            end = at + _LENGTH.size + length
            if end > len(data):
                break
            try:
                replies.append(_reply_decoder.decode(memoryview(data)[at + _LENGTH.size : end]))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise BadRequest(f"not a reply: {error}") from error
            at = end
        self._rest = data[at:]
        return replies


async def _read_frame(reader: asyncio.StreamReader) -> bytes | None:
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_FRAME_BYTES:
            raise BadRequest(f"a frame of {length} bytes is larger than {MAX_FRAME_BYTES}")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
