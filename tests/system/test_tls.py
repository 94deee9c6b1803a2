"""TLS beyond this machine: a real node that listens on every address, asked as clients from outside would ask it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from tests.certificates import pair, write_own
from tests.system.cli import thaloom
from tests.system.node import Node, eventually, node
from thaloom import Client
from thaloom.base.errors import (
    Forbidden,
    HttpsNeeded,
    Unauthorized,
    UnknownAuthority,
    WorkerLost,
    WrongFingerprint,
)
from thaloom.edge.client.control import ControlClient
from thaloom.edge.client.openai import OpenAIClient
from thaloom.edge.client.place import Place
from thaloom.edge.client.trust import Trust
from thaloom.edge.wire.control import CertificateRequest, ImportCertificateRequest, KeyRequest

__all__ = ["node"]

pytestmark = pytest.mark.slow

LONG = {"model": "tiny", "prompt": "The socket option", "max_tokens": 900, "stream": True, "ignore_eos": True}
ASK = {"model": "tiny", "prompt": "The socket option", "max_tokens": 4}


class Reached:
    """A node with TLS, and what a client was given of it."""

    def __init__(self, node: Node, folder: Path) -> None:
        self.node = node
        self.url = f"https://localhost:{node.port}"
        self.ca = folder / "ca.pem"
        self.token = ""
        self.fingerprint = ""

    def ask(self, **more: str) -> httpx2.Response:
        """With the key, unless `more` has other headers."""
        context = ssl.create_default_context(cafile=self.ca)
        headers = more or {"authorization": f"Bearer {self.token}"}
        with httpx2.Client(verify=context, trust_env=False, timeout=30.0) as http:
            return http.post(f"{self.url}/v1/completions", json=ASK, headers=headers)

    def learn(self) -> None:
        """What `thaloom cert show` says now."""
        with self.node.client() as client:
            shown = client.certificate()
        assert shown.fingerprint is not None
        assert shown.pem is not None
        self.fingerprint = shown.fingerprint
        self.ca.write_text(shown.pem)


@pytest.fixture
def reached(node: Node, tmp_path: Path) -> Reached:
    """On every address of this machine; with one key."""
    made = Reached(node, tmp_path)
    node.start()
    node.serve_tiny()
    with node.client() as client:
        made.token = client.make_key(KeyRequest(name="me")).secret
        client.make_certificate(CertificateRequest())
    stop(node)
    node.start("--host", "0.0.0.0")
    node.wait_for_door()
    with node.client() as client:
        client.wait_ready("tiny", timeout_s=30)
    made.learn()
    return made


def stop(node: Node) -> None:
    with node.client() as client:
        client.down()
    node.daemon.wait(30)


def shown_by(port: int) -> str:
    import hashlib

    text = ssl.get_server_certificate(("127.0.0.1", port))
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest()


def listening_on(port: int) -> list[str]:
    """Addresses, as the kernel tells them. Source: proc(5)."""
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port:04X}")]


def test_on_loopback_unless_it_is_told_otherwise(node: Node) -> None:
    """The default, proved by the kernel's own table of sockets that listen."""
    node.start()
    node.wait_for_door()
    listening = [
        line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
    ]
    ours = [place for place in listening if place.endswith(f":{node.port:04X}")]
    assert ours == [f"0100007F:{node.port:04X}"], "127.0.0.1, and nothing else"
    six = [line.split()[1] for line in Path("/proc/net/tcp6").read_text().splitlines()[1:] if line.split()[3] == "0A"]
    assert not [place for place in six if place.endswith(f":{node.port:04X}")]


@pytest.mark.parametrize(
    ("config", "certificate", "code"),
    [
        ("", False, "certificate_missing"),
        ("require_keys = false\n", True, "forbidden"),
        ("[door]\ncertificate = '/nowhere.pem'\n", True, "certificate_missing"),
    ],
)
def test_it_does_not_start_beyond_loopback(node: Node, config: str, certificate: bool, code: str) -> None:
    """Without a certificate, or where nobody is asked for a key."""
    node.home.mkdir(parents=True)
    (node.home / "config.toml").write_text(f"host = '0.0.0.0'\n{config}")
    if certificate:
        write_own(node.home, pair())
    daemon = node.launch()
    assert daemon.wait(30) in (7, 8)
    assert f"[{code};" in node.log()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", node.port), timeout=5).close()


