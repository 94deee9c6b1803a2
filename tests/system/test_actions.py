"""What a person does with actions on a real node: look before, do just that, ask who did what, take it back, check."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest

from tests.models import make_model
from tests.system.cli import thaloom
from tests.system.node import Node, eventually, node

__all__ = ["node"]

pytestmark = pytest.mark.slow


@pytest.fixture
def up(node: Node, tmp_path: Path) -> Node:
    node.start()
    make_model(tmp_path / "small", "llama")
    assert thaloom(node, "pull", str(tmp_path / "small"), "--name", "small").code == 0
    return node


def test_a_change_is_looked_at_done_explained_and_taken_back(up: Node) -> None:
    (plan,) = thaloom(up, "serve", "small", "--threads", "1", "--dry-run", "--json").document["plans"]
    assert (plan["risk"], [change["subject"] for change in plan["changes"]]) == ("low", ["service/small"])
    assert thaloom(up, "ps", "--json").document["services"] == []
    refused = thaloom(up, "serve", "small", "--threads", "2", "--plan", plan["digest"], "--json")
    assert (refused.code, refused.error["code"]) == (4, "plan_changed")
    assert thaloom(up, "serve", "small", "--threads", "1", "--plan", plan["digest"]).code == 0

    (serving,) = thaloom(up, "history", "service/small", "--by", "person:local", "--json").document["actions"]
    assert (serving["kind"], serving["ending"]) == ("service.serve", "done")
    assert serving["id"] in thaloom(up, "history").out
    assert f"thaloom undo {serving['id']}" in thaloom(up, "explain", serving["id"]).out
    assert (
        thaloom(up, "undo", serving["id"], "--dry-run", "--json").document["plans"][0]["call"]["kind"] == "service.stop"
    )
    assert thaloom(up, "undo", serving["id"]).code == 0
    assert thaloom(up, "ps", "--json").document["services"] == []
    again = thaloom(up, "undo", serving["id"], "--json")
    assert (again.code, again.error["code"]) == (4, "nothing_to_undo")
    assert thaloom(up, "explain", "a-000000000000", "--json").error["code"] == "action_not_found"


def test_several_names_are_looked_at_together(up: Node) -> None:
    for name in ("one", "two"):
        assert thaloom(up, "token", "create", name).code == 0
    plans = thaloom(up, "token", "rm", "one", "two", "--dry-run", "--json").document["plans"]
    assert [plan["changes"][0]["subject"] for plan in plans] == ["key/one", "key/two"]
    assert all(plan["no_undo"] for plan in plans)
    assert len(thaloom(up, "token", "ls", "--json").document["keys"]) == 2
    digest = thaloom(up, "token", "rm", "one", "two", "--dry-run", "--json").document["digest"]
    turned = thaloom(up, "token", "rm", "two", "one", "--plan", digest, "--json")
    assert (turned.code, turned.error["code"]) == (4, "plan_changed")
    single = thaloom(up, "token", "rm", "one", "--plan", digest, "--json")
    assert single.error["code"] == "plan_changed"
    assert len(thaloom(up, "token", "ls", "--json").document["keys"]) == 2
    assert thaloom(up, "token", "rm", "one", "two", "--plan", digest).code == 0
    assert thaloom(up, "token", "ls", "--json").document["keys"] == []


def test_a_verb_that_asks_twice_shows_what_is_left_to_approve(up: Node) -> None:
    first = thaloom(up, "serve", "tiny", "--threads", "1", "--dry-run", "--json").document["plans"][0]
    assert first["call"]["kind"] == "model.import"
    asked = thaloom(up, "serve", "tiny", "--threads", "1", "--plan", first["digest"])
    assert asked.code == 4
    left = re.findall(r"--plan ([0-9a-f]{64})", asked.err)
    assert thaloom(up, "serve", "tiny", "--threads", "1", "--plan", left[-1]).code == 0


def test_a_journal_that_others_wrote_in_is_found_out_and_does_not_stop_the_node(up: Node, tmp_path: Path) -> None:
    assert thaloom(up, "token", "create", "one").code == 0
    checkpoint = tmp_path / "checkpoint.json"
    checkpoint.write_text(thaloom(up, "audit", "checkpoint").out)
    sound = thaloom(up, "audit", "verify", "--checkpoint", str(checkpoint))
    assert sound.code == 0, sound.err
    with contextlib.closing(sqlite3.connect(up.home / "state.db", isolation_level=None)) as database:
        database.execute("UPDATE journal SET by = 'person:nobody' WHERE kind = 'key.make' AND phase = 'intent'")
    broken = thaloom(up, "audit", "verify", "--json")
    assert broken.code != 0
    assert [fault["problem"] for fault in broken.document["faults"]] == ["altered"]
    assert thaloom(up, "token", "create", "two").code == 0
    words = tmp_path / "words.json"
    words.write_text("{}")
    assert thaloom(up, "audit", "verify", "--checkpoint", str(words)).code == 2


def test_after_a_kill_the_history_goes_on_and_the_chain_is_whole(up: Node) -> None:
    assert thaloom(up, "token", "create", "one").code == 0
    up.kill(up.daemon.pid)
    up.start()
    eventually(lambda: thaloom(up, "token", "rm", "one").code == 0)
    kinds = [action["kind"] for action in thaloom(up, "history", "--json").document["actions"]]
    assert kinds[0] == "key.remove"
    assert "key.make" in kinds
    assert thaloom(up, "audit", "verify").code == 0
