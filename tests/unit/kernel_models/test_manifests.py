"""A manifest on disk is exactly the one that was written, or it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thaloom.base.errors import CorruptObject
from thaloom.base.ids import Digest
from thaloom.kernel.models.manifests import Manifests, decode, digest_of_files, encode
from thaloom.kernel.models.types import FileEntry, Manifest, ModelCard, ModelName

FILES = tuple(
    FileEntry(path=path, num_bytes=3, tree=Digest("a" * 64), sha256=Digest("b" * 64))
    for path in ("config.json", "模型.txt")
)
CARD = ModelCard(
    architecture="LlamaForCausalLM",
    family="llama",
    num_parameters=1,
    dtypes=("bf16", "f32"),
    weight_bytes=2,
    context_length=None,
    vocab_size=7,
    has_tokenizer=True,
    has_chat_template=False,
    license="mit",
)
MANIFEST = Manifest(
    name=ModelName("m", "v1"),
    digest=digest_of_files(FILES),
    files=FILES,
    card=CARD,
    created_at=1.5,
    source="/somewhere",
)


def changed(**change: Any) -> bytes:
    return json.dumps(json.loads(encode(MANIFEST)) | change).encode()


def test_a_manifest_reads_back() -> None:
    assert decode(encode(MANIFEST)) == MANIFEST


def test_the_digest_does_not_depend_on_the_order_of_files() -> None:
    assert digest_of_files(FILES[::-1]) == MANIFEST.digest
    assert digest_of_files(FILES[:1]) != MANIFEST.digest


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        changed(version=3),
        changed(encrypted=True),
        changed(version=None),
        changed(unknown=1),
        changed(name={"name": "M", "tag": "v1"}),
        changed(name="m"),
        changed(card={}),
        changed(digest="c" * 64),
        changed(files=[]),
        changed(files=[{"path": "x", "num_bytes": 3, "tree": "../../etc", "sha256": "b" * 64}]),
        changed(created_at="yesterday"),
    ],
)
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode(text)


def test_a_manifest_under_another_name_is_refused(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    manifests.write(MANIFEST)
    assert manifests.read(MANIFEST.name) == MANIFEST
    manifests.path(MANIFEST.name).rename(tmp_path / "m" / "v2.json")
    assert manifests.read(MANIFEST.name) is None
    with pytest.raises(CorruptObject, match="is that of 'm:v1'"):
        manifests.read(ModelName("m", "v2"))


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    manifests = Manifests(tmp_path)
    manifests.path(MANIFEST.name).mkdir(parents=True)
    with pytest.raises(CorruptObject, match="cannot be read"):
        manifests.read(MANIFEST.name)
