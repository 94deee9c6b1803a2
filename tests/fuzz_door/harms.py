"""What is done to a body: as data, as JSON text, and as bytes."""

from __future__ import annotations

import copy
import functools
import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

MIB = 1024 * 1024
NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 0.5, -0.5, 1e308, -1e308, 5e-324, 1e-9, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63,
    2**64, -(2**63) - 1, 10**30, 10**400, 129, 1025, 4096,
)  # fmt: skip
TEXTS = (
    "", " ", "\x00", "a\x00b", "\ud800", "\udfff\ud800", "\u202e", "\ufeff", "é" * 50, "𝔘" * 20, "😀", "a" * 300,
    "x" * 70_000, "<|im_end|>", "<|endoftext|>", "{{ 1/0 }}", "{% for i in range(10**9) %}{% endfor %}", "../../x",
    "%s%n", "'; --", "null", "NaN", "1e400", "-", "tiny\n", "tiny:latest", "TINY", "sha256:" + "0" * 64, "http://x",
    "data:image/png;base64,AAAA", "\n\n", "data: [DONE]\n\n", "\r\nx: y",
)  # fmt: skip
WORDS = (
    "tiny", "user", "assistant", "system", "tool", "function", "developer", "text", "type", "name", "content", "auto",
    "required", "none", "json_schema", "json_object", "f", "image_url", "input_text", "output_text", "tool_use",
    "tool_result", "thinking", "message", "function_call", "function_call_output", "reasoning", "regex",
    "allowed_tools",
)  # fmt: skip
FIELDS = (
    "stream", "n", "best_of", "stop", "logprobs", "top_logprobs", "echo", "suffix", "logit_bias", "tools",
    "tool_choice",
    "response_format", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar", "json_schema",
    "structured_outputs", "min_tokens", "ignore_eos", "min_p", "top_k", "repetition_penalty", "stop_token_ids",
    "prompt_logprobs", "functions", "function_call", "audio", "modalities", "prediction", "metadata", "store", "input",
    "instructions", "reasoning", "include", "truncation", "background", "conversation", "prompt", "messages", "system",
    "thinking", "output_config", "stop_sequences", "options", "format", "template", "raw", "images", "think", "context",
    "truncate", "dimensions", "encoding_format", "query", "documents", "text_1", "text_2", "tokens", "source",
    "max_tokens", "max_completion_tokens", "temperature", "seed", "priority", "user", "chat_template",
    "add_generation_prompt", "continue_final_message", "replace", "__proto__", "",
)  # fmt: skip
"""Not keep_alive: with 0 the model is unloaded in the middle of it all."""
LETTERS = (
    b"9", b"0", b"-1", b"-", b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"1e9", b"null", b"true", b"1.5", b"NaN",
    b"Infinity", b"9" * 40, b"[[[[", b'{"a":' * 20, b"\\ud800", b"\\u0000", b"\x00", b"\xff\xfe", b"\xed\xa0\x80",
    b"\xc0\xaf", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\r\n\r\n", b"//", b"/**/", b"'",
)  # fmt: skip


