"""Case number N of a seed: always the same, but for the ids of what the node keeps."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from tests.fuzz_door import explosions, harms, transport
from tests.fuzz_door.sound import SOUND, Sound
from tests.fuzz_door.transport import Sent, Wire, at_once

WEIGHTS = [sound.weight for sound in SOUND]
CONSTRAINED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate")
MAX_BYTES = 10 * 1024 * 1024
"""Of all that is sent: somewhat more than the door reads."""
_PINNED = ("destination", "source", "name", "keep_alive")
"""Of requests that copy and import: other names would become models by the hundred."""
_FORBIDDEN = re.compile(rb"(PUT|DELETE)\s\S*services/+tiny(?![a-z0-9])|POST\s\S*/down|keep_alive", re.IGNORECASE)
"""What does as it is told: ends the service, or the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    seed: int
    number: int
    operation: str
    """The one it was made from."""
    harm: str
    sent: Sent
    path: str | None
    """What is asked for, where that is known for certain: says in which form an error must be."""
    is_head: bool

    @property
    def replay(self) -> str:
        return f"python -m tests.fuzz_door --seed {self.seed} --only {self.number}"


def make_case(seed: int, number: int, ids: Mapping[str, str]) -> Case:
    for again in range(100):
        chance = random.Random(f"{seed} {number} {again}")
        case = _make(seed, number, chance, ids)
        size = sum(len(piece) for _, piece in case.sent.pieces)
        if size <= MAX_BYTES and not any(_FORBIDDEN.search(unquote_to_bytes(piece)) for _, piece in case.sent.pieces):
            return case
    raise AssertionError(f"case {number} of seed {seed} cannot be made")


def _make(seed: int, number: int, chance: random.Random, ids: Mapping[str, str]) -> Case:
    sound = chance.choices(SOUND, WEIGHTS)[0]
    harm = chance.choices(list(_HARMS), [weight for weight, _ in _HARMS.values()])[0]
    target = sound.path + (f"?{sound.query}" if sound.query else "")
    wire = Wire(method=sound.method.encode(), target=target.encode(), body=sound.data)
    wire.headers = [(b"host", b"localhost"), (b"content-type", sound.content_type)]
    for name, value in ids.items():
        wire.target, wire.body = (
            wire.target.replace(name.encode(), value.encode()),
            wire.body.replace(f'"{name}"'.encode(), f'"{value}"'.encode()),
        )
    sent = _HARMS[harm][1](wire, sound, chance)
    known = sent.manner in ("whole", "left") and harm not in ("target", "headers", "method")
    return Case(
        seed=seed, number=number, operation=sound.operation, harm=harm, sent=sent,
        path=sound.path if known else None, is_head=wire.method == b"HEAD",
    )  # fmt: skip


Harm = Callable[[Wire, Sound, random.Random], Sent]


def _nothing(wire: Wire, sound: Sound, chance: random.Random) -> Sent:
    return at_once(wire.encode())


def _structure(wire: Wire, sound: Sound, chance: random.Random) -> Sent:
    if isinstance(sound.body, dict):
        wire.body = harms.encode(_pinned(sound, harms.change_structure(sound.body, chance)))
    else:
        wire.body = harms.change_bytes(wire.body, chance) if wire.body else harms.encode(harms.any_value(chance))
    return at_once(wire.encode())


def _pinned(sound: Sound, body: dict[str, Any]) -> dict[str, Any]:
    assert isinstance(sound.body, dict)
    makes_models = sound.path.endswith(("/copy", "/pull"))
    kept = {name: sound.body[name] for name in _PINNED if name in sound.body and isinstance(body.get(name), str)}
    return body | kept if makes_models else body


def _text(wire: Wire, sound: Sound, chance: random.Random) -> Sent:
    wire.body = harms.change_text(wire.body or b"{}", chance) if isinstance(sound.body, dict) else b"\xff" * 50
    return at_once(wire.encode())


def _bytes(wire: Wire, sound: Sound, chance: random.Random) -> Sent:
    wire.body = harms.change_bytes(wire.body, chance)
    return at_once(wire.encode())


def _explosion(wire: Wire, sound: Sound, chance: random.Random) -> Sent:
    if sound.path in CONSTRAINED and isinstance(sound.body, dict):
        wire.body = harms.encode(explosions.constrain(sound.body, sound.path, chance))
        return at_once(wire.encode())
    return _structure(wire, sound, chance)


def _compressed(wire: Wire, sound: Sound, chance: random.Random) -> Sent:
    wire.body, encoding = harms.compress(wire.body or b"{}", chance)
    wire.headers.append((b"content-encoding", encoding))
    return at_once(wire.encode())


def _target(wire: Wire, sound: Sound, chance: random.Random) -> Sent:
    if not sound.steady:
        transport.change_target(wire, chance)
    return at_once(wire.encode(), "torn" if b" " in wire.target else "whole")


def _method(wire: Wire, sound: Sound, chance: random.Random) -> Sent:
    if not sound.steady:
        transport.change_method(wire, chance)
    return at_once(wire.encode())


def _headers(wire: Wire, sound: Sound, chance: random.Random) -> Sent:
    return transport.change_headers(wire, chance)


def _way(wire: Wire, sound: Sound, chance: random.Random) -> Sent:
    way = chance.choices([way for _, way in transport.WAYS], [weight for weight, _ in transport.WAYS])[0]
    return way(wire, chance)


_HARMS: dict[str, tuple[float, Harm]] = {
    "none": (6, _nothing),
    "structure": (34, _structure),
    "text": (10, _text),
    "bytes": (12, _bytes),
    "explosion": (8, _explosion),
    "compressed": (5, _compressed),
    "target": (8, _target),
    "method": (3, _method),
    "headers": (8, _headers),
    "way": (10, _way),
}
"""By name: how often, and what is done."""
