"""A key is found by what it shows openly and told from a guess by what it hides."""

from __future__ import annotations

from dataclasses import dataclass

from thaloom.kernel.trust.keys import KeyRing, digest_of, new_key


@dataclass(frozen=True)
class Kept:
    id: str
    digest: str


def test_a_new_key_is_found_and_nothing_of_it_is_kept() -> None:
    key_id, key = new_key()
    kept = Kept(key_id, digest_of(key))
    assert KeyRing([kept]).find(key) is kept
    assert key.startswith(f"sk-th-{key_id}-")
    assert key[-43:] not in repr(kept)
    assert len({new_key() for _ in range(100)}) == 100


def test_guesses_find_nothing() -> None:
    key_id, key = new_key()
    other_id, other = new_key()
    ring = KeyRing([Kept(key_id, digest_of(key))])
    flipped = key[:-1] + ("A" if key[-1] != "A" else "B")
    for guess in (other, flipped, key + "A", key[:-1], " " + key, f"sk-th-{key_id}-", "", "none", "sk-th-", "é" * 62):
        assert ring.find(guess) is None
    assert ring.find(key.replace(key_id, other_id)) is None


def test_a_ring_without_keys_finds_nothing() -> None:
    assert KeyRing[Kept](()).find(new_key()[1]) is None
