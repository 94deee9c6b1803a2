"""A node and its client on two machines, as far as the network can tell: two namespaces with a cable between them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.cli import PROGRAM, environment
from tests.system.node import Node, free_port
from thaloom.edge.wire.control import CertificateRequest, KeyRequest

HERE, THERE = "10.77.41.1", "10.77.41.2"
PATIENCE_S = 60.0


def _possible() -> bool:
    """Whether this user may make namespaces and cables."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter"))):
        return False
    name = f"thaloom-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", name], check=False)
    return made


pytestmark = [
    pytest.mark.slow,
    pytest.mark.hardware,
    pytest.mark.skipif(not _possible(), reason="network namespaces need root, ip and nsenter"),
]


class Machine:
    """A network of its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def inside(self) -> list[str]:
        """How a command begins that runs there. Not `ip netns exec`, which would hide control groups."""
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    def run(
        self, *command: str, env: dict[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.inside, *command], env=env, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0 or not check, done.stderr
        return done


class FarNode(Node):
    """One whose processes live on that machine."""

    def __init__(self, home: Path, port: int, machine: Machine) -> None:
        super().__init__(home, port)
        self.machine = machine

    def launch(self, *arguments: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "daemon-test.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.machine.inside, sys.executable, "-m", "thaloom.daemon", *arguments],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=pass_fds,
            )  # fmt: skip
        self._daemons.append(process)
        return process


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    one, other = (Machine(f"thaloom-{os.getpid()}-{end}") for end in "ab")
    cable = [f"th{os.getpid() % 10**6}{end}" for end in "ab"]
    try:
        for machine in (one, other):
            subprocess.run(["ip", "netns", "add", machine.name], check=True)
        subprocess.run(
            ["ip", "link", "add", cable[0], "netns", one.name, "type", "veth", "peer", "name", cable[1],
             "netns", other.name], check=True,
        )  # fmt: skip
        for machine, end, address in ((one, cable[0], HERE), (other, cable[1], THERE)):
            machine.run("ip", "link", "set", "lo", "up")
            machine.run("ip", "address", "add", f"{address}/24", "dev", end)
            machine.run("ip", "link", "set", end, "up")
        yield one, other
    finally:
        for machine in (one, other):
            subprocess.run(["ip", "netns", "del", machine.name], check=False, capture_output=True)


@pytest.fixture
def node(tmp_path_factory: pytest.TempPathFactory, machines: tuple[Machine, Machine]) -> Iterator[FarNode]:
    made = FarNode(tmp_path_factory.mktemp("n") / "h", free_port(), machines[0])
    try:
        yield made
    finally:
        made.clean_up()


CONNECTS = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)"
ASKS = """
import os, ssl, sys
import openai
context = ssl.create_default_context(cafile=os.environ["THALOOM_CA"])
client = openai.OpenAI(
    base_url=os.environ["THALOOM_URL"] + "/v1", api_key=os.environ["THALOOM_TOKEN"], max_retries=0,
    http_client=openai.DefaultHttpxClient(verify=context, trust_env=False),
)
pieces = client.completions.create(model="tiny", prompt="The socket option", max_tokens=8, stream=True)
print("".join(piece.choices[0].text for piece in pieces))
"""


def test_a_node_is_asked_from_another_machine(node: FarNode, machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    _, client = machines
    node.start()  # as it comes: on loopback
    node.serve_tiny()
    node.wait_for_door()
    refused = client.run(sys.executable, "-c", CONNECTS, HERE, str(node.port), check=False)
    assert "ConnectionRefusedError" in refused.stderr, "from another machine nobody is there"

    with node.client() as control:
        token = control.make_key(KeyRequest(name="far")).secret
        viewer = control.make_key(KeyRequest(name="eye", role="viewer")).secret
        made = control.make_certificate(CertificateRequest())
        assert HERE in made.names, "this machine's addresses are found"
        control.down()
    node.daemon.wait(30)
    node.start("--host", HERE)
    node.wait_for_door()
    with node.client() as control:
        control.wait_ready("tiny", timeout_s=PATIENCE_S)

    ca = tmp_path / "ca.pem"
    ca.write_text(made.pem or "")
    url = f"https://{HERE}:{node.port}"
    env = environment(node) | {
        "THALOOM_HOME": str(tmp_path / "none"), "THALOOM_URL": url, "THALOOM_TOKEN": token, "THALOOM_CA": str(ca),
    }  # fmt: skip
    env.pop("THALOOM_PORT")
    theirs = client.run(sys.executable, "-c", ASKS, env=env)
    assert theirs.stdout.strip(), "the field's client, with our certificate as its authority"
    ours = [sys.executable, "-c", "import thaloom; print(thaloom.Client().models()[0].id)"]
    assert client.run(*ours, env=env).stdout.strip() == "tiny"
    pinned = {**env, "THALOOM_CA": "", "THALOOM_FINGERPRINT": made.fingerprint or ""}
    assert client.run(*ours, env=pinned).stdout.strip() == "tiny"

    def refusal(*words: str, **changed: str) -> str:
        done = client.run(*PROGRAM, *(words or ("status",)), "--json", env=env | changed, check=False)
        assert done.returncode != 0
        return str(json.loads(done.stderr)["error"]["code"])

    for verb in ("ps", "status", "ls", "device ls"):
        looked = client.run(*PROGRAM, *verb.split(), "--json", env=env | {"THALOOM_TOKEN": viewer})
        assert json.loads(looked.stdout), verb
    ps = json.loads(client.run(*PROGRAM, "ps", "--json", env=env | {"THALOOM_TOKEN": viewer}).stdout)
    assert [service["name"] for service in ps["services"]] == ["tiny"]
    assert refusal("stop", "tiny", THALOOM_TOKEN=viewer) == "forbidden", "who looks changes nothing"
    assert refusal(THALOOM_TOKEN=token) == "forbidden", "and who asks models does not look"
    assert refusal(THALOOM_CA="") == "unknown_authority"
    assert refusal(THALOOM_FINGERPRINT="0" * 64) == "wrong_fingerprint"
    assert refusal(THALOOM_TOKEN="sk-th-unknown") in ("unauthorized", "forbidden")
    assert refusal(THALOOM_TOKEN="") in ("unauthorized", "forbidden")
    assert refusal(THALOOM_URL=f"http://{HERE}:{node.port}", THALOOM_TOKEN="") == "https_needed"
    assert refusal(THALOOM_URL=f"http://{HERE}:{node.port}") == "bad_parameter", "the key stays here"
