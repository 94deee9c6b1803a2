"""Hubs that lie: each lie is refused by name, and nothing of it stays."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hubs import Asked, FakeHub, Reply, Twist, serving_hub
from tests.unit.kernel_models_pulling.pulls import Puller, model_files
from thaloom.base.errors import CorruptObject, ThaloomError, Untrusted, UntrustedSource
from thaloom.kernel.models.pulling import hubs, listing


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with serving_hub(FakeHub(model_files(tmp_path / "model"))) as served:
        yield served


@pytest.fixture
def puller(hub: FakeHub, tmp_path: Path) -> Puller:
    return Puller(tmp_path / "home", hub.url)


def about_files(change: Callable[[Asked, Reply], Reply | None], name: str = "") -> Twist:
    """A twist of the answers that hold a file's bytes."""

    def twist(asked: Asked, reply: Reply) -> Reply:
        hit = "/resolve/" in asked.path and name in asked.path
        return (change(asked, reply) or reply) if hit else reply

    return twist


def about_listing(change: Callable[[Any], Any]) -> Twist:
    def twist(asked: Asked, reply: Reply) -> Reply:
        if "/tree/" in asked.path:
            reply.body = json.dumps(change(json.loads(reply.body))).encode()
        return reply

    return twist


def first(**changed: Any) -> Callable[[Any], Any]:
    """The listing with its first entry changed."""
    return lambda entries: [entries[0] | changed, *entries[1:]]


def short(asked: Asked, reply: Reply) -> None:
    reply.body = reply.body[:-1]


def short_in_chunks(asked: Asked, reply: Reply) -> None:
    reply.body, reply.chunked = reply.body[:-1], True


def long(asked: Asked, reply: Reply) -> None:
    reply.body += b"more"


def long_in_chunks(asked: Asked, reply: Reply) -> None:
    reply.body, reply.chunked = reply.body + b"more", True


def endless(asked: Asked, reply: Reply) -> None:
    reply.body, reply.endless = reply.body or b"x", True


def other_range(asked: Asked, reply: Reply) -> None:
    if "content-range" in reply.headers:
        reply.headers["content-range"] = "bytes 0-1/2"


def no_range(asked: Asked, reply: Reply) -> None:
    reply.headers.pop("content-range", None)


def other_bytes(asked: Asked, reply: Reply) -> None:
    reply.body = bytes(len(reply.body))


@pytest.mark.parametrize("lie", [short, short_in_chunks, long, long_in_chunks, endless, other_range, no_range])
def test_a_wrong_length(hub: FakeHub, puller: Puller, lie: Any) -> None:
    hub.twist = about_files(lie, "safetensors")
    refused(puller, CorruptObject, "wrong_length", "model.safetensors")


@pytest.mark.parametrize("lie", [short, long, endless, other_bytes])
def test_a_small_file_is_no_smaller_matter(hub: FakeHub, puller: Puller, lie: Any) -> None:
    hub.twist = about_files(lie, "generation_config.json")
    refused(puller, CorruptObject, "wrong_digest" if lie is other_bytes else "wrong_length", "generation_config")


def test_a_wrong_digest(hub: FakeHub, puller: Puller) -> None:
    hub.twist = about_files(other_bytes, "model.safetensors")
    refused(puller, CorruptObject, "wrong_digest", "model.safetensors")


def test_an_index_with_other_bytes(tmp_path: Path) -> None:
    with serving_hub(FakeHub(model_files(tmp_path / "model", num_shards=2))) as hub:
        hub.twist = about_files(other_bytes, "index.json")
        refused(Puller(tmp_path / "home", hub.url), CorruptObject, "wrong_digest", "index.json")


def test_another_commit_than_was_asked_for(hub: FakeHub, puller: Puller) -> None:
    def other(asked: Asked, reply: Reply) -> None:
        reply.headers["x-repo-commit"] = "e" * 40

    hub.twist = about_files(other)
    refused(puller, UntrustedSource, "other_commit", "e" * 40)


@pytest.mark.parametrize(
    "target",
    [
        "http://8.8.8.8/file",
        "http://192.168.0.1/file",
        "https://10.1.2.3/file",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/file",
        "ftp://127.0.0.1/file",
        "file:///etc/passwd",
        "http://user:password@127.0.0.1/file",
    ],
)
def test_a_file_that_leads_where_it_may_not(hub: FakeHub, puller: Puller, target: str) -> None:
    hub.twist = about_files(lambda asked, reply: Reply(status=302, headers={"location": target}))
    refused(
        puller,
        UntrustedSource,
        "bad_url" if "ftp" in target or "@" in target or "file:" in target else "redirect_off_host",
        "",
    )


