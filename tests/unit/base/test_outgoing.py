"""Who may be reached, what is written down, and that there is no other way out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from thaloom.base import air_gap
from thaloom.base.air_gap import AirGap, without_secrets
from thaloom.base.clock import ManualClock
from thaloom.base.errors import AirGapped
from thaloom.base.reach import kind_of, kind_of_all, literal_kind, may_carry_secrets, origin, why_not_follow

SOURCES = Path(__file__).resolve().parents[3] / "src" / "thaloom"
HERE = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"), ("127.9.9.9", "loopback"), ("::1", "loopback"), ("0.0.0.0", "loopback"),
        ("::ffff:127.0.0.1", "loopback"), ("10.0.0.1", "private"), ("192.168.1.1", "private"),
        ("172.16.0.1", "private"), ("169.254.169.254", "private"), ("100.64.0.1", "private"), ("fe80::1", "private"),
        ("fc00::1", "private"), ("::ffff:10.0.0.1", "private"), ("224.0.0.1", "private"), ("8.8.8.8", "public"),
        ("2606:4700::1", "public"), ("fe80::1%eth0", "private"),
    ],
)  # fmt: skip
def test_kinds_of_addresses(address: str, kind: str) -> None:
    assert kind_of(address) == kind


def test_a_name_with_several_addresses_is_the_least_public() -> None:
    assert kind_of_all(["8.8.8.8", "10.0.0.1"]) == "private"
    assert kind_of_all(["8.8.8.8", "10.0.0.1", "::1"]) == "loopback"
    assert kind_of_all(["8.8.8.8"]) == "public"
    assert literal_kind("localhost") == literal_kind("a.localhost") == "loopback"
    assert literal_kind("hub.example") is None


@pytest.mark.parametrize(
    ("first", "kind", "following", "following_kind", "allowed"),
    [
        ("https://hub", "public", "https://cdn", "public", True),
        ("https://hub", "public", "https://hub", "public", True),
        ("https://hub", "public", "http://hub", "public", False),
        ("https://hub", "public", "http://cdn", "public", False),
        ("https://hub", "public", "https://inside", "private", False),
        ("https://hub", "public", "https://here", "loopback", False),
        ("http://hub", "public", "http://cdn", "public", False),
        ("http://hub", "public", "https://cdn", "public", True),
        ("http://inside", "private", "http://store", "private", True),
        ("http://inside", "private", "https://cdn", "public", True),
        ("http://inside", "private", "http://cdn", "public", False),
        ("http://inside", "private", "http://here", "loopback", False),
        ("http://here", "loopback", "http://here:2", "loopback", True),
        ("http://here", "loopback", "http://inside", "private", False),
    ],
)
def test_where_a_redirect_may_lead(first: str, kind: str, following: str, following_kind: str, allowed: bool) -> None:
    why = why_not_follow(origin(first), kind, origin(following), following_kind)  # type: ignore[arg-type]
    assert (why is None) == allowed


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "file:///x", "http://u:p@x", "x", "http://u@x", "http://x:99999"]
)
def test_what_is_no_place(url: str) -> None:
    with pytest.raises(ValueError):
        origin(url)


def test_secrets_travel_encrypted_or_not_at_all() -> None:
    assert may_carry_secrets("https://hub.example")
    assert may_carry_secrets(HERE)
    assert not may_carry_secrets("http://hub.example")
    assert not may_carry_secrets("http://10.0.0.1")


def test_a_closed_gap_refuses_and_keeps_what_would_have_gone_out(tmp_path: Path) -> None:
    gap = AirGap(tmp_path / "calls", ManualClock(7.0), closed="it is closed")
    with pytest.raises(AirGapped, match=r"GET https://hub.example/x \(pull y\)"):
        gap.require_open(purpose="pull y", method="GET", url="https://u:secret@hub.example/x?token=secret#secret")
    (call,) = gap.refused()
    assert (call.time, call.reason, call.url) == (7.0, "it is closed", "https://hub.example/x")
    assert b"secret" not in (tmp_path / "calls").read_bytes()
    AirGap(tmp_path / "calls", ManualClock(), closed=None).require_open(purpose="", method="GET", url=HERE)


def test_the_list_is_bounded_and_survives_a_cut_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(air_gap, "_MOST_BYTES", 4000)
    gap = AirGap(tmp_path / "calls", ManualClock(), closed="closed")
    for number in range(100):
        with pytest.raises(AirGapped):
            gap.require_open(purpose=str(number), method="GET", url="https://hub.example/" + "x" * 2000)
        assert (tmp_path / "calls").stat().st_size <= 4000
    kept = [call.purpose for call in gap.refused()]
    assert kept[-1] == "99"
    assert kept == sorted(kept, key=int)
    with (tmp_path / "calls").open("ab") as file:
        file.write(b'{"time": 1')
    assert [call.purpose for call in gap.refused()] == kept


def test_what_is_shown_of_a_url() -> None:
    assert without_secrets("https://u:p@[::1]:8080/a?b#c") == "https://[::1]:8080/a"
    assert without_secrets("http://[bad") == "(not a URL)"


def test_nothing_else_of_ours_can_call_out() -> None:
    """What import-linter cannot see: the standard library's own ways. The control client speaks over a unix socket."""
    allowed = {"edge/client/control.py": {"http.client"}}
    found = {}
    for path in SOURCES.rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        ways = names & {"http.client", "urllib.request", "ftplib", "smtplib", "xmlrpc.client", "socketserver"}
        place = path.relative_to(SOURCES).as_posix()
        if ways - allowed.get(place, set()):
            found[place] = ways
    assert found == {}
