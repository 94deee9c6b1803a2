"""Roles, tenants and tokens on a real node: over its socket, through its door, and by the command line."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.system.cli import thaloom
from tests.system.node import TINY, Node, eventually, node
from thaloom.base.errors import KeyNotFound, QuotaExceeded, TenantNotFound, ThaloomError, WrongState
from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import KeyRequest, NarrowRequest, PullRequest, Quota, ServeRequest, TenantRequest

__all__ = ["node"]

pytestmark = pytest.mark.slow


def call(node: Node, method: str, path: str, token: str | None = None, body: Any = None) -> httpx2.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return httpx2.request(method, node.url + path, json=body, headers=headers, timeout=30.0, trust_env=False)


def ask(node: Node, token: str, model: str = "chat") -> int:
    return call(node, "POST", "/v1/completions", token, {"model": model, "prompt": "The", "max_tokens": 2}).status_code


def key(node: Node, name: str, **asked: Any) -> str:
    with node.client() as client:
        return client.make_key(KeyRequest.model_validate({"name": name} | asked)).secret


def test_tenants_serve_and_ask_their_own_and_see_no_others(node: Node) -> None:
    node.start()
    node.wait_for_door()
    with node.client() as client:
        client.pull(PullRequest(source=str(TINY), name="tiny"))
        client.serve("chat", ServeRequest(model="tiny", num_threads=1))
        for name in ("acme", "beta"):
            client.make_tenant(TenantRequest(name=name, quota=Quota(services=1, keys=3, requests_per_minute=600)))
    operators = {name: key(node, "op", tenant=name, role="operator") for name in ("acme", "beta")}
    users = {name: key(node, "ci", tenant=name) for name in ("acme", "beta")}
    # acme serves, by its own name, through the door.
    served = call(node, "PUT", "/thaloom/v1/services/chat", operators["acme"], {"model": "tiny", "num_threads": 1})
    assert (served.status_code, served.json()["name"]) == (200, "chat")
    with node.client() as client:
        assert sorted(service.name for service in client.services()) == ["chat", "chat@acme"]
        client.wait_ready("chat@acme", timeout_s=60)
        client.wait_ready("chat", timeout_s=60)
    assert eventually(lambda: ask(node, users["acme"]) == 200)
    assert ask(node, users["acme"], "chat:latest") == 200
    assert [m["id"] for m in call(node, "GET", "/v1/models", users["acme"]).json()["data"]] == ["chat"]
    # beta has none of that name, and cannot name acme's, nor the node's.
    for name in ("chat", "chat@acme", "chat@acme@beta"):
        assert ask(node, users["beta"], name) == 404
    assert call(node, "GET", "/v1/models", users["beta"]).json()["data"] == []
    assert call(node, "GET", "/thaloom/v1/services", operators["beta"]).json()["services"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/logs")):
        for name in ("chat", "chat@acme"):
            answer = call(node, method, f"/thaloom/v1/services/{name}{path}", operators["beta"])
            assert answer.status_code == 404, (method, name, answer.text)
    # Nor do the node's own users see a tenant's.
    plain = key(node, "plain")
    assert ask(node, plain) == 200
    assert ask(node, plain, "chat@acme") == 404
    assert [m["id"] for m in call(node, "GET", "/v1/models", plain).json()["data"]] == ["chat"]
    # What is the node's is nothing of a tenant's, even of its admin.
    admin = key(node, "admin", tenant="acme", role="admin")
    for path in ("status", "processes", "events", "tenants", "journal/checkpoint", "devices", "jobs"):
        assert call(node, "GET", f"/thaloom/v1/{path}", admin).status_code == 403, path
    assert call(node, "POST", "/thaloom/v1/down", admin).status_code == 403
    listed = call(node, "GET", "/thaloom/v1/keys", admin).json()["keys"]
    assert sorted(found["name"] for found in listed) == ["admin", "ci", "op"]
    refused = call(node, "DELETE", "/thaloom/v1/keys/plain", admin)
    assert refused.status_code == 404, "what is not its own is not there for it"
    # Measurements name everybody's services, so they are asked for with a token once there are tenants.
    assert call(node, "GET", "/metrics").status_code == 401
    assert call(node, "GET", "/metrics", users["acme"]).status_code == 403
    assert call(node, "GET", "/metrics", key(node, "prometheus", role="viewer")).status_code == 200
    assert "acme" not in call(node, "GET", "/readyz").text
    # It is a tenant's engine that stays in the store.
    outside = {"model": "/etc/passwd", "engine": "llama.cpp"}
    assert call(node, "PUT", "/thaloom/v1/services/mine", operators["beta"], outside).status_code == 403
    # Of what was done each tenant sees what was done to its own.
    done = call(node, "GET", "/thaloom/v1/actions", admin)
    assert "beta" not in done.text
    assert "@" not in done.text
    mine = [(one["kind"], one["by"], one["subjects"]) for one in done.json()["actions"]]
    assert ("service.serve", "program:op", ["service/chat"]) in mine
    assert ("key.make", "node", ["key/ci"]) in mine, "what the node's people did is told, and not who of them"
    assert {kind for kind, _, _ in mine} == {"service.serve", "key.make"}
    (serving,) = call(node, "GET", "/thaloom/v1/actions?subject=service/chat&by=program:op", admin).json()["actions"]
    assert serving["plan"]["call"]["parameters"]["name"] == "chat"
    assert call(node, "GET", f"/thaloom/v1/actions/{serving['id']}", admin).status_code == 200
    elsewhere = key(node, "look", tenant="beta", role="admin")
    assert call(node, "GET", f"/thaloom/v1/actions/{serving['id']}", elsewhere).status_code == 404
    assert call(node, "POST", f"/thaloom/v1/actions/{serving['id']}/undo", admin).status_code == 403
    refused = call(node, "GET", "/thaloom/v1/actions?refused=true", admin).json()["actions"]
    assert {one["by"] for one in refused} == {"program:admin"}
    assert "GET /thaloom/v1/status" in {one["kind"] for one in refused}
    # A quota is kept to.
    second = call(node, "PUT", "/thaloom/v1/services/more", operators["acme"], {"model": "tiny"})
    assert (second.status_code, second.json()["error"]["code"]) == (409, "quota_exceeded")
    over = call(node, "POST", "/thaloom/v1/keys", admin, {"name": "fourth"})
    assert (over.status_code, over.json()["error"]["code"]) == (409, "quota_exceeded")
    with node.client() as client:
        use = client.tenant("acme")
        assert (use.services, use.replicas, use.keys) == (1, 1, 3)
        assert use.memory_bytes > 0
        with pytest.raises(QuotaExceeded):
            client.serve("more@acme", ServeRequest(model="tiny"))
        with pytest.raises(TenantNotFound):
            client.serve("chat@nobody", ServeRequest(model="tiny"))
        with pytest.raises(WrongState):
            client.remove_tenant("acme")
        client.stop("chat@acme")
        for name in ("op@acme", "ci@acme", "admin@acme"):
            client.remove_key(name)
        client.remove_tenant("acme")
        assert [tenant.name for tenant in client.tenants()] == ["beta"]
        who = {action.by for action in client.actions(subject="service/chat@acme")}
        assert who >= {"program:op@acme", "person:local"}
        assert client.verify_journal().sound


def test_a_holder_narrows_his_token_and_loses_it_with_its_parent(node: Node) -> None:
    node.start()
    node.serve_tiny("chat")
    node.wait_for_door()
    parent = key(node, "team", role="operator", concurrent=4, requests_per_minute=6)
    asked = {"name": "one", "scopes": ["infer"], "role": "user", "expires_in_s": 3600.0}
    made = call(node, "POST", "/thaloom/v1/keys/team/narrow", parent, asked)
    assert made.status_code == 200, made.text
    child = made.json()["secret"]
    assert made.json()["key"]["parent"] == "team"
    assert ask(node, child) == 200
    for more in ({"role": "admin"}, {"concurrent": 5}, {"tenant": "acme"}):
        answer = call(node, "POST", "/thaloom/v1/keys/team/narrow", parent, {"name": "more"} | more)
        assert (answer.status_code, answer.json()["error"]["param"]) == (403, next(iter(more)))
    # The child may not narrow what is not for that, nor take its parent back, nor make keys.
    assert call(node, "POST", "/thaloom/v1/keys/one/narrow", child, {"name": "x"}).status_code == 403
    assert call(node, "DELETE", "/thaloom/v1/keys/team", child).status_code == 403
    other = key(node, "other", role="operator")
    assert call(node, "POST", "/thaloom/v1/keys/team/narrow", other, {"name": "x"}).status_code == 403
    assert call(node, "DELETE", "/thaloom/v1/keys/one", other).status_code == 403
    # It counts against its parent's limits: no more requests by way of children.
    statuses = [ask(node, child) for _ in range(7)]
    assert 429 in statuses
    assert ask(node, parent) == 429
    with node.client() as client:
        client.remove_key("team")
        assert [found.name for found in client.keys().keys] == ["other"]
        with pytest.raises(KeyNotFound):
            client.narrow_key("team", NarrowRequest(name="late"))
    assert ask(node, child) == 401
    assert ask(node, parent) == 401
    assert call(node, "GET", "/thaloom/v1/whoami", other).json()["role"] == "operator"


def test_a_token_rules_over_tcp_and_what_is_refused_is_told(node: Node) -> None:
    node.start()
    node.wait_for_door()
    admin = key(node, "boss", role="admin")
    viewer = key(node, "eye", role="viewer")
    assert call(node, "GET", "/thaloom/v1/status").status_code == 401, "no token, where one is required"
    assert call(node, "GET", "/thaloom/v1/status", viewer).status_code == 200
    assert call(node, "POST", "/v1/completions", viewer, {"model": "x", "prompt": "y"}).status_code == 403
    for _ in range(5):
        assert call(node, "POST", "/thaloom/v1/down", viewer).status_code == 403
    with node.client() as client:
        refused = [event.fields["who"] for event in client.events() if event.name == "AccessRefused"]
        assert refused.count("program:eye") == 1, "not five times"
        assert client.verify_journal().sound
    tenant = call(node, "POST", "/thaloom/v1/tenants", admin, {"name": "acme"})
    assert tenant.status_code == 200
    assert call(node, "POST", "/thaloom/v1/tenants", admin, {"name": "acme"}).status_code == 409
    assert call(node, "POST", "/thaloom/v1/tenants", admin, {"name": "A b"}).status_code == 400
    made = call(node, "POST", "/thaloom/v1/keys", admin, {"name": "mine", "role": "operator"}).json()
    assert made["key"]["parent"] == "boss", "what a token gives is narrowed from it"
    assert call(node, "DELETE", "/thaloom/v1/keys/boss", admin).status_code == 200
    assert call(node, "GET", "/thaloom/v1/status", made["secret"]).status_code == 401


def test_guessing_tokens_is_slowed_and_who_has_one_is_not(node: Node) -> None:
    node.start()
    node.wait_for_door()
    known = key(node, "eye", role="viewer")
    assert call(node, "GET", "/thaloom/v1/status", known).status_code == 200
    answers = [call(node, "GET", "/v1/models", f"sk-th-{'a' * 12}-{number:043d}") for number in range(20)]
    assert [answer.status_code for answer in answers[:10]] == [401] * 10
    assert answers[-1].status_code == 429
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 6
    assert call(node, "GET", "/thaloom/v1/status", known).status_code == 200, "it was right before"

    def told() -> list[Any]:
        with node.client() as client:
            return [event.fields for event in client.events() if event.name == "AccessRefused"]

    (refused,) = eventually(told)
    assert (refused["who"], refused["what"], refused["code"]) == ("address:127.0.0.1", "GET /v1/models", "unauthorized")


def test_a_node_listens_on_loopback_unless_told_otherwise(node: Node) -> None:
    node.start()
    node.serve_tiny()
    node.wait_for_door()
    listening = list(listeners(process.pid for process in node.processes_of_home()))
    assert [address for address, _ in listening] == ["127.0.0.1"], "of all its processes, the door alone, on loopback"
    assert listening[0][1] == node.port
    # No other address of this machine answers on that port.
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in {str(other) for other in others} - {"127.0.0.1"}:
        if not address.startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((address, node.port), timeout=2).close()


def listeners(pids: Iterable[int]) -> Iterator[tuple[str, int]]:
    """Address and port of every TCP socket that one of the processes listens on. Source: proc(5), /proc/net/tcp."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                inodes.add(str(link.readlink()))
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                address, port = words[1].split(":")
                raw = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
                yield socket.inet_ntop(family, raw), int(port, 16)