def test_a_listing_from_another_host(hub: FakeHub, puller: Puller) -> None:
    with serving_hub(FakeHub(hub.files)) as other:
        hub.twist = lambda asked, reply: Reply(status=307, headers={"location": f"{other.url}{asked.path}"})
        refused(puller, UntrustedSource, "redirect_off_host", other.url)
        assert other.asked == []


def test_redirects_without_end(hub: FakeHub, puller: Puller) -> None:
    hub.twist = about_files(lambda asked, reply: Reply(status=302, headers={"location": asked.path + "x"}))
    refused(puller, UntrustedSource, "endless_redirects", "")
    assert len(hub.asked) < 100


def test_a_token_stays_with_its_hub_and_the_file_comes_from_another(hub: FakeHub, puller: Puller) -> None:
    hub.token = "hf_secret"
    with serving_hub(FakeHub(hub.files)) as store:

        def away(asked: Asked, reply: Reply) -> Reply:
            return Reply(status=302, headers={"location": store.url + asked.path})

        hub.twist = about_files(away)
        puller("org/name", token="hf_secret")
        assert store.asked
        assert hub.asked
        for asked in store.asked:
            assert "hf_secret" not in json.dumps(asked.headers)
        assert all(asked.headers["authorization"] == "Bearer hf_secret" for asked in hub.asked)


def test_a_token_for_one_hub_is_not_for_another_that_somebody_names(hub: FakeHub, puller: Puller) -> None:
    with serving_hub(FakeHub(hub.files)) as other:
        puller(f"{other.url}/org/name", token="hf_secret")
        assert other.asked
        assert all("authorization" not in asked.headers for asked in other.asked)


@pytest.mark.parametrize(
    "path",
    [
        "../evil.json", "/etc/evil.json", "a/../../evil.json", "..", "", "a//b.json", "./x.json", "C:/evil.json",
        "a\\..\\evil.json", "evil\x00.json", "evil\n.json", "x" * 300, "ev\u202eil.json", "\ud800.json",
        None, 7, ["config.json"],
    ],
)  # fmt: skip
def test_a_path_that_is_none(hub: FakeHub, puller: Puller, path: Any) -> None:
    hub.twist = about_listing(first(path=path))
    refused(puller, UntrustedSource, "bad_path", "")
    assert not list(puller.home.parent.rglob("evil*"))
    assert hub.files_asked() == []


@pytest.mark.parametrize("size", [-1, 1 << 60, 1.5, "7", "\ud800", None, True])
def test_a_size_that_is_none(hub: FakeHub, puller: Puller, size: Any) -> None:
    hub.twist = about_listing(first(size=size))
    refused(puller, UntrustedSource, "bad_size", "")


@pytest.mark.parametrize("oid", ["", "zz" * 20, None, 7, "../x"])
def test_a_digest_that_is_none(hub: FakeHub, puller: Puller, oid: Any) -> None:
    hub.twist = about_listing(first(oid=oid))
    refused(puller, UntrustedSource, "no_digest", "")


@pytest.mark.parametrize("answer", [{}, [1], "x", None, [{"type": "socket"}], {"error": "no"}])
def test_a_listing_that_is_none(hub: FakeHub, puller: Puller, answer: Any) -> None:
    hub.twist = about_listing(lambda entries: answer)
    refused(puller, UntrustedSource, "no_listing", "")


def test_a_path_that_is_there_twice(hub: FakeHub, puller: Puller) -> None:
    hub.twist = about_listing(lambda entries: [*entries, entries[0]])
    refused(puller, UntrustedSource, "path_twice", "")


