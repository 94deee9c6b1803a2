"""Whom clients believe: each way a certificate can be wrong, for each client, by its own name; and nothing sent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import pair, write_ca
from thaloom import AsyncClient, Client
from thaloom.base.errors import (
    BadParameter,
    CertificateExpired,
    NodeNotRunning,
    ThaloomError,
    UnknownAuthority,
    WrongFingerprint,
    WrongHostName,
)
from thaloom.edge.client.control import ControlClient
from thaloom.edge.client.openai import OpenAIClient
from thaloom.edge.client.place import Place, place_of
from thaloom.edge.client.sdk.settings import settings
from thaloom.edge.client.trust import Trust, trust
from thaloom.kernel.trust.certificates import Pair
from thaloom.kernel.trust.tls import server_context

ANSWER = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n{"status":"alive"}'
DAY_S = 86400.0


class Shown:
    """A server that answers whatever is asked, and keeps what it heard after the handshake."""

    def __init__(self, made: Pair | None) -> None:
        self.heard: list[bytes] = []
        self._context = None if made is None else server_context(made, "1.3")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), plain:
                plain.settimeout(10)
                made = plain if self._context is None else self._context.wrap_socket(plain, server_side=True)
                if said := made.recv(65536):
                    self.heard.append(said)
                    made.sendall(ANSWER)
                made.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@contextlib.contextmanager
def shown(made: Pair | None) -> Iterator[Shown]:
    server = Shown(made)
    try:
        yield server
    finally:
        server.close()


def by_client(url: str, believed: Trust) -> None:
    pins = ",".join(believed.fingerprints) or None
    with Client(url, api_key="sk-secret", ca=believed.ca, fingerprint=pins, retries=None) as client:
        client.health()


def by_async_client(url: str, believed: Trust) -> None:
    async def ask() -> None:
        pins = ",".join(believed.fingerprints) or None
        async with AsyncClient(url, api_key="sk-secret", ca=believed.ca, fingerprint=pins, retries=None) as client:
            await client.health()

    asyncio.run(ask())


def by_commands(url: str, believed: Trust) -> None:
    with ControlClient(place=Place(url=url, token="sk-secret", trust=believed)) as client:
        with contextlib.suppress(ValueError, KeyError):
            client.version()


def by_runs(url: str, believed: Trust) -> None:
    with OpenAIClient(url, api_key="sk-secret", trust=believed) as client:
        with client.stream("/v1/completions", {}) as chunks:
            list(chunks)


CLIENTS = [by_client, by_async_client, by_commands, by_runs]


@pytest.mark.parametrize("ask", CLIENTS)
def test_each_wrong_certificate_has_its_name(ask, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    good, stranger = pair(), pair()
    ca = write_ca(tmp_path, good)
    over, early = pair(age_s=40 * DAY_S, days=30), pair(age_s=-DAY_S)
    elsewhere = pair("gpu.example.org")
    folder = tmp_path / "other"
    folder.mkdir()
    cases: list[tuple[Pair, Trust, type[ThaloomError]]] = [
        (good, Trust(), UnknownAuthority),
        (stranger, Trust(ca=ca), UnknownAuthority),
        (good, Trust(fingerprints=("0" * 64,)), WrongFingerprint),
        (stranger, Trust(ca=ca, fingerprints=(stranger.certificate.fingerprint,)), UnknownAuthority),
        (good, Trust(ca=ca, fingerprints=(stranger.certificate.fingerprint,)), WrongFingerprint),
    ]
    for made, error in ((over, CertificateExpired), (early, CertificateExpired), (elsewhere, WrongHostName)):
        path = folder / f"{made.certificate.fingerprint}.pem"
        path.write_text(made.public)
        cases.append((made, Trust(ca=path), error))
    for made, believed, error in cases:
        with shown(made) as server:
            url = f"https://localhost:{server.port}"
            with pytest.raises(error) as refusal:
                ask(url, believed)
            assert url in refusal.value.message
            assert not refusal.value.retryable
        assert server.heard == [], "no key and no prompt before the certificate was found right"


@pytest.mark.parametrize("ask", CLIENTS)
def test_what_is_right_is_believed(ask, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    good = pair()
    other = "0" * 64
    for believed in (
        Trust(ca=write_ca(tmp_path, good)),
        Trust(fingerprints=(good.certificate.fingerprint,)),
        Trust(fingerprints=(other, good.certificate.fingerprint)),
        Trust(ca=write_ca(tmp_path, good), fingerprints=(good.certificate.fingerprint,)),
    ):
        with shown(good) as server:
            with contextlib.suppress(ThaloomError):  # the answer is none to most questions
                ask(f"https://localhost:{server.port}", believed)
        assert any(b"sk-secret" in said for said in server.heard), believed


def test_a_pin_stands_for_names_and_time() -> None:
    made = pair("gpu.example.org", age_s=40 * DAY_S, days=30)
    with shown(made) as server:
        by_client(f"https://127.0.0.1:{server.port}", Trust(fingerprints=(made.certificate.fingerprint,)))


@pytest.mark.parametrize("ask", CLIENTS)
def test_no_tls_where_tls_is_expected(ask) -> None:  # type: ignore[no-untyped-def]
    with shown(None) as server, pytest.raises(NodeNotRunning):
        ask(f"https://localhost:{server.port}", Trust(fingerprints=("0" * 64,)))


@pytest.mark.parametrize("wrong", ["", "ab", "g" * 64, "0" * 63, "0" * 65, "0" * 64 + ",", "sha1:" + "0" * 40])
def test_what_is_no_fingerprint(wrong: str) -> None:
    if not wrong:
        assert trust(None, wrong).is_default
        return
    with pytest.raises(BadParameter) as refusal:
        trust(None, wrong)
    assert refusal.value.param == "THALOOM_FINGERPRINT"


def test_fingerprints_as_others_write_them() -> None:
    plain = "0123456789abcdef" * 4
    colons = ":".join(plain[i : i + 2].upper() for i in range(0, 64, 2))
    assert trust(None, f"SHA256:{colons}, {plain}").fingerprints == (plain, plain)


def test_a_file_that_holds_no_certificates(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(BadParameter) as refusal:
            by_client("https://localhost:1", Trust(ca=path))
        assert refusal.value.param == "THALOOM_CA"
    (tmp_path / "empty").touch()
    with pytest.raises(BadParameter):
        by_client("https://localhost:1", Trust(ca=tmp_path / "empty"))


def test_a_key_never_travels_in_the_clear() -> None:
    for url in ("http://gpu.example.org:7411", "http://10.0.0.1:7411"):
        with pytest.raises(BadParameter, match="everybody to read"):
            Place(url=url, token="sk-secret")
        Place(url=url)
        with pytest.raises(BadParameter, match="https"):
            Client(url, api_key="sk-secret")
    for url in ("http://localhost:7411", "http://127.0.0.1:7411", "http://[::1]:7411", "https://gpu.example.org"):
        assert Place(url=url, token="sk-secret").url == url
    assert "sk-secret" not in repr(Place(url="https://a", token="sk-secret"))


def test_the_environment_says_where(tmp_path: Path) -> None:
    assert place_of({}) is None
    assert place_of({"THALOOM_URL": ""}) is None
    told = {"THALOOM_URL": "https://gpu:7411/", "THALOOM_TOKEN": "t", "THALOOM_API_KEY": "k", "THALOOM_CA": "/ca.pem"}
    place = place_of(told)
    assert place == Place(url="https://gpu:7411", token="t", trust=Trust(ca=Path("/ca.pem")))
    for wrong in ("gpu:7411", "ftp://gpu", "https://", "https://gpu:port", "https://gpu?x=1"):
        with pytest.raises(BadParameter) as refusal:
            place_of({"THALOOM_URL": wrong})
        assert refusal.value.param == "THALOOM_URL"


def test_the_sdk_reads_the_same_environment() -> None:
    told = {
        "THALOOM_URL": "https://gpu:7411",
        "THALOOM_TOKEN": "t",
        "THALOOM_FINGERPRINT": "0" * 64,
        "THALOOM_HOST": "10.0.0.9",
    }

    def of(url: str | None = None, *, host: str | None = None, environment: dict[str, str] = told) -> str:
        made = settings(
            url, host=host, port=None, api_key=None, home=None, timeout_s=1, retries=None, environment=environment
        )
        assert made.trust.fingerprints == ("0" * 64,)
        assert made.api_key == "t"
        return made.url

    assert of() == "https://gpu:7411"
    assert of("https://other:1") == "https://other:1", "an argument goes over the environment"
    assert of(host="127.0.0.1") == "http://127.0.0.1:7411"
