"""Who asks by http:// what speaks TLS is told so, and nobody else is."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.certificates import pair, write_own
from thaloom.base.errors import HttpsNeeded, NodeNotRunning
from thaloom.edge.client.control import ControlClient
from thaloom.edge.client.place import Place


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """One that does `serve` with each connection; where it is."""
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), connection:
                serve(connection)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_what_speaks_tls_is_named(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_own(tmp_path, pair("elsewhere")))
    with listening(lambda connection: context.wrap_socket(connection, server_side=True).close()) as url:
        with ControlClient(place=Place(url=url)) as client, pytest.raises(HttpsNeeded, match="https://") as refused:
            client.status()
    assert (refused.value.exit_code, refused.value.details) == (2, {"url": url})


def test_what_only_closes_is_no_node_that_speaks_tls() -> None:
    with listening(lambda connection: connection.recv(100) and None) as url:
        with ControlClient(place=Place(url=url)) as client, pytest.raises(NodeNotRunning):
            client.status()


def test_where_nobody_listens_nobody_is_asked_twice() -> None:
    with listening(lambda _: None) as url:
        pass
    with ControlClient(place=Place(url=url)) as client, pytest.raises(NodeNotRunning, match="refused"):
        client.status()
