"""What people write, and which of a listing's files it means."""

from __future__ import annotations

import pytest

from thaloom.base.errors import BadParameter, NotServable, ThaloomError, UnsafeFormat
from thaloom.base.ids import Digest
from thaloom.kernel.models.pulling.listing import Listing, RemoteFile
from thaloom.kernel.models.pulling.pull import default_name, source_text
from thaloom.kernel.models.pulling.selecting import select
from thaloom.kernel.models.pulling.sources import is_hub_name, parse_source
from thaloom.kernel.models.types import HubModel

HERE = "http://127.0.0.1:7411"


@pytest.mark.parametrize(
    ("text", "means", "endpoint"),
    [
        ("org/name", "hf://org/name@main", None),
        ("Org/Na.me-1_x@v1.0", "hf://Org/Na.me-1_x@v1.0", None),
        ("org/name@refs/pr/1", "hf://org/name@refs/pr/1", None),
        ("org/name:Q4_K_M", "hf://org/name@main:Q4_K_M", None),
        ("org/name@v1:sub/file.gguf", "hf://org/name@v1:sub/file.gguf", None),
        ("hf://name", "hf://name@main", None),
        ("ms://org/name", "ms://org/name@master", None),
        (f"{HERE}/name", "hf://name@main", HERE),
        (f"{HERE}/org/name/", "hf://org/name@main", HERE),
        (f"{HERE}/org/name/tree/v1", "hf://org/name@v1", HERE),
        (f"{HERE}/org/name/blob/main/a.gguf", "hf://org/name@main:a.gguf", HERE),
        (f"{HERE}/org/name/resolve/refs%2Fpr%2F1/b/a.gguf?download=true", "hf://org/name@refs/pr/1:b/a.gguf", HERE),
        ("https://modelscope.cn/models/org/name/files", "ms://org/name@master", "https://modelscope.cn"),
        ("https://[::1]:80/org/name", "hf://org/name@main", "https://[::1]:80"),
    ],
)
def test_names_that_are_understood(text: str, means: str, endpoint: str | None) -> None:
    assert is_hub_name(text)
    model = parse_source(text)
    assert (str(model), model.endpoint) == (means, endpoint)


@pytest.mark.parametrize(
    "text",
    [
        "hf://", "hf://a/b/c", "hf://../b", "hf://a/..", "org/name@", "org/name@../x", "org/name@a b", "ms://name",
        "org/name:../x.gguf", "org/name:/etc/x", "org/name:a//b", "https://", "https://u:p@h/a/b", "http://h/a/b/c",
        "https://h:x/a/b", "org/na me", "org/name:x\n", "hf://a/b\u202e", "https://h/", "http://[/a/b",
    ],
)  # fmt: skip
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(BadParameter):
        parse_source(text)


@pytest.mark.parametrize("text", ["tiny", "./a/b", "/a/b", "a/b/c", "../a", "~/a", "", "a/b c"])
def test_what_is_not_meant_for_a_hub(text: str) -> None:
    assert not is_hub_name(text)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "x.PT", "a/b.ckpt", "m.pkl"])
def test_a_pickle_is_refused_before_anybody_is_asked(name: str) -> None:
    with pytest.raises(UnsafeFormat):
        parse_source(f"org/name:{name}")


@pytest.mark.parametrize("endpoint", ["https://huggingface.co", "https://modelscope.cn", HERE])
@pytest.mark.parametrize(
    "text", ["org/name", "org/name@v1:sub/a.gguf", "org/name@refs/pr/1", "ms://org/name", "ms://org/name@v1:a.gguf"]
)
def test_what_is_shown_of_a_pull_names_it_again(text: str, endpoint: str) -> None:
    model = parse_source(text)
    again = parse_source(source_text(model, endpoint))
    assert str(again) == str(model)
    assert again.endpoint in (None, endpoint)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Org/Qwen2.5-0.5B", "qwen2.5-0.5b"),
        ("org/x-GGUF:Q4_K_M", "x-gguf:q4_k_m"),
        ("org/x:sub/a b+c.gguf", "x:a-b-c"),
        ("org/x:" + "y" * 200 + ".gguf", "x:" + "y" * 63),
    ],
)
def test_names_in_the_store(text: str, name: str) -> None:
    assert str(default_name(parse_source(text))) == name


def listing(*paths: str) -> Listing:
    files = [RemoteFile(path=path, num_bytes=1, sha256=Digest("a" * 64), git_sha1=None) for path in paths]
    return Listing(commit="c" * 40, files=tuple(files))


@pytest.mark.parametrize(
    ("there", "choice", "indexed", "taken"),
    [
        (["model.safetensors", "x.safetensors", "config.json"], None, None, ["model.safetensors", "config.json"]),
        (["a.safetensors", "b.safetensors", "sub/c.safetensors"], None, None, ["a.safetensors", "b.safetensors"]),
        (["p/1.safetensors", "2.safetensors"], None, {"p/1.safetensors"}, ["p/1.safetensors"]),
        (["m.gguf", "README.md"], None, None, ["m.gguf"]),
        (["m.gguf", "m.safetensors"], None, None, ["m.safetensors"]),
        (["m-Q4_K_M.gguf", "m-Q4_K_S.gguf"], "q4_k_s", None, ["m-Q4_K_S.gguf"]),
        (["Q8_0/m.gguf", "m.gguf"], "Q8_0", None, ["Q8_0/m.gguf"]),
        (["m.gguf", "m2.gguf"], "m.gguf", None, ["m.gguf"]),
        (["m.safetensors", "t.jinja", "vocab.txt", "s.model", ".x.json", "a.py", "sub/c.json"], None, None,
         ["m.safetensors", "t.jinja", "vocab.txt", "s.model"]),
    ],
)  # fmt: skip
def test_which_files_are_taken(
    there: list[str], choice: str | None, indexed: set[str] | None, taken: list[str]
) -> None:
    assert [file.path for file in select(listing(*there), choice, indexed)] == taken


@pytest.mark.parametrize(
    ("there", "choice", "indexed", "leaf"),
    [
        ([], None, None, NotServable),
        (["a.gguf", "b.gguf"], None, None, BadParameter),
        (["a-00001-of-00002.gguf"], None, None, NotServable),
        (["a.gguf"], "b.gguf", None, BadParameter),
        (["config.json", "a.gguf"], "config.json", None, BadParameter),
        (["a-Q4.gguf", "b-Q4.gguf"], "Q4", None, BadParameter),
        (["w.bin"], None, None, UnsafeFormat),
        (["a.safetensors"], None, {"b.safetensors"}, NotServable),
    ],
)
def test_what_cannot_be_chosen(
    there: list[str], choice: str | None, indexed: set[str] | None, leaf: type[ThaloomError]
) -> None:
    with pytest.raises(leaf):
        select(listing(*there), choice, indexed)


def test_a_token_is_not_shown() -> None:
    from thaloom.kernel.models.types import HubSettings

    assert "secret" not in repr(HubSettings(hf_token="secret", ms_token="secret"))
    assert HubModel(hub="hf", repo="a/b", revision="main").endpoint is None
