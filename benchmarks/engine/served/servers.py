"""Servers as they are started for the comparison: two threads, one model, prefix caches off."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.engine import environments
from benchmarks.engine.cells import WeightClass
from benchmarks.engine.engines import Unavailable
from benchmarks.engine.peers import vllm
from benchmarks.engine.peers.llama_cpp import LlamaCpp
from benchmarks.engine.peers.thaloom import model_name
from benchmarks.engine.served.client import Ask, Endpoint, ServerFailed, drive

THALOOM = Path(sys.executable).parent / "thaloom"
READY_S = 400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers."""

    endpoint: Endpoint
    groups: tuple[int, ...]
    """Process groups to stop while others are measured. Empty for a node of ours: its processes sleep by themselves."""
    processes: tuple[int, ...]
    """Roots of its process trees."""

    def peak_bytes(self) -> int:
        """The most memory each of its processes ever held, added up."""
        return sum(high_water_mark(process) for root in self.processes for process in tree(root))

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for group in self.groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, number)


class Server(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def weight_class(self) -> WeightClass: ...

    def prepare(self, model: Path) -> None:
        """Raises Unavailable."""
        ...

    def open(self, model: Path, *, context: int, slots: int) -> AbstractContextManager[Running]:
        """`slots` sequences of at most `context` tokens at once. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ThaloomNode:
    """A node of our own: daemon, door and worker."""

    name: str
    weight_class: WeightClass
    num_threads: int
    options: tuple[str, ...] = ()
    """More options of `thaloom serve`."""

    def prepare(self, model: Path) -> None:
        del model

    @contextmanager
    def open(self, model: Path, *, context: int, slots: int) -> Iterator[Running]:
        port = free_port()
        with tempfile.TemporaryDirectory() as home:
            environment = {**os.environ, "THALOOM_HOME": home, "THALOOM_PORT": str(port)}

            def thaloom(*words: str) -> str:
                done = subprocess.run(
                    [str(THALOOM), *words], env=environment, capture_output=True, text=True, check=False
                )
                if done.returncode:
                    raise Unavailable(f"thaloom {words[0]}: {done.stderr[-1000:]}")
                return done.stdout

            try:
                thaloom("up", "--detach")
                name = str(model_name(model))
                thaloom("pull", str(model), "--name", name)
                thaloom(
                    *("serve", name, "--threads", str(self.num_threads), "--context", str(context)),
                    *(
                        "--max-sequences",
                        str(slots),
                        "--kv-bytes",
                        "1GiB",
                        "--no-prefix-reuse",
                        "--speculation",
                        "off",
                        *self.options,
                    ),
                )
                listing = json.loads(thaloom("ps", "--json"))
                yield Running(
                    endpoint=Endpoint(port=port, model=name),
                    groups=(),
                    processes=tuple(process["pid"] for process in listing["processes"]),
                )
            finally:
                subprocess.run([str(THALOOM), "down"], env=environment, capture_output=True, check=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaServer:
    engine: LlamaCpp

    @property
    def name(self) -> str:
        return f"llama-server {self.engine.quantisation}"

    @property
    def weight_class(self) -> WeightClass:
        return self.engine.weight_class

    def prepare(self, model: Path) -> None:
        self.engine.prepare(model)

    def command(self, model: Path, *, context: int, slots: int, port: int) -> list[str | Path]:
        threads = str(self.engine.num_threads)
        return [
            self.engine.build() / "llama-server",
            *("-m", str(self.engine.weights(model)), "--host", "127.0.0.1", "--port", str(port)),
            *("-c", str(context * slots), "-np", str(slots), "-t", threads, "-tb", threads, "-fa", "on"),
            *("--no-cache-prompt", "--no-webui"),
        ]

    @contextmanager
    def open(self, model: Path, *, context: int, slots: int) -> Iterator[Running]:
        port = free_port()
        command = self.command(model, context=context, slots=slots, port=port)
        with spawned(
            command, {}, Endpoint(port=port, model="m", extra=(("cache_prompt", False),)), self.name
        ) as running:
            yield running


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmServer:
    engine: vllm.Vllm
    options: Sequence[str] = field(default=())

    @property
    def name(self) -> str:
        return f"vllm serve {'W8A8' if self.weight_class == '8 bit' else 'bf16'}"

    @property
    def weight_class(self) -> WeightClass:
        return self.engine.weight_class

    def prepare(self, model: Path) -> None:
        self.engine.prepare(model)

    @contextmanager
    def open(self, model: Path, *, context: int, slots: int) -> Iterator[Running]:
        port = free_port()
        command: list[str | Path] = [
            # Not `vllm serve`: that asks for the version of a package by its other name, and ends.
            *(vllm.environment(), "-m", "vllm.entrypoints.openai.api_server", "--model", self.engine.weights(model)),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--served-model-name", "m", "--dtype", "bfloat16", "--max-model-len", str(context)),
            *("--max-num-seqs", str(slots), "--no-enable-prefix-caching", "--disable-log-stats", *self.options),
        ]
        variables = vllm.variables(self.engine.num_threads)
        del variables["VLLM_ENABLE_V1_MULTIPROCESSING"]  # its server needs the engine in a process of its own
        with spawned(command, variables, Endpoint(port=port, model="m"), self.name) as running:
            yield running


@contextmanager
def spawned(
    command: Sequence[str | Path], variables: Mapping[str, str], endpoint: Endpoint, name: str
) -> Iterator[Running]:
    """A server program in a group of its own, once it has answered a first request; killed at the end."""
    log = environments.cache() / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **variables},
            start_new_session=True,
        )
    try:
        wait_until_it_answers(process, endpoint, log)
        yield Running(endpoint=endpoint, groups=(process.pid,), processes=(process.pid,))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_it_answers(process: subprocess.Popen[Any], endpoint: Endpoint, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            drive(endpoint, [Ask(prompt=(5, 6, 7), new_tokens=2)], 1)
            return
        except ServerFailed as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"{error}\n{log.read_text(errors='replace')[-1500:]}") from error
        time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def tree(root: int) -> list[int]:
    """A process and all its descendants (proc(5))."""
    found, at = [root], 0
    while at < len(found):
        for children in Path(f"/proc/{found[at]}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(word) for word in children.read_text().split()]
        at += 1
    return list(dict.fromkeys(found))


def high_water_mark(process: int) -> int:
    """The most bytes it ever had resident; 0 if it is gone (proc(5), VmHWM)."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
