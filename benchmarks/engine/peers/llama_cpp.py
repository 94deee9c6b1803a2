"""llama.cpp, and its fork ik_llama.cpp: built from source, measured by their own batched benchmark.

llama.cpp comes from the newest source distribution of llama-cpp-python, which carries the whole upstream tree of its
week. ik_llama.cpp is in no package registry: its source folder is named by IK_LLAMA_CPP_SOURCE, and without it the
table says that it was not measured.

The benchmark program runs once for each cell. It feeds random tokens and samples nothing, so its decode rate leaves
out what choosing a token costs. llama.cpp computes the prompt of a decode cell once and copies it to all sequences
(-pps), which changes nothing in the measured part; the fork's sequences would share it, which would, so there every
sequence gets a prompt of its own. The fork reads the files that llama.cpp made.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from benchmarks.engine import environments
from benchmarks.engine.cells import NUM_DECODED, Cell, WeightClass
from benchmarks.engine.engines import CHILDREN, Session, Unavailable, run_to_end
from benchmarks.engine.peers import transformers

Project = Literal["llama.cpp", "ik_llama.cpp"]
Quantisation = Literal["Q8_0", "Q4_0", "BF16", "F32"]
CLASS_OF: dict[Quantisation, WeightClass] = {"Q8_0": "8 bit", "Q4_0": "4 bit", "BF16": "16 bit", "F32": "16 bit"}
TARGETS: dict[Project, tuple[str, ...]] = {
    "llama.cpp": ("llama-batched-bench", "llama-quantize", "llama-server"),
    "ik_llama.cpp": ("llama-batched-bench",),
}
SETTINGS = (
    "-DGGML_NATIVE=ON",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_CURL=OFF",
)
MICRO_BATCH = 512
COLUMNS = ("pp", "tg", "pl", "n_kv", "t_pp", "speed_pp", "t_tg")


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCpp:
    project: Project
    quantisation: Quantisation
    num_threads: int

    @property
    def name(self) -> str:
        return f"{self.project} {self.quantisation}"

    @property
    def weight_class(self) -> WeightClass:
        return CLASS_OF[self.quantisation]

    @property
    def home(self) -> Path:
        return environments.cache() / self.project

    def build(self) -> Path:
        """The folder of its programs. Raises Unavailable."""
        return environments.cmake(self.source(), self.home / "build", SETTINGS, TARGETS[self.project])

    def source(self) -> Path:
        if self.project == "llama.cpp":
            return environments.source_of("llama-cpp-python", self.home) / "vendor" / "llama.cpp"
        given = os.environ.get("IK_LLAMA_CPP_SOURCE")
        if not given:
            raise Unavailable("it is in no package registry; name a folder with its source by IK_LLAMA_CPP_SOURCE")
        return Path(given)

    def prepare(self, model: Path) -> None:
        self.weights(model)

    def weights(self, model: Path) -> Path:
        """The GGUF file. The tied head is quantised like the rest (`--pure`), as in every engine of the class."""
        programs = self.build()
        if self.project == "ik_llama.cpp":
            return replace(self, project="llama.cpp").weights(model)
        path = self.home / "models" / f"{model.name}-{self.quantisation}.gguf"
        if path.exists():
            return path
        partial = path.with_suffix(".partial")
        if self.quantisation in ("BF16", "F32"):
            path.parent.mkdir(parents=True, exist_ok=True)
            python = transformers.environment()
            convert: list[str | Path] = [python, CHILDREN / "convert_gguf.py", self.source(), model]
            environments.run(
                [*convert, "--outtype", self.quantisation.lower(), "--outfile", partial], self.home / "convert.log"
            )
        else:
            wide = replace(self, quantisation="BF16").weights(model)
            command: list[str | Path] = [
                programs / "llama-quantize",
                "--pure",
                wide,
                partial,
                self.quantisation,
                str(self.num_threads),
            ]
            environments.run(command, self.home / "convert.log")
        partial.rename(path)
        return path

    @contextmanager
    def open(self, model: Path) -> Iterator[Session]:
        yield BatchedBench(engine=self, program=self.build() / "llama-batched-bench", weights=self.weights(model))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedBench:
    """Keeps no process: each run loads the file from the page cache, and its loading is not measured."""

    engine: LlamaCpp
    program: Path
    weights: Path

    @property
    def version(self) -> str:
        return version_of(self.engine)

    def rate(self, cell: Cell) -> float:
        return read_rate(run_to_end(self.command(cell), timeout_s=300, folder=self.engine.home), cell)

    def command(self, cell: Cell) -> list[str | Path]:
        new_tokens = NUM_DECODED if cell.kind == "decode" else 1
        threads = str(self.engine.num_threads)
        share = ["-pps"] if self.engine.project == "llama.cpp" else []
        return [
            self.program,
            "-m",
            self.weights,
            *share,
            "-fa",
            "on",
            *("-c", str(cell.batch * (cell.prompt + new_tokens + 32))),
            *("-b", "2048", "-ub", str(MICRO_BATCH), "-t", threads, "-tb", threads),
            *("-npp", str(cell.prompt), "-ntg", str(new_tokens), "-npl", str(cell.batch)),
            *("--output-format", "jsonl"),
        ]


def read_rate(output: str, cell: Cell) -> float:
    """Tokens/s from what the benchmark printed: JSON lines, or the fork's table. Raises Unavailable if the line of this
    cell is not there."""
    for line in output.splitlines():
        if line.startswith("{"):
            told = json.loads(line)
        elif re.match(r"\| +\d", line):
            told = dict(zip(COLUMNS, (float(word) for word in line.strip("| \n").split("|")), strict=False))
        else:
            continue
        if (told["pp"], told["pl"]) == (cell.prompt, cell.batch):
            if cell.kind == "prefill":
                return float(cell.prompt / told["t_pp"])
            return float(cell.batch * told["tg"] / told["t_tg"])
    raise Unavailable(f"no result in what it printed: {output[-500:]!r}")


def version_of(engine: LlamaCpp) -> str:
    """The upstream commit, as far as the source tells it, else the package's version."""
    if engine.project == "llama.cpp":
        told = engine.home / "src" / "PKG-INFO"
        lines = told.read_text(errors="replace").splitlines() if told.exists() else []
        packaged = next((line.split()[1] for line in lines if line.startswith("Version:")), "unknown")
        return f"of llama-cpp-python {packaged}"
    return os.environ.get("IK_LLAMA_CPP_VERSION", "version not told")
