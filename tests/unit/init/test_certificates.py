"""The certificate of a node's door: made, changed, refused, put back, told of; and the actions that do so."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import pair, write_own, write_pair
from thaloom.base.actions import Call
from thaloom.base.clock import ManualClock
from thaloom.base.errors import (
    BadParameter,
    CertificateMissing,
    CertificateUnusable,
    NameTaken,
    ThaloomError,
    WrongState,
)
from thaloom.base.events import Degraded, Recorder
from thaloom.init.access import certificates
from thaloom.init.access.certificates import WARN_S, Certificates
from thaloom.init.acting.certificates import (
    CertificateWish,
    ImportCertificate,
    MakeCertificate,
    PutBackCertificate,
    RenewalWish,
    RenewCertificate,
    ReturnWish,
    TakeoverWish,
)
from thaloom.init.acting.kinds import NO_AID, read
from thaloom.init.boot import NodeConfig
from thaloom.init.events import CertificateChanged, CertificateExpiring
from thaloom.init.host_names import host_names
from thaloom.init.layout import Layout
from thaloom.kernel.trust.certificates import DAY_S
from thaloom.kernel.trust.tls import DoorConfig

BEYOND = NodeConfig(host="0.0.0.0")


class Kept:
    """Certificates in a home of their own, at a moment that the test chooses."""

    def __init__(self, home: Path, settings: NodeConfig = BEYOND, *, after_s: float = 0.0) -> None:
        self.layout = Layout(home)
        home.mkdir(exist_ok=True)
        self.events = Recorder()
        self.clock = ManualClock(time.time() + after_s)
        self.certificates = Certificates(self.layout, settings, door=lambda: None, clock=self.clock, emit=self.events)
        self.certificates.load()
        self.kinds: dict[str, Any] = {
            kind.name: kind
            for kind in (
                MakeCertificate(self.certificates),
                RenewCertificate(self.certificates),
                ImportCertificate(self.certificates, self.clock),
                PutBackCertificate(self.certificates),
            )
        }

    def do(self, kind: str, wish: Any) -> Any:
        """Plan, apply, look; the plan."""

        async def done() -> Any:
            plan = await self.kinds[kind].plan(wish)
            await self.kinds[kind].apply(wish, NO_AID)
            assert await self.kinds[kind].holds(wish)
            return plan

        return asyncio.run(done())

    def undo(self, plan: Any) -> Any:
        call: Call = plan.undo
        return self.do(call.kind, read(self.kinds[call.kind], call))

    @property
    def fingerprint(self) -> str | None:
        return self.certificates.status().fingerprint

    @property
    def reasons(self) -> list[str]:
        return [condition.reason for condition in self.certificates.conditions()]


def test_it_is_made_renewed_and_put_back(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "h", NodeConfig())
    made = kept.do("certificate.make", CertificateWish(names=("gpu", "10.0.0.1")))
    first = kept.fingerprint
    assert first is not None
    assert kept.layout.door_pair.stat().st_mode & 0o777 == 0o600
    with pytest.raises(NameTaken, match="renew"):
        kept.do("certificate.make", CertificateWish(names=("gpu",)))

    renewed = kept.do("certificate.renew", RenewalWish(instead_of=first, names=("gpu", "10.0.0.1")))
    second = kept.fingerprint
    assert second not in (None, first)
    assert kept.layout.door_pair_before.stat().st_mode & 0o777 == 0o600
    with pytest.raises(WrongState, match="meanwhile"):
        kept.do("certificate.renew", RenewalWish(instead_of=first, names=("gpu",)))

    undone = kept.undo(renewed)
    assert kept.fingerprint == first
    kept.undo(undone)
    assert kept.fingerprint == second, "what undid it can be undone"
    with pytest.raises(WrongState, match="is another"):
        kept.do("certificate.put_back", ReturnWish(fingerprint="ab" * 32))
    kept.undo(made)
    assert (kept.fingerprint, kept.layout.door_pair.exists()) == (None, False)
    assert [event.fingerprint for event in kept.events.of(CertificateChanged)][-1] is None


def test_a_plan_changes_nothing_and_tells_no_key(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "h")
    wish = CertificateWish(names=("gpu",), days=7)
    plan = asyncio.run(kept.kinds["certificate.make"].plan(wish))
    again = asyncio.run(kept.kinds["certificate.make"].plan(wish))
    assert plan.digest == again.digest
    assert not kept.layout.door_pair.exists()
    assert plan.changes[0].after == {"names": ["gpu"], "days": 7}
    assert not asyncio.run(kept.kinds["certificate.make"].holds(wish))
    for wrong in (CertificateWish(names=("a b",)), CertificateWish(names=()), CertificateWish(names=("a",), days=0)):
        with pytest.raises(BadParameter):
            asyncio.run(kept.kinds["certificate.make"].plan(wrong))
    with pytest.raises(CertificateMissing):
        asyncio.run(kept.kinds["certificate.renew"].plan(RenewalWish(instead_of="", names=("a",))))


def test_a_door_that_speaks_tls_keeps_a_certificate(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "h")
    made = kept.do("certificate.make", CertificateWish(names=("gpu",)))
    with pytest.raises(WrongState, match="would have no certificate"):
        kept.undo(made)


def test_files_are_taken_over_once_they_are_sound(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "h")
    good = pair("gpu")
    certificate, key = write_pair(tmp_path, good)
    wish = TakeoverWish(fingerprint=good.certificate.fingerprint, certificate=str(certificate), key=str(key))
    plan = kept.do("certificate.import", wish)
    assert plan.changes[0].after["fingerprint"] == good.certificate.fingerprint == kept.fingerprint
    assert "PRIVATE" not in str(plan.to_record())
    assert asyncio.run(kept.kinds["certificate.import"].plan(wish)).changes == (), "it is there already"
    write_pair(tmp_path, pair("gpu"))
    with pytest.raises(WrongState, match="meanwhile"):
        asyncio.run(kept.kinds["certificate.import"].plan(wish))
    old = pair("gpu", age_s=40 * DAY_S, days=30)
    write_pair(tmp_path, old)
    expired = TakeoverWish(fingerprint=old.certificate.fingerprint, certificate=str(certificate), key=str(key))
    with pytest.raises(CertificateUnusable, match="has expired"):
        asyncio.run(kept.kinds["certificate.import"].plan(expired))
    assert kept.fingerprint == good.certificate.fingerprint


def test_files_of_others_are_never_written(tmp_path: Path) -> None:
    certificate, key = write_pair(tmp_path, pair("gpu"))
    door = DoorConfig(certificate=str(certificate), key=str(key))
    kept = Kept(tmp_path / "h", NodeConfig(host="0.0.0.0", door=door))
    assert kept.fingerprint is not None
    assert not kept.certificates.status().own
    wishes: dict[str, Any] = {
        "certificate.make": CertificateWish(names=("gpu",)),
        "certificate.renew": RenewalWish(instead_of=kept.fingerprint, names=("gpu",)),
        "certificate.import": TakeoverWish(fingerprint="", certificate=str(certificate)),
        "certificate.put_back": ReturnWish(fingerprint=None),
    }
    for kind, wish in wishes.items():
        with pytest.raises(WrongState, match="replace that file"):
            asyncio.run(kept.kinds[kind].plan(wish))


def test_what_is_bad_is_told_and_does_not_come_into_force(tmp_path: Path) -> None:
    good = pair("gpu")
    own = write_own(tmp_path / "h", good)
    kept = Kept(tmp_path / "h")
    for text in (b"", b"nonsense", good.text[:300], pair("gpu", age_s=40 * DAY_S, days=30).text):
        own.write_bytes(text)
        kept.certificates.use(BEYOND)
        assert kept.fingerprint == good.certificate.fingerprint
        assert kept.reasons == ["CertificateRefused"]
        assert kept.certificates.status().problem is not None
    own.chmod(0o644)
    kept.certificates.use(BEYOND)
    assert "any user" in (kept.certificates.status().problem or "")
    own.unlink()
    kept.certificates.use(BEYOND)
    assert kept.reasons == ["CertificateRefused"]
    assert len(kept.events.of(Degraded)) == 6
    other = pair("gpu")
    write_own(tmp_path / "h", other)
    kept.certificates.use(BEYOND)
    assert (kept.fingerprint, kept.reasons) == (other.certificate.fingerprint, [])


def test_who_needs_none_is_told_nothing(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "h", NodeConfig())
    kept.certificates.require()
    assert kept.reasons == []
    assert kept.certificates.status().problem is None
    assert not kept.events.events
    beyond = Kept(tmp_path / "i")
    with pytest.raises(CertificateMissing, match="thaloom cert make"):
        beyond.certificates.require()


@pytest.mark.parametrize(
    ("days", "after_s", "reasons"),
    [
        (90, 0.0, []),
        (90, 90 * DAY_S - WARN_S - 600, []),
        (90, 90 * DAY_S - WARN_S + 600, ["CertificateExpiring"]),
        (90, 90 * DAY_S + 600, ["CertificateExpired"]),
        (6, 3 * DAY_S, []),
        (6, 5 * DAY_S, ["CertificateExpiring"]),
    ],
)
def test_an_end_that_comes_near_is_told(tmp_path: Path, days: int, after_s: float, reasons: list[str]) -> None:
    write_own(tmp_path / "h", pair("gpu", days=days))
    assert Kept(tmp_path / "h", after_s=after_s).reasons == reasons
    assert Kept(tmp_path / "h", NodeConfig(), after_s=after_s).reasons == [], "nobody is shown it"


def test_an_end_that_comes_near_is_logged_once_a_day(tmp_path: Path) -> None:
    write_own(tmp_path / "h", pair("gpu", days=30))
    kept = Kept(tmp_path / "h", after_s=15 * DAY_S)

    async def watched() -> None:
        watching = asyncio.create_task(kept.certificates.watch())
        await asyncio.sleep(0)
        await kept.clock.advance(10 * DAY_S)
        watching.cancel()

    asyncio.run(watched())
    told = kept.events.of(CertificateExpiring)
    assert 5 <= len(told) <= 7, "for the last third of its life"
    assert "thaloom cert renew" in told[0].message


def test_what_a_killed_write_left_is_swept(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "h")
    left = [kept.layout.home / name for name in ("door.pem.77.partial", "door.pem.before.78.partial")]
    for path in left:
        path.write_text("a key")
    kept.certificates.sweep()
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("num_done", [0, 1, 2])
def test_a_kill_while_the_earlier_one_is_put_back_loses_neither(
    num_done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path / "h")
    kept.do("certificate.make", CertificateWish(names=("gpu",)))
    first = kept.fingerprint
    assert first is not None
    kept.do("certificate.renew", RenewalWish(instead_of=first, names=("gpu",)))
    second = kept.fingerprint

    class Killed(BaseException): ...

    writes: list[Path] = []
    write = certificates._write

    def until_killed(path: Path, text: bytes) -> None:
        if len(writes) == num_done:
            raise Killed
        writes.append(path)
        write(path, text)

    monkeypatch.setattr(certificates, "_write", until_killed)
    monkeypatch.setattr(kept.certificates, "_keep_as_before", lambda: until_killed(Path(), b""))
    with pytest.raises(Killed):
        kept.certificates.put_back(first)
    monkeypatch.undo()
    after = Kept(tmp_path / "h")
    after.certificates.sweep()
    after.certificates.load()
    present, previous = after.certificates.current, after.certificates.previous
    assert present is not None
    assert previous is not None
    assert {present.fingerprint, previous.fingerprint} == {first, second}
    assert present.fingerprint == (second if num_done < 2 else first)
    assert not after.layout.door_pair_aside.exists()


def test_a_disk_that_is_full_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path / "h")
    kept.do("certificate.make", CertificateWish(names=("gpu",)))
    before = kept.layout.door_pair.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ThaloomError, match="no space left"):
        kept.certificates.make(["gpu"], 7)
    monkeypatch.undo()
    assert kept.layout.door_pair.read_bytes() == before
    assert not list(kept.layout.home.glob("*.partial"))


def test_what_this_machine_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-7")
    routes = tmp_path / "fib_trie"
    routes.write_text(
        "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n"
        "        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 169.254.3.4\n"
        "        /32 host LOCAL\n"
    )
    six = tmp_path / "if_inet6"
    six.write_text(
        "20010db8000000000000000000000007 02 40 00 80 eth0\nfe800000000000000000000000000001 02 40 20 80 eth0\n"
        "00000000000000000000000000000001 01 80 10 80 lo\n"
    )
    assert host_names(routes, six) == ("gpu-7", "10.0.0.5", "2001:db8::7", "localhost", "127.0.0.1", "::1")
    monkeypatch.setattr("socket.gethostname", lambda: "no name at all")
    assert host_names(tmp_path / "no", tmp_path / "no") == ("localhost", "127.0.0.1", "::1")
