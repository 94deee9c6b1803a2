"""Who asks is known by the kernel's word or a token; what is refused is told, and not too often."""

from __future__ import annotations

import os

import pytest

from tests.contract.edge.doorkeepers import StandingClock
from tests.gates import HeldKeys, Notes, gate
from thaloom.base.access import Needs
from thaloom.base.actions import LOCAL, Caller
from thaloom.base.errors import BadParameter, Forbidden, RateLimited, Unauthorized
from thaloom.base.events import Recorder
from thaloom.init.access.gate import DOOR, STRANGER, Gate
from thaloom.init.access.refusals import MOST_AN_HOUR, MOST_OF_ONE
from thaloom.init.events import AccessRefused
from thaloom.kernel.state.types import AccessKey, KeyLimits
from thaloom.kernel.trust.keys import digest_of, new_key

OWN = os.getuid()
ADMIN = Needs(role="admin", scope="node")


def held(name: str = "ci") -> tuple[HeldKeys, str]:
    key_id, secret = new_key()
    key = AccessKey(
        name=name, id=key_id, digest=digest_of(secret), limits=KeyLimits(), created_at=0.0, role="operator",
        tenant="acme", scopes=("read",),
    )  # fmt: skip
    return HeldKeys([key]), secret


def identify(
    door: Gate, uid: int | None = OWN, *, shown: tuple[str, ...] = (), by_door: bool = False, client: str | None = None
) -> Caller:
    return door.identify(uid, shown=shown, by_door=by_door, client=client)


def test_by_the_socket_the_nodes_own_user_and_root_are_admins() -> None:
    assert identify(gate()) == LOCAL
    assert identify(gate(), 0).role == "admin"
    with pytest.raises(Unauthorized):
        identify(gate(), 20_000)
    with pytest.raises(Unauthorized):
        identify(gate(), None)


def test_other_users_are_what_the_settings_say_and_no_more() -> None:
    door = gate(users={"20000": "operator", "root": "viewer"})
    assert identify(door, 20_000) == Caller("person", "20000", role="operator")
    assert identify(door, 0).role == "admin", "root could do it all anyway"
    assert door.may_connect(20_000)
    assert not door.may_connect(20_001)
    assert door.others_may_connect
    with pytest.raises(BadParameter):
        gate(users={"no such user here": "viewer"})
    door.use({})
    assert not door.may_connect(20_000), "who was taken out of the settings is out at once"


@pytest.mark.parametrize("uid", [20_000, 20_001])
def test_who_says_he_is_the_door_and_is_not_gains_nothing(uid: int) -> None:
    door = gate(users={"20000": "viewer"})
    for client in (None, "127.0.0.1"):
        if uid == 20_000:
            assert identify(door, uid, by_door=True, client=client) == Caller("person", "20000", role="viewer")
        else:
            with pytest.raises(Unauthorized):
                identify(door, uid, by_door=True, client=client)


def test_a_token_makes_who_shows_it_its_holder_even_by_the_socket() -> None:
    keys, secret = held()
    expected = Caller(
        "program", "ci", tenant="acme", role="operator", scopes=frozenset({"read"}), way="token"
    )  # fmt: skip
    door = gate(keys)
    assert identify(door, shown=(secret,)) == expected
    assert identify(door, shown=(secret,), by_door=True, client="192.0.2.1") == expected
    with pytest.raises(Unauthorized):
        identify(door, shown=("sk-th-guess",))


def test_the_door_itself_needs_no_token_and_who_comes_by_it_does() -> None:
    keys, _ = held()
    assert identify(gate(keys), by_door=True) == DOOR
    with pytest.raises(Unauthorized):
        identify(gate(keys), by_door=True, client="127.0.0.1")
    assert identify(gate(), by_door=True, client="127.0.0.1") == STRANGER
    for caller in (DOOR, STRANGER):
        with pytest.raises(Forbidden):
            gate().admit(caller, ADMIN, "POST /x")


def test_guesses_are_slowed_at_the_daemon_too() -> None:
    keys, secret = held()
    clock = StandingClock()
    door = gate(keys, clock=clock)
    assert identify(door, shown=(secret,), by_door=True, client="192.0.2.1").name == "ci"
    for _ in range(10):
        with pytest.raises(Unauthorized):
            identify(door, shown=("guess",), by_door=True, client="192.0.2.1")
    with pytest.raises(RateLimited) as refused:
        identify(door, shown=("guess",), by_door=True, client="192.0.2.1")
    assert refused.value.retry_after_s == pytest.approx(6.0)
    assert identify(door, shown=(secret,), by_door=True, client="192.0.2.1").name == "ci"
    with pytest.raises(Unauthorized):
        identify(door, shown=("guess",), by_door=True, client="192.0.2.2")


def test_a_refusal_is_told_once_a_minute_and_so_many_times_an_hour() -> None:
    notes, events, clock = Notes(), Recorder(), StandingClock()
    door = gate(notes=notes, clock=clock, emit=events)
    viewer = Caller("person", "eve", role="viewer")
    for _ in range(50):
        with pytest.raises(Forbidden):
            door.admit(viewer, ADMIN, "POST /down")
    assert len(notes.entries) == len(events.of(AccessRefused)) == 1
    clock.at += 61.0
    with pytest.raises(Forbidden):
        door.admit(viewer, ADMIN, "POST /down")
    assert [record["untold"] for _, record, _ in notes.entries] == [0, 49], "none is lost from the count"
    for number in range(10_000):
        with pytest.raises(Forbidden):
            door.admit(viewer, ADMIN, f"POST /{number}")
    assert len(notes.entries) == MOST_OF_ONE, "one who is known has his part"
    door.refused_at_door("192.0.2.1", "/v1/models", "unauthorized", "none", 1)
    assert len(notes.entries) == MOST_OF_ONE + 1, "and a stranger a room of his own"
    clock.at += 3600.0
    with pytest.raises(Forbidden):
        door.admit(viewer, ADMIN, "POST /again")
    assert notes.entries[-1][1]["untold"] == 10_000 - (MOST_OF_ONE - 2)
    assert len(door.telling._told) <= 256


def test_strangers_who_guess_drive_no_refusal_of_others_out_of_the_journal() -> None:
    notes, clock = Notes(), StandingClock()
    door = gate(notes=notes, clock=clock)
    for number in range(1000):
        door.refused_at_door(f"192.0.2.{number}", "/v1/models", "unauthorized", "none", 7)
    assert len(notes.entries) == MOST_AN_HOUR
    for number in range(1000):
        with pytest.raises(Forbidden):
            door.admit(Caller("program", f"p{number}", role="viewer"), ADMIN, "POST /down")
    assert len(notes.entries) == 2 * MOST_AN_HOUR, "and there is an end to that too"
    clock.at += 3600.0
    door.refused_at_door("192.0.2.1", "/v1/chat", "unauthorized", "none", 1)
    assert notes.entries[-1][1]["untold"] == (1000 - MOST_AN_HOUR) * 7, "none is lost from the count"


def test_what_is_allowed_is_told_nowhere() -> None:
    notes = Notes()
    gate(notes=notes).admit(LOCAL, ADMIN, "POST /down")
    assert notes.entries == []
