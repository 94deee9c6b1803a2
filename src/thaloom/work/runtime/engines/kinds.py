"""The foreign engines: how each is started, where it says how it is, and what it can do. Pure but for the look-up of
programs.

Sources: llama.cpp, tools/server/README.md; vLLM, "OpenAI-Compatible Server" and `vllm serve --help`;
llama-cpp-python, "OpenAI Compatible Web Server"; OpenAI API reference.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from thaloom.base.errors import DriverUnavailable
from thaloom.base.units import MIB
from thaloom.work.runtime.types import ConstraintKind

Extra = Literal[
    "top_k", "min_p", "stop_token_ids", "include_stop_str_in_output", "min_tokens", "ignore_eos", "skip_special_tokens",
    "cache_salt", "chat_template_kwargs", "add_generation_prompt", "continue_final_message",
]  # fmt: skip
"""Fields beyond the protocol, by the name they are sent under."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What an engine is started with."""

    model: str
    """Path of a file or folder."""
    name: str
    """Under which it is to serve the model."""
    host: str
    port: int
    num_threads: int | None
    context_length: int | None
    """Of one request."""
    max_sequences: int
    store: str = ""
    """Root folder of the model store, for an engine whose models lie there; `model` is a name then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    name: str
    health_path: str
    """Answers 200 once requests are taken, without a key."""
    extras: frozenset[Extra] = frozenset()
    repetition: str | None = None
    """Its name for the repetition penalty."""
    constraints: frozenset[ConstraintKind] = frozenset()
    base_bytes: int = 0
    """What an empty one holds in memory: its own program."""
    tools: bool = True
    """Whether it reads and writes calls of tools."""
    most_seed: int = 2**63 - 1
    """A larger seed is folded into 0 .. most_seed."""
    otherwise: str
    """What it does in another way than a worker of ours: the reason of the Degraded condition."""
    hides_refusals: bool = False
    """Whether a stream it refuses is empty; asked for the whole, it says why."""
    most_sequences: int | None = None
    """Requests at once; None: as many as asked for."""
    command: Callable[[Start], list[str]] | None = None
    """None: it runs already."""
    key_variable: str = ""
    """The environment variable it takes its key from."""


_OTHERWISE = "{} computes the answers: its memory is measured, not held to, and a request's tokens may depend on others"
LLAMA_SEQUENCES = 4
"""Slots of a llama.cpp server at most: each reserves a whole context. Requests beyond wait in the worker."""


def find(name: str, which: Callable[[str], str | None] = shutil.which) -> Kind:
    """The engine of that name as this machine has it. Raises DriverUnavailable, naming what to install."""
    if name == "openai":
        return OPENAI
    if name == "vllm":
        _require(which("vllm"), "vllm", "no program 'vllm' is on the PATH (pip install vllm)")
        return VLLM
    if name == "transformers":
        for module in ("torch", "transformers"):
            _require(find_spec(module), name, f"no {module} (pip install 'thaloom[transformers]')")
        return TRANSFORMERS
    if which("llama-server") is not None:
        return LLAMA_SERVER
    _require(find_spec("llama_cpp"), "llama.cpp", "no program 'llama-server' is on the PATH, and no llama-cpp-python")
    return LLAMA_CPP_PYTHON


def _require(found: object, engine: str, why: str) -> None:
    if found is None:
        raise DriverUnavailable(f"engine {engine!r} is not installed: {why}")


def _llama_server(start: Start) -> list[str]:
    command = ["llama-server", "--model", start.model, "--alias", start.name, *_listening(start), "--jinja"]
    command += ["--parallel", str(start.max_sequences)]
    if start.context_length is not None:
        command += ["--ctx-size", str(start.context_length * start.max_sequences)]  # one for all slots together
    if start.num_threads is not None:
        command += ["--threads", str(start.num_threads)]
    return command


def _llama_cpp_python(start: Start) -> list[str]:
    command = [sys.executable, "-P", "-m", "llama_cpp.server", "--model", start.model, "--model_alias", start.name]
    command += [*_listening(start), "--interrupt_requests", "false"]  # its default ends an answer when another comes
    if start.context_length is not None:
        command += ["--n_ctx", str(start.context_length)]
    if start.num_threads is not None:
        command += ["--n_threads", str(start.num_threads)]
    return command


def _vllm(start: Start) -> list[str]:
    """Only safetensors, and no code from the model's folder: nothing here runs what a model brings along."""
    command = ["vllm", "serve", start.model, "--served-model-name", start.name, *_listening(start)]
    command += ["--load-format", "safetensors", "--max-num-seqs", str(start.max_sequences)]
    command += ["--enable-prompt-tokens-details"]
    if start.context_length is not None:
        command += ["--max-model-len", str(start.context_length)]
    return command