def test_a_listing_without_end(hub: FakeHub, puller: Puller, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = 0

    def more(asked: Asked, reply: Reply) -> Reply:
        nonlocal pages
        if "/tree/" in asked.path:
            pages += 1
            entries = [{"type": "file", "path": f"f{pages}-{i}", "size": 1, "oid": "a" * 40} for i in range(1000)]
            reply.body = json.dumps(entries).encode()
            reply.headers["link"] = f'<{asked.path.partition("?")[0]}?cursor={pages}>; rel="next"'
        return reply

    hub.twist = more
    refused(puller, UntrustedSource, "endless_listing", "")
    assert pages <= listing.MOST_FILES // 1000 + 1
    hub.twist = lambda asked, reply: _same_page_again(asked, reply)
    refused(puller, UntrustedSource, "endless_listing", "")
    monkeypatch.setattr(hubs, "MOST_ANSWER_BYTES", 100_000)
    hub.twist = lambda asked, reply: Reply(body=b" " * 1000, endless=True)
    refused(puller, UntrustedSource, "endless_answer", "")


def test_a_listing_that_goes_on_elsewhere(hub: FakeHub, puller: Puller) -> None:
    def elsewhere(asked: Asked, reply: Reply) -> Reply:
        reply.headers["link"] = '<http://127.0.0.1:1/more>; rel="next"'
        return reply

    hub.twist = elsewhere
    refused(puller, UntrustedSource, "redirect_off_host", "")


def test_a_page_instead_of_an_answer(hub: FakeHub, puller: Puller) -> None:
    page = Reply(headers={"content-type": "text/html"}, body=b"<html>Please log in</html>")
    hub.twist = lambda asked, reply: page
    refused(puller, UntrustedSource, "no_json", "text/html instead of JSON")


def test_json_that_is_too_deep(hub: FakeHub, puller: Puller) -> None:
    hub.twist = lambda asked, reply: Reply(body=b"[" * 200_000)
    refused(puller, UntrustedSource, "no_json", "")


def test_a_commit_that_is_none(hub: FakeHub, puller: Puller) -> None:
    for sha in ("../x", "main", None, 7):
        hub.twist = lambda asked, reply, sha=sha: Reply(body=json.dumps({"sha": sha}).encode())  # type: ignore[misc]
        refused(puller, UntrustedSource, "no_commit", "")


@pytest.mark.parametrize("where", ["/tree/", "/resolve/"])
def test_an_answer_that_is_packed(hub: FakeHub, puller: Puller, where: str) -> None:
    bomb = gzip.compress(bytes(10_000_000))

    def packed(asked: Asked, reply: Reply) -> Reply:
        return Reply(headers={"content-encoding": "gzip"}, body=bomb) if where in asked.path else reply

    hub.twist = packed
    refused(puller, UntrustedSource, "encoded_answer", "gzip")


@pytest.mark.parametrize("length", ["-5", "1, 2", "x", "5\x00"])
def test_a_content_length_that_is_none(hub: FakeHub, puller: Puller, length: str) -> None:
    def odd(asked: Asked, reply: Reply) -> None:
        reply.headers["content-length"] = length

    hub.twist = about_files(odd)
    refused(puller, UntrustedSource, "no_http", "")


def test_what_is_listed_and_not_there(hub: FakeHub, puller: Puller) -> None:
    hub.twist = about_files(lambda asked, reply: Reply(status=404, headers={"x-error-code": "EntryNotFound"}))
    refused(puller, UntrustedSource, "listed_and_missing", "")


def test_a_hub_that_cannot_go_on_where_it_was(hub: FakeHub, puller: Puller) -> None:
    def whole(asked: Asked, reply: Reply) -> Reply:
        name = asked.path.rpartition("/")[2]
        return Reply(body=hub.files[name], headers={"x-repo-commit": hub.commit})

    hub.twist = about_files(whole, "model.safetensors")
    refused(puller, UntrustedSource, "no_ranges", "")


def test_weights_that_are_something_else(hub: FakeHub, puller: Puller) -> None:
    """Length and digest are true; only it is no safetensors file."""
    hub.files["model.safetensors"] = b"\x80\x04" + hashlib.sha256(b"").digest() * 100
    with pytest.raises(Untrusted):
        puller()
    assert puller.is_empty()


def refused(puller: Puller, leaf: type[ThaloomError], rule: str, words: str) -> None:
    with pytest.raises(leaf) as refusal:
        puller()
    assert refusal.value.details["rule"] == rule
    json.dumps(refusal.value.to_dict(), ensure_ascii=False).encode()  # it has to travel
    assert words in refusal.value.message
    assert puller.is_empty()
    assert puller.unfinished() == []


def _same_page_again(asked: Asked, reply: Reply) -> Reply:
    reply.headers["link"] = f'<{asked.path}>; rel="next"'
    return reply