def test_a_node_beyond_loopback(reached: Reached) -> None:
    """Keys are asked for, the field's client gets in, and whatever is wrong has a name of its own."""
    assert reached.ask().status_code == 200
    assert reached.ask(authorization="Bearer sk-th-wrong").status_code == 401
    assert reached.ask(host="evil.example", authorization=f"Bearer {reached.token}").status_code == 403
    with OpenAIClient(reached.url, api_key=reached.token, trust=Trust(ca=reached.ca)) as ours:
        with ours.stream("/v1/completions", ASK | {"stream": True}) as chunks:
            assert list(chunks)
    http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=reached.ca), trust_env=False)
    theirs = openai.OpenAI(base_url=f"{reached.url}/v1", api_key=reached.token, max_retries=0, http_client=http)
    assert theirs.completions.create(model="tiny", prompt="The", max_tokens=2).choices[0].text
    theirs.close()

    with Client(reached.url, api_key=reached.token, fingerprint=reached.fingerprint, retries=None) as pinned:
        assert pinned.models()[0].id == "tiny"
    with Client(reached.url, ca=reached.ca, retries=None) as nobody, pytest.raises(Unauthorized):
        nobody.models()
    with Client(reached.url, api_key=reached.token, retries=None) as stranger, pytest.raises(UnknownAuthority):
        stranger.models()
    with Client(reached.url, api_key=reached.token, fingerprint="0" * 64) as wary, pytest.raises(WrongFingerprint):
        wary.models()
    with reached.node.client() as client:
        viewer = client.make_key(KeyRequest(name="eye", role="viewer")).secret
    with ControlClient(place=Place(url=reached.url, token=viewer, trust=Trust(ca=reached.ca))) as far:
        assert [service.name for service in far.services()] == ["tiny"]
        assert far.status().pid == reached.node.daemon.pid
        with pytest.raises(Forbidden):
            far.stop("tiny")
    with ControlClient(place=Place(url=reached.url, token=reached.token, trust=Trust(ca=reached.ca))) as far:
        with pytest.raises(Forbidden):  # it is for asking models
            far.status()
    plain = reached.url.replace("https:", "http:")
    with ControlClient(place=Place(url=plain)) as far, pytest.raises(HttpsNeeded, match="https://"):
        far.status()
    with OpenAIClient(plain) as ours, pytest.raises(HttpsNeeded), ours.stream("/v1/completions", ASK) as chunks:
        list(chunks)
    with Client(plain, retries=None) as sdk, pytest.raises(WorkerLost, match="asked by https://"):
        sdk.models()

    with reached.node.client() as client:  # the last key goes, and nobody comes in any more
        client.remove_key("me")
        client.remove_key("eye")
    assert reached.ask().status_code == 401
    assert reached.ask(authorization="").status_code == 401
    with ControlClient(place=Place(url=reached.url, trust=Trust(ca=reached.ca))) as far:
        with pytest.raises(Unauthorized):  # nor to the control API, while there are no keys at all
            far.services()
        with pytest.raises(Unauthorized):
            far.stop("tiny")


def test_the_commands_on_the_node_itself_need_to_be_told_nothing(reached: Reached) -> None:
    """They believe the certificate as the node tells it over its own socket; the key they have to show like anybody."""
    ran = thaloom(reached.node, "run", "tiny", "The socket", "--max-tokens", "4", more={"THALOOM_TOKEN": reached.token})
    assert (ran.code, bool(ran.out.strip())) == (0, True), ran.err
    refused = thaloom(reached.node, "run", "tiny", "The socket", "--max-tokens", "4", "--json")
    assert (refused.code, refused.error["code"]) == (8, "unauthorized")
    shown = thaloom(reached.node, "cert", "show", "--json").document
    assert (shown["serving"], shown["fingerprint"]) == (True, reached.fingerprint)


def test_a_new_daemon_takes_the_door_over_and_a_new_door_shows_the_same(reached: Reached) -> None:
    door = reached.node.process("door").pid
    reached.node.kill(reached.node.daemon.pid)
    assert reached.ask().status_code == 200, "the door needs no daemon"
    reached.node.start("--host", "0.0.0.0")
    assert reached.node.process("door").pid == door
    assert reached.node.wait_for_door().pid == door, "and is found to be well, over TLS"
    reached.node.kill(door)
    eventually(lambda: [pid for pid in doors(reached.node) if pid != door])
    reached.node.wait_for_door()
    assert shown_by(reached.node.port) == reached.fingerprint
    assert reached.ask().status_code == 200
    assert reached.ask(authorization="Bearer wrong").status_code == 401


def test_a_new_daemon_that_is_told_another_address_opens_another_door(node: Node, tmp_path: Path) -> None:
    """On the same port: the one that was left running gives way."""
    node.start()
    node.serve_tiny()
    door = node.wait_for_door().pid
    with node.client() as client:
        token = client.make_key(KeyRequest(name="me")).secret
        made = client.make_certificate(CertificateRequest())
    node.daemon.send_signal(signal.SIGUSR2)  # ends alone, as for a restart by systemd
    node.daemon.wait(30)
    node.start("--host", "0.0.0.0")
    eventually(lambda: [pid for pid in doors(node) if pid != door] and node.wait_for_door())
    with Client(f"https://localhost:{node.port}", api_key=token, fingerprint=made.fingerprint) as client:
        assert client.models()[0].id == "tiny"
    node.daemon.send_signal(signal.SIGUSR2)
    node.daemon.wait(30)
    (node.home / "door.pem").unlink()
    node.start("--host", "0.0.0.0")  # the door that is open goes on, and what it cannot do again is told
    with node.client() as client:
        eventually(lambda: any(c.reason == "CertificateRefused" for c in client.status().conditions))
    assert shown_by(node.port) == made.fingerprint