def _transformers(start: Start) -> list[str]:
    command = [sys.executable, "-P", "-m", f"{__package__}.transformers.server", *_listening(start)]
    command += ["--store", start.store, "--model", start.model, "--name", start.name]
    command += ["--context", str(start.context_length)]
    return command if start.num_threads is None else [*command, "--threads", str(start.num_threads)]


def _listening(start: Start) -> list[str]:
    return ["--host", start.host, "--port", str(start.port)]


def environment(kind: Kind, inherited: Mapping[str, str], key: str, num_threads: int | None = None) -> dict[str, str]:
    """What the server is started in: its key, its share of cores where it takes that from here (OpenMP), and offline,
    so that it fetches nothing behind anybody's back."""
    threads = {} if num_threads is None else {"OMP_NUM_THREADS": str(num_threads)}
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return dict(inherited) | {kind.key_variable: key} | offline | threads


LLAMA_SERVER = Kind(
    name="llama.cpp",
    health_path="/health",
    extras=frozenset({"top_k", "min_p", "ignore_eos", "chat_template_kwargs"}),
    repetition="repeat_penalty",
    constraints=frozenset({"json_schema", "json_object", "gbnf", "choice"}),
    most_seed=2**32 - 2,  # 2^32 - 1 is its word for "any"
    otherwise=_OTHERWISE.format("llama.cpp"),
    most_sequences=LLAMA_SEQUENCES,
    command=_llama_server,
    key_variable="LLAMA_API_KEY",
)
LLAMA_CPP_PYTHON = Kind(
    name="llama.cpp",
    health_path="/docs",  # everything else wants the key; it listens only once the model is loaded
    extras=frozenset({"top_k", "min_p"}),
    repetition="repeat_penalty",
    constraints=frozenset({"json_schema", "json_object"}),
    most_seed=2**31 - 1,
    otherwise=_OTHERWISE.format("llama-cpp-python, one request at a time,"),
    hides_refusals=True,
    most_sequences=1,
    command=_llama_cpp_python,
    key_variable="API_KEY",
)
VLLM = Kind(
    name="vllm",
    health_path="/health",
    extras=frozenset(
        {
            "top_k", "min_p", "stop_token_ids", "include_stop_str_in_output", "min_tokens", "ignore_eos",
            "cache_salt", "skip_special_tokens", "chat_template_kwargs", "add_generation_prompt",
            "continue_final_message",
        }
    ),
    repetition="repetition_penalty",
    constraints=frozenset({"json_schema", "json_object", "regex", "choice"}),
    otherwise=_OTHERWISE.format("vLLM"),
    command=_vllm,
    key_variable="VLLM_API_KEY",
)  # fmt: skip
TRANSFORMERS = Kind(
    name="transformers",
    health_path="/health",
    extras=VLLM.extras,
    repetition="repetition_penalty",
    base_bytes=512 * MIB,  # torch and transformers; measured as resident set of one, rounded up
    tools=False,
    otherwise="one request at a time, and its memory is measured, not held to",
    most_sequences=1,
    command=_transformers,
    key_variable="THALOOM_GUEST_KEY",
)
OPENAI = Kind(
    name="openai",
    health_path="/models",
    constraints=frozenset({"json_schema", "json_object"}),
    otherwise=_OTHERWISE.format("another server") + "; what it does with its model nobody here knows",
)