def test_the_command_line(node: Node) -> None:
    node.start()
    node.wait_for_door()
    assert thaloom(node, "tenant", "create", "acme", "--quota", "services=2", "--quota", "concurrent=3").code == 0
    secret = thaloom(node, "token", "create", "ci", "--tenant", "acme", "--role", "operator").out.strip()
    assert call(node, "GET", "/thaloom/v1/whoami", secret).json()["tenant"]["quota"]["services"] == 2
    assert thaloom(node, "token", "narrow", "ci@acme", "ci2", "--scope", "read", "--expires", "1h").code == 0
    keys = thaloom(node, "token", "ls", "--json").document["keys"]
    assert [(each["name"], each["parent"], each["scopes"]) for each in keys] == [
        ("ci2@acme", "ci@acme", ["read"]),
        ("ci@acme", None, None),
    ]
    assert thaloom(node, "tenant", "set", "acme", "--quota", "services=5").code == 0
    shown = thaloom(node, "tenant", "show", "acme", "--json").document
    assert (shown["quota"]["services"], shown["quota"]["concurrent"], shown["keys"]) == (5, 3, 2)
    assert thaloom(node, "tenant", "set", "acme", "--quota", "energy=5").code == 2, "nobody could keep to that"
    assert thaloom(node, "tenant", "rm", "acme").code == 4
    assert call(node, "PUT", "/thaloom/v1/tenants/other", secret, {"quota": {}}).status_code == 403
    strange, (role, guarded) = (
        "PUT /thaloom/v1/tenants/{name}",
        thaloom(node, "history", "--refused", "--json").document["actions"],
    )
    assert (role["kind"], role["by"], role["error"]["code"]) == (strange, "program:ci@acme", "forbidden")
    assert (guarded["kind"], guarded["subjects"], guarded["ending"]) == ("tenant.remove", ["tenant/acme"], "refused")
    assert guarded["error"]["code"] == "wrong_state"
    assert "[wrong_state]" in thaloom(node, "explain", guarded["id"]).out
    assert thaloom(node, "audit", "verify").code == 0
    (dry,) = thaloom(node, "token", "rm", "ci@acme", "--dry-run", "--json").document["plans"]
    assert [change["subject"] for change in dry["changes"]] == ["key/ci@acme", "key/ci2@acme"]
    assert thaloom(node, "token", "rm", "ci@acme").code == 0
    assert thaloom(node, "tenant", "rm", "acme").code == 0
    history = thaloom(node, "history", "--json").document["actions"]
    assert history[0]["kind"] == "tenant.remove"
    assert "refused" not in {action["ending"] for action in history}
    assert thaloom(node, "undo", history[0]["id"]).code == 0
    assert [tenant["name"] for tenant in thaloom(node, "tenant", "ls", "--json").document["tenants"]] == ["acme"]
    assert "admin" in thaloom(node, "token", "whoami").out