def doors(node: Node) -> list[int]:
    with node.client() as client:
        return [process.pid for process in client.processes() if process.role == "door"]


def test_only_tls_and_only_of_today(reached: Reached) -> None:
    port = reached.node.port
    with warnings.catch_warnings(action="ignore"):
        old = (ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2)
    for version in old:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore"):
            context.minimum_version = context.maximum_version = version
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain, pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(plain)
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" not in plain.recv(4096), "closed, with nothing but an alert"
    assert time.monotonic() - begun < 8, "and not left to hang until the handshake's deadline"
    context = ssl.create_default_context(cafile=reached.ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as made,
    ):
        assert made.version() == "TLSv1.3"
        assert made.selected_alpn_protocol() == "http/1.1"


def number_of(reached: Reached, metric: str) -> float:
    page = httpx2.get(f"{reached.url}/metrics", verify=False, trust_env=False).text
    (line,) = [line for line in page.splitlines() if line.startswith(f"{metric} ")]
    return float(line.split()[-1])


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_stream_survives_a_renewal(reached: Reached) -> None:
    """And new connections are shown the new certificate, at once."""
    before, worker = reached.fingerprint, reached.node.process("worker").pid
    with OpenAIClient(reached.url, api_key=reached.token, trust=Trust(ca=reached.ca)) as client:
        with client.stream("/v1/completions", LONG) as chunks:
            first = next(chunks)
            with stopped(worker), reached.node.client() as control:  # so that it is not over meanwhile
                renewed = control.renew_certificate(CertificateRequest(days=10))
                assert renewed.fingerprint != before
                assert renewed.shown == renewed.fingerprint == shown_by(reached.node.port)
                assert number_of(reached, 'thaloom_open_requests{route="/v1/completions"}') == 1, "it is still open"
            rest = list(chunks)
    assert first
    assert rest[-1]["choices"][0]["finish_reason"] == "length", "to its end"
    with Client(reached.url, api_key=reached.token, fingerprint=before, retries=None) as old:
        with pytest.raises(WrongFingerprint):
            old.models()
    with Client(reached.url, api_key=reached.token, fingerprint=f"{before},{renewed.fingerprint}") as both:
        assert both.models()
    assert number_of(reached, "thaloom_certificate_expiry_timestamp_seconds") == pytest.approx(renewed.not_after, abs=1)

    undone = thaloom(reached.node, "history", "--json").document["actions"][0]
    assert undone["kind"] == "certificate.renew"
    done = thaloom(reached.node, "undo", undone["id"])
    assert done.code == 0, done.err
    assert shown_by(reached.node.port) == before


def test_what_is_bad_does_not_replace_what_is_good(reached: Reached, tmp_path: Path) -> None:
    """Neither by the command nor by a reload."""
    other = pair("other.example")
    bad = tmp_path / "bad.pem"
    for text in (b"no pem", other.text[:200], pair(age_s=40 * 86400, days=30).text):
        bad.write_bytes(text)
        bad.chmod(0o600)
        done = thaloom(reached.node, "cert", "import", str(bad), "--json")
        assert (done.code, done.error["code"]) == (6, "certificate_unusable"), done.err
        assert str(bad) in done.error["message"]
    assert shown_by(reached.node.port) == reached.fingerprint

    own = reached.node.home / "door.pem"
    good = own.read_bytes()
    own.write_bytes(other.text[:400])
    reached.node.daemon.send_signal(signal.SIGHUP)
    with reached.node.client() as client:
        eventually(lambda: any(c.reason == "CertificateRefused" for c in client.status().conditions))
    assert shown_by(reached.node.port) == reached.fingerprint
    assert reached.ask().status_code == 200
    own.write_bytes(good)
    reached.node.daemon.send_signal(signal.SIGHUP)
    with reached.node.client() as client:
        eventually(lambda: not any(c.reason == "CertificateRefused" for c in client.status().conditions))

    taken = tmp_path / "good.pem"
    taken.write_bytes(pair("localhost").text)
    taken.chmod(0o600)
    with reached.node.client() as client:
        imported = client.import_certificate(ImportCertificateRequest(certificate=str(taken)))
    assert shown_by(reached.node.port) == imported.fingerprint
    assert (own.stat().st_mode & 0o777) == 0o600
