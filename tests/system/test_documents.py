"""Documents on a real node: looked at, applied, exported, waited for, refused with their line, and taken back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models import make_model
from tests.system.cli import thaloom
from tests.system.node import Node, eventually, node

__all__ = ["node"]

pytestmark = pytest.mark.slow
CHAT = """\
apiVersion: thaloom/v1
kind: Service
metadata: {name: chat, labels: {app: demo}}
spec:
  model: small
  num_threads: 1
"""
DATA = """\
apiVersion: thaloom/v1
kind: Workspace
metadata: {name: data, labels: {app: demo}}
spec: {owner: me}
"""
FED = """\
apiVersion: thaloom/v1
kind: Federation
metadata: {name: fed, labels: {app: demo}}
spec: {model: small, participants: [a, b]}
"""


@pytest.fixture
def up(node: Node, tmp_path: Path) -> Node:
    node.start()
    make_model(tmp_path / "small", "llama")
    assert thaloom(node, "pull", str(tmp_path / "small"), "--name", "small").code == 0
    return node


def test_documents_are_applied_looked_at_exported_and_taken_back(up: Node, tmp_path: Path) -> None:
    folder = tmp_path / "wishes"
    folder.mkdir()
    (folder / "chat.yaml").write_text(CHAT)
    (folder / "others.yml").write_text(f"{DATA}---\n{FED}")
    (folder / "README").write_text("no document")
    different = thaloom(up, "diff", "-f", str(folder), "--json")
    assert different.code == 1
    assert [change["subject"] for change in different.document["changes"]] == [
        "service/chat",
        "workspace/data",
        "federation/fed",
    ]
    (plan,) = thaloom(up, "apply", "-f", str(folder), "--dry-run", "--json").document["plans"]
    refused = thaloom(up, "apply", "-f", str(folder / "chat.yaml"), "--plan", plan["digest"], "--json")
    assert refused.error["code"] == "plan_changed"
    applied = thaloom(up, "apply", "-f", str(folder), "--plan", plan["digest"], "--json").document
    assert applied["created"] == ["service/chat", "workspace/data", "federation/fed"]
    assert thaloom(up, "wait", "chat", "workspace/data", "--timeout", "60").code == 0
    assert (up.home / "workspaces" / "data").is_dir()
    assert thaloom(up, "diff", "-f", str(folder)).code == 0

    for words in ((), ("--json",), ("--pinned",), ("--status",)):
        exported = thaloom(up, "export", *words)
        assert exported.code == 0
        again = thaloom(up, "apply", "-f", "-", "--json", typed=exported.out).document
        assert (again["action"], len(again["unchanged"])) == (None, 3), "what is exported changes nothing"
    pid = up.process("worker").pid
    ready = thaloom(up, "export", "service/chat", "--status", "--json").document[0]["status"]["conditions"][0]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", True, "Serving")
    assert ready["since"] > 0

    pinned = thaloom(up, "export", "service/chat", "--pinned").out
    relabelled = CHAT.replace("demo", "other")
    assert thaloom(up, "apply", "-f", "-", typed=relabelled).code == 0
    assert up.process("worker").pid == pid, "labels disturb nobody"
    conflict = thaloom(up, "apply", "-f", "-", "--json", typed=pinned + "  context_length: 32\n")
    assert (conflict.code, conflict.error["code"]) == (4, "revision_conflict")
    assert conflict.error["message"].startswith("-:")

    pruned = thaloom(up, "apply", "-f", "-", "--prune", "app=demo", "--json", typed=DATA).document
    assert (pruned["removed"], pruned["unchanged"]) == (["federation/fed"], ["workspace/data"])
    for action in (pruned["action"], thaloom(up, "history", "service/chat", "--json").document["actions"][0]["id"]):
        assert thaloom(up, "undo", action).code == 0
    assert thaloom(up, "apply", "-f", str(folder), "--json").document["action"] is None, "all is as it was"
    never = thaloom(up, "wait", "federation/fed", "--timeout", "60", "--json")
    assert never.error["code"] == "service_failed"
    assert "does not run them" in never.error["message"]


def test_what_is_refused_is_refused_whole_and_with_its_line(up: Node, tmp_path: Path) -> None:
    file = tmp_path / "wishes.yaml"
    for text, code, words in (
        (CHAT.replace("num_threads", "num_treads"), "bad_parameter", "wishes.yaml:11: unknown field 'spec.num_treads'"),
        (CHAT.replace("small", "gone"), "model_not_found", "wishes.yaml:10: "),
        (CHAT + "  kv_bytes: 100000000000000\n", "out_of_memory", "wishes.yaml:6: 'chat' needs"),
        (CHAT.replace("kind: Service", "kind: Pod"), "bad_parameter", "wishes.yaml:7: no kind of document 'Pod'"),
        (CHAT.replace("{app", "{app: a, app"), "bad_parameter", "wishes.yaml:8: 'app' is there twice"),
    ):
        file.write_text(f"{DATA}---\n{text}")
        refused = thaloom(up, "apply", "-f", str(file), "--json")
        assert refused.error["code"] == code, refused
        assert words in refused.error["message"], refused.error["message"]
        assert thaloom(up, "export", "--json").document == []
        assert thaloom(up, "history", "--by", "person:local", "--json").document["actions"][0]["kind"] == "model.import"
    assert thaloom(up, "apply", "-f", str(tmp_path / "none.yaml")).code == 2
    assert thaloom(up, "apply", "-f", "-", typed="").code == 2
    assert thaloom(up, "export", "service/none").code == 3


def test_a_restarted_node_wishes_the_same(up: Node) -> None:
    assert thaloom(up, "apply", "-f", "-", "--wait", typed=f"{CHAT}---\n{DATA}").code == 0
    before = json.loads(thaloom(up, "export", "--json", "--pinned").out)
    (up.home / "workspaces" / "left").mkdir()
    up.kill(up.daemon.pid)
    up.start()
    assert json.loads(thaloom(up, "export", "--json", "--pinned").out) == before
    eventually(lambda: not (up.home / "workspaces" / "left").exists())


def test_a_job_writes_in_a_workspace_that_outlives_it(up: Node) -> None:
    job = """\
apiVersion: thaloom/v1
kind: Job
metadata: {name: write, labels: {app: demo}}
spec:
  command: [sh, -c, 'echo done > "$THALOOM_WORKSPACE_DATA/result"']
  workspaces: [data]
"""
    assert thaloom(up, "apply", "-f", "-", "--wait", "--timeout", "60", typed=f"{job}---\n{DATA}").code == 0
    eventually(lambda: (up.home / "workspaces" / "data" / "result").exists())
    status = thaloom(up, "export", "job/write", "--status", "--json").document[0]["status"]
    assert {one["type"] for one in status["conditions"]} == {"Ready", "Degraded"}
    exported = thaloom(up, "export", "--label", "app=demo").out
    assert thaloom(up, "apply", "-f", "-", "--json", typed=exported).document["action"] is None
    kept = thaloom(up, "apply", "-f", "-", "--prune", "app=demo", "--json", typed=job)
    assert (kept.code, kept.error["code"]) == (4, "wrong_state"), "a workspace that holds something stays"
