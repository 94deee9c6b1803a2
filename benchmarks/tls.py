"""What TLS costs at the door: `python benchmarks/tls.py`. Writes benchmarks/records/<date>-tls.json.

One node with the bundled model, and two doors of it on loopback, one plain and one with TLS, asked in turn (A B A B
...). Quoted are ratios, TLS over plain, the median over the pairs with their quartiles: of the wall time of a small
request on a connection that is kept, of one with a connection of its own (with TLS that is a handshake), and of
streams; and of the door's processor time for each token of streams, which does not depend on who else uses the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from node import machine, write_record

from thaloom.edge.client.control import ControlClient
from thaloom.edge.wire.control import CertificateRequest, PullRequest, ServeRequest

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
Connect = Callable[[], http.client.HTTPConnection]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--requests", type=int, default=200, help="in one round, on a kept connection")
    parser.add_argument("--connections", type=int, default=50, help="in one round, each for one request")
    parser.add_argument("--streams", type=int, default=8, help="at the same time")
    parser.add_argument("--tokens", type=int, default=256, help="of each stream")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="th") as folder, node(Path(folder) / "h") as home:
        with door(home) as (plain_pid, plain), door(home, "--tls") as (tls_pid, tls):
            ca = ssl.create_default_context(cadata=certificate(home))
            doors: dict[str, tuple[int, Connect]] = {
                "plain": (plain_pid, lambda: http.client.HTTPConnection("localhost", plain, timeout=60)),
                "tls": (tls_pid, lambda: http.client.HTTPSConnection("localhost", tls, timeout=60, context=ca)),
            }
            record = measured(doors, given)
    write_record("tls", {**machine(), "openssl": ssl.OPENSSL_VERSION, **vars(given), **record})


def measured(doors: dict[str, tuple[int, Connect]], given: argparse.Namespace) -> dict[str, Any]:
    rounds: dict[str, Callable[[int, Connect], float]] = {
        "kept_connection_s": lambda _, connect: on_one_connection(connect, given.requests),
        "own_connection_s": lambda _, connect: on_their_own(connect, given.connections),
        "stream_s": lambda _, connect: streams(connect, given.streams, given.tokens),
        "door_cpu_us_per_token": lambda pid, connect: cpu_of_streams(pid, connect, given.streams, given.tokens),
    }
    found: dict[str, Any] = {}
    for name, work in rounds.items():
        for pid, connect in doors.values():
            work(pid, connect)  # warm
        taken = [{kind: work(pid, connect) for kind, (pid, connect) in doors.items()} for _ in range(given.pairs)]
        ratios = sorted(pair["tls"] / pair["plain"] for pair in taken)
        quarters = statistics.quantiles(ratios, n=4)
        found[name] = {
            **{kind: statistics.median(pair[kind] for pair in taken) for kind in doors},
            "ratio": statistics.median(ratios),
            "quartiles": [quarters[0], quarters[2]],
        }
    return found


def on_one_connection(connect: Connect, count: int) -> float:
    """Seconds for one request."""
    with contextlib.closing(connect()) as connection:
        get(connection)
        begun = time.perf_counter()
        for _ in range(count):
            get(connection)
        return (time.perf_counter() - begun) / count


def on_their_own(connect: Connect, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        with contextlib.closing(connect()) as connection:
            get(connection)
    return (time.perf_counter() - begun) / count


def get(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/v1/models")
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    answer.read()


def streams(connect: Connect, count: int, tokens: int) -> float:
    """Seconds until all have ended."""
    asked = json.dumps(
        {"model": "tiny", "prompt": "The socket option", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    )

    def one() -> None:
        with contextlib.closing(connect()) as connection:
            connection.request("POST", "/v1/completions", asked, {"content-type": "application/json"})
            said = connection.getresponse().read()
            assert said.rstrip().endswith(b"[DONE]"), said[-200:]

    asking = [threading.Thread(target=one) for _ in range(count)]
    begun = time.perf_counter()
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    return time.perf_counter() - begun


def cpu_of_streams(pid: int, connect: Connect, count: int, tokens: int) -> float:
    """Microseconds of the door's processor time for each token, over several rounds: the clock ticks coarsely."""
    rounds = 4
    begun = cpu_s(pid)
    for _ in range(rounds):
        streams(connect, count, tokens)
    return (cpu_s(pid) - begun) / (rounds * count * tokens) * 1e6


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


@contextlib.contextmanager
def node(home: Path) -> Iterator[Path]:
    home.mkdir(parents=True)
    environment = os.environ | {"THALOOM_HOME": str(home), "THALOOM_PORT": str(free_port())}
    with (home / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-m", "thaloom.daemon"], env=environment, stdout=log, stderr=log)
    try:
        with ControlClient(home) as client:
            until(lambda: (home / "run" / "control.sock").exists())
            client.pull(PullRequest(source="tiny"))
            client.serve("tiny", ServeRequest(model="tiny", num_threads=1))
            client.wait_ready("tiny", timeout_s=60)
            client.make_certificate(CertificateRequest(names=["localhost"]))
            yield home
            client.down()
        daemon.wait(60)
    finally:
        daemon.kill()
        daemon.wait()


def certificate(home: Path) -> str:
    with ControlClient(home) as client:
        return client.certificate().pem or ""


@contextlib.contextmanager
def door(home: Path, *more: str) -> Iterator[tuple[int, int]]:
    """A further door of that node: its pid and its port."""
    port = free_port()
    words = [sys.executable, "-m", "thaloom.door", "--home", str(home), "--host", "127.0.0.1", "--port", str(port)]
    with (home / f"door-{port}.log").open("wb") as log:
        process = subprocess.Popen([*words, *more], stdout=log, stderr=log)
    try:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(30)


def until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not so():
        assert time.monotonic() < deadline, "it does not come up"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