def any_value(chance: random.Random, depth: int = 3) -> Any:
    """A value of JSON, or what Python's encoder writes in its place (lone surrogates; NaN comes by text)."""
    kind = chance.randrange(9 if depth else 6)
    if kind == 0:
        return chance.choice((None, True, False))
    if kind <= 2:
        return chance.choice(NUMBERS)
    if kind == 3:
        return chance.choice(TEXTS)
    if kind <= 5:
        return chance.choice(WORDS)
    if kind == 6:
        return [any_value(chance, depth - 1) for _ in range(chance.randrange(4))]
    if kind == 7:
        return {chance.choice(WORDS + FIELDS): any_value(chance, depth - 1) for _ in range(chance.randrange(4))}
    one = any_value(chance, 0)
    return [one] * chance.choice((2, 50, 2000 if len(encode(one)) < 200 else 3))


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value."""
    found = [at] if at else []
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        found += places(value, (*at, key))
    return found


def change_structure(body: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """One to four values left out, doubled, swapped, replaced, wrapped, or added."""
    body = copy.deepcopy(body)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        found = places(body)
        if not found or chance.random() < 0.15:
            body[chance.choice(FIELDS)] = any_value(chance)
            continue
        at = chance.choice(found)
        parent: Any = body
        for step in at[:-1]:
            parent = parent[step]
        how, key = chance.randrange(8), at[-1]
        if how == 0:
            del parent[key]
        elif how == 1 and isinstance(parent, list):
            many = 1500 if len(encode(parent[key])) < 200 else 3
            parent[key:key] = [copy.deepcopy(parent[key])] * chance.choice((1, 3, many))
        elif how == 2:
            parent[key] = [parent[key]]
        elif how == 3:
            parent[key] = {chance.choice(WORDS): parent[key]}
        elif how == 4 and isinstance(parent, dict):
            parent[chance.choice(WORDS + FIELDS)] = parent.pop(key)
        elif how == 5:
            other: Any = body
            for step in chance.choice(found):
                other = other[step] if isinstance(other, dict | list) and _has(other, step) else other
            parent[key] = copy.deepcopy(other)
        else:
            parent[key] = any_value(chance)
    return body


def _has(data: Any, key: Any) -> bool:
    return key in data if isinstance(data, dict) else isinstance(key, int) and key < len(data)


def encode(data: Any) -> bytes:
    return json.dumps(data).encode()


def change_text(body: bytes, chance: random.Random) -> bytes:
    """The same, or nearly, as JSON that parsers disagree about, or take long for."""
    return chance.choice(_TEXT_HARMS)(body, chance)


def _deep(body: bytes, chance: random.Random) -> bytes:
    opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}")))
    depth = chance.choice((20, 199, 201, 1000, 100_000))
    nested = opening * depth + b"1" + closing * chance.choice((0, depth, depth))
    return nested if chance.random() < 0.3 else body[:-1] + b',"metadata":' + nested + b"}"


def _twice(body: bytes, chance: random.Random) -> bytes:
    key = chance.choice((b"model", b"messages", b"stream", b"input", b"prompt", b"max_tokens"))
    value = encode(any_value(chance))
    return (
        b'{"' + key + b'":' + value + b"," + body[1:]
        if chance.random() < 0.5
        else (body[:-1] + b',"' + key + b'":' + value + b"}")
    )


def _wide(body: bytes, chance: random.Random) -> bytes:
    many = b",".join(b'"k%d":%d' % (i, i) for i in range(chance.choice((100, 20_000))))
    return body[:-1] + b"," + many + b"}"


_TEXT_HARMS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _deep,
    _twice,
    _wide,
    lambda body, chance: body[:-1] + b',"seed":' + chance.choice((
        b"NaN", b"Infinity", b"-Infinity", b"1" * 5000, b"1e99999", b"0x10", b"01", b"+1", b".5", b"1.", b"-0",
        b"1E400",
    )) + b"}",
    lambda body, chance: body[:-1] + b',"user":"' + chance.choice(LETTERS) * chance.choice((1, 1000)) + b'"}',
    lambda body, chance: body.decode().encode(chance.choice(("utf-16", "utf-32", "utf-8-sig", "utf-16-be"))),
    lambda body, chance: body + chance.choice((b" ", b"\n" * 5000, b"x", b"\x00", body, b"}", b"//", b",")),
    lambda body, chance: chance.choice((b" " * 5000, b"\t\r\n", b"\x00", b"[", b"\xef\xbb\xbf")) + body,
    lambda _, chance: chance.choice((
        b"", b"null", b"[]", b"1", b'"x"', b"{", b"}", b"{}", b"\x00", b"true", b"[" * 200_000, b"{}{}", b"\xff" * 100,
    )),
    lambda body, chance: body.replace(b'"', chance.choice((b"'", b"", b'""', b'\\"'))),
    lambda body, chance: body[:-1] + b',"' + b"k" * chance.choice((1000, 500_000)) + b'":1}',
    lambda body, chance: body.replace(b'"model"', b'"\\u006dodel"').replace(b"tiny", b"t\\u0069ny"),
)  # fmt: skip


def change_bytes(data: bytes, chance: random.Random) -> bytes:
    """One to four small blind harms."""
    result = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(result) or 1)
        harm = chance.randrange(8)
        if harm == 0 and result:
            result[at] ^= 1 << chance.randrange(8)
        elif harm == 1:
            result[at : at + chance.randint(1, 8)] = b""
        elif harm == 2:
            result[at:at] = chance.randbytes(chance.randint(1, 8))
        elif harm == 3:
            word = chance.choice(LETTERS)
            result[at : at + chance.choice((0, 1, len(word)))] = word
        elif harm == 4 and chance.random() < 0.3:
            del result[at:]
        elif harm == 5:
            start = chance.randrange(len(result) or 1)
            result[at:at] = result[start : start + chance.randint(1, 60)]
        elif harm == 6:
            result[at : at + 4] = struct.pack("<I", chance.choice((0, 1, 2**31, 2**32 - 1)))
        elif result:
            result[at] = chance.randrange(256)
    return bytes(result)


@functools.cache
def _bomb(num_mib: int) -> bytes:
    return gzip.compress(b'{"a":"' + b" " * num_mib * MIB)


def compress(body: bytes, chance: random.Random) -> tuple[bytes, bytes]:
    """(the body, its content-encoding): right, broken, or a bomb."""
    kind = chance.randrange(10)
    packed = gzip.compress(body)
    if kind == 0:
        return packed, b"gzip"
    if kind == 1:
        return _bomb(chance.choice((1, 9, 64))), b"gzip"
    if kind == 2:
        return gzip.compress(_bomb(9)), b"gzip"
    if kind == 3:
        return packed + packed, b"x-gzip"
    if kind == 4:
        return packed[: chance.randrange(len(packed))], b"gzip"
    if kind == 5:
        return change_bytes(packed, chance), b"gzip"
    if kind == 6:
        return zlib.compress(body), chance.choice((b"gzip", b"deflate"))
    if kind == 7:
        return body, chance.choice((b"gzip", b"br", b"zstd", b"gzip, gzip", b"identity, gzip", b"", b"\xff", b"GZIP"))
    if kind == 8:
        return packed + b"x" * chance.choice((1, 1000)), b"gzip"
    return b"\x1f\x8b\x08\x00" + chance.randbytes(chance.randrange(60)), b"gzip"
