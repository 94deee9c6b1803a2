"""Whatever a hub sends as a listing: sound entries, or a refusal by name."""

from __future__ import annotations

import contextlib
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thaloom.base.errors import UntrustedSource
from thaloom.kernel.models.pulling.listing import (
    MOST_FILE_BYTES,
    checked,
    is_plain_path,
    read_commit,
    read_hugging_face,
    read_model_scope,
)

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
json = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner))
digest = st.sampled_from(["a" * 40, "b" * 64, "A" * 64, "", "x" * 40, "../a"]) | leaves
size = st.integers(-5, 1 << 70) | leaves
path = st.sampled_from(["a", "b/c", "b", "../a", "/a", "a/../b", "a\\b", "é.json", "\x00", "C:x"]) | leaves
hf_entry = st.fixed_dictionaries(
    {"type": st.sampled_from(["file", "directory", "x"]), "path": path, "size": size, "oid": digest},
    optional={"lfs": st.none() | st.fixed_dictionaries({"oid": digest, "size": size})},
)
ms_entry = st.fixed_dictionaries({"Path": path, "Size": size, "Sha256": digest}, optional={"Type": st.just("tree")})


def require_sound(read: Any, answer: Any) -> None:
    try:
        files = checked(read(answer, "hub"), "hub")
    except UntrustedSource:
        return
    for file in files:
        assert 0 <= file.num_bytes <= MOST_FILE_BYTES
        assert (file.sha256 is None) != (file.git_sha1 is None)
        assert not PurePosixPath(file.path).is_absolute()
        assert ".." not in PurePosixPath(file.path).parts
    assert len({file.path for file in files}) == len(files)


@given(st.lists(hf_entry, max_size=5) | json)
def test_hugging_face(answer: Any) -> None:
    require_sound(read_hugging_face, answer)


@given(st.fixed_dictionaries({"Data": st.fixed_dictionaries({"Files": st.lists(ms_entry, max_size=5)})}) | json)
def test_model_scope(answer: Any) -> None:
    require_sound(read_model_scope, answer)


@given(json | st.fixed_dictionaries({"sha": digest}))
def test_a_commit(answer: Any) -> None:
    with contextlib.suppress(UntrustedSource):
        assert len(read_commit(answer, "hub")) in range(40, 65)


@given(st.text(max_size=30) | json)
def test_a_plain_path_stays_where_it_is_put(path: Any) -> None:
    if is_plain_path(path):
        assert PurePosixPath("/home/x", path).is_relative_to("/home/x")
        assert ".." not in path.split("/")


@pytest.mark.parametrize("path", ["a", "a/b.json", "tokenizer_1.json", "é.json", "a b.txt"])
def test_ordinary_paths(path: str) -> None:
    assert is_plain_path(path)