def as_nobody(home: Path, what: str) -> list[str]:
    """By the unix user 65534, who is nobody to the node: what it answers, and whether he can look into its folder."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, "\n".join(_asked_as_this_user(home, what)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        told = file.read().split("\n")
    os.waitpid(child, 0)
    return told


def _asked_as_this_user(home: Path, what: str) -> list[str]:
    try:
        with ControlClient(home) as client:
            answer = client.whoami().role if what == "who" else str(client.down())
    except ThaloomError as error:
        answer = error.code
    try:
        return [answer, str(os.listdir(home))]
    except PermissionError:
        return [answer, "not listed"]


@pytest.mark.hardware
@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_of_this_machine_is_what_the_settings_say(node: Node) -> None:
    with contextlib.suppress(PermissionError):
        for folder in (node.home.parent, *node.home.parent.parents):
            if folder.stat().st_mode & 0o001 == 0:
                folder.chmod(folder.stat().st_mode | 0o011)
    node.home.mkdir(mode=0o700)
    node.start()
    assert as_nobody(node.home, "who") == ["forbidden", "not listed"]
    settings = node.home / "config.toml"
    settings.write_text('[socket_users]\n65534 = "viewer"\n')
    node.daemon.send_signal(signal.SIGHUP)
    assert eventually(lambda: as_nobody(node.home, "who") == ["viewer", "not listed"])
    assert as_nobody(node.home, "down") == ["forbidden", "not listed"]
    settings.write_text("")
    node.daemon.send_signal(signal.SIGHUP)
    assert eventually(lambda: as_nobody(node.home, "who") == ["forbidden", "not listed"])
    with node.client() as client:
        assert client.whoami().role == "admin"
