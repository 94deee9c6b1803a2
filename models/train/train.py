"""Trains the tiny model from scratch on the CPU.

    python train.py WORK_FOLDER --run RUN --steps 8000 --decay-steps 2000

Warmup, stable, decay: the learning rate is constant until the last
`--decay-steps`, in which it falls straight to zero. A run that has to end by
the clock is given `--minutes-left` instead: it decays from that moment on, as
steeply as the measured pace demands. During the decay the windows are of the
full context and the package weights are squared. An interrupted run
continues from RUN/checkpoint.pt; SIGTERM leaves one.
"""

from __future__ import annotations

import argparse
import csv
import signal
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from batches import PackedDocuments, pack
from corpus import package_weights
from model import Shape, TinyLlama
from muon import Muon

THREADS = 2
WARMUP_STEPS = 100
CHECKPOINT_EVERY_S = 240.0
LOG_EVERY = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is held fixed over a run."""

    seed: int = 20261121
    window: int = 256
    decay_window: int = 1024
    batch_tokens: int = 4_096
    matrix_rate: float = 6e-3
    embedding_rate: float = 1.2e-2
    weight_decay: float = 0.1
    clip_norm: float = 1.0


@dataclass(slots=True)
class Progress:
    """Where the run stands; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    decay_from: int | None = None
    decay_share: float = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--corpus", default="corpus")
    parser.add_argument("--tokenizer", type=Path, default=Path(__file__).parents[1] / "tiny" / "tokenizer.json")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--decay-steps", type=int, default=2500)
    parser.add_argument("--minutes-left", type=float)
    parser.add_argument("--window", type=int, default=Recipe().window)
    parser.add_argument("--decay-window", type=int, default=Recipe().decay_window)
    parser.add_argument("--embedding-rate", type=float, default=Recipe().embedding_rate)
    parser.add_argument("--batch-tokens", type=int, default=Recipe().batch_tokens)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    recipe = Recipe(
        window=arguments.window,
        embedding_rate=arguments.embedding_rate,
        decay_window=arguments.decay_window,
        batch_tokens=arguments.batch_tokens,
    )
    packed = arguments.run / "packed"
    if not (packed / "weights.npy").exists():
        pack(arguments.work / arguments.corpus / "train.jsonl", arguments.tokenizer, package_weights(), packed)
    run = Run(arguments.run, PackedDocuments(packed), recipe, compiled=not arguments.no_compile)
    signal.signal(signal.SIGTERM, lambda *_: setattr(run, "stopping", True))
    if arguments.minutes_left is None:
        run.train(FixedEnd(steps=arguments.steps, decay_steps=arguments.decay_steps))
    else:
        run.train(ClockedEnd(end_s=time.monotonic() + 60 * arguments.minutes_left))


class End(Protocol):
    """Says when the decay begins and how many of its steps are left."""

    def decays(self, step: int) -> bool: ...

    def remaining_steps(self, step: int, now_s: float) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedEnd:
    """The end of a run whose number of steps is known."""

    steps: int
    decay_steps: int

    def decays(self, step: int) -> bool:
        return step >= self.steps - self.decay_steps

    def remaining_steps(self, step: int, now_s: float) -> float:  # noqa: ARG002  # the other kind needs the time
        return self.steps - step


@dataclass(slots=True, kw_only=True)
class ClockedEnd:
    """The end of a run that must be over at a time; the pace is that of the last steps."""

    end_s: float
    seen: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=100))

    def decays(self, step: int) -> bool:  # noqa: ARG002
        return True

    def remaining_steps(self, step: int, now_s: float) -> float:
        self.seen.append((step, now_s))
        (first_step, first_s), left_s = self.seen[0], self.end_s - now_s
        if step - first_step < 10:  # no pace is known yet; one second a step is near enough for ten
            return left_s
        return left_s * (step - first_step) / (now_s - first_s)


class Run:
    """One training run in one folder: the weights, the optimisers, the log."""

    def __init__(self, folder: Path, documents: PackedDocuments, recipe: Recipe, *, compiled: bool) -> None:
        torch.set_num_threads(THREADS)
        torch.manual_seed(recipe.seed)
        self.folder, self.documents, self.recipe = folder, documents, recipe
        self.model = TinyLlama(Shape())
        self.loss = torch.compile(self.model.loss, dynamic=False) if compiled else self.model.loss
        matrices = [p for p in self.model.layers.parameters() if p.ndim == 2]
        norms = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=0.0, weight_decay=recipe.weight_decay),
            torch.optim.AdamW(
                [
                    {"params": [self.model.embed_tokens.weight], "weight_decay": recipe.weight_decay / 10},
                    {"params": norms, "weight_decay": 0.0},
                ],
                lr=0.0,
                betas=(0.9, 0.97),
                fused=True,
            ),
        ]
        self.stopping = False
        self.progress = Progress()
        self.history: list[dict[str, float]] = []  # every recipe of the run, with the step it began at
        if (folder / "checkpoint.pt").exists():
            self.load()
        if not self.history or recipe != Recipe(**without_step(self.history[-1])):
            self.history.append({"from_step": self.progress.step, **asdict(recipe)})

    def train(self, end: End) -> None:
        progress, recipe = self.progress, self.recipe
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        print(f"{num_parameters} parameters; one epoch is {self.documents.epoch_tokens} tokens", flush=True)
        batches = self.batches(decaying=progress.decay_from is not None)
        started, saved, losses = time.monotonic() - progress.seconds, time.monotonic(), []
        while not self.stopping:
            if progress.decay_from is None and end.decays(progress.step):
                progress.decay_from = progress.step
                batches = self.batches(decaying=True)
            if progress.decay_from is not None:
                remaining = end.remaining_steps(progress.step, time.monotonic())
                if remaining < 1:
                    break
                progress.decay_share *= 1 - 1 / remaining
            share = progress.decay_share * min(1.0, (progress.step + 1) / WARMUP_STEPS)
            losses.append(self.step(next(batches), share))
            progress.step, progress.tokens = progress.step + 1, progress.tokens + recipe.batch_tokens
            progress.seconds = time.monotonic() - started
            if progress.step % LOG_EVERY == 0:
                self.log(float(np.mean(losses)), share * recipe.matrix_rate)
                losses = []
            if time.monotonic() - saved > CHECKPOINT_EVERY_S:
                self.save()
                saved = time.monotonic()
        self.save()

    def batches(self, *, decaying: bool) -> Iterator[torch.Tensor]:
        """Yields (batch, window + 1) tokens for ever, from the epoch and place the step count implies."""
        recipe = self.recipe
        window = recipe.decay_window if decaying else recipe.window
        size = recipe.batch_tokens // window
        per_epoch = self.documents.epoch_tokens // recipe.batch_tokens - 1
        step = self.progress.step
        while True:
            windows = self.documents.epoch(step // per_epoch, window, recipe.seed + decaying, sharpened=decaying)
            for place in range(step % per_epoch, per_epoch):
                yield torch.from_numpy(windows[place * size : (place + 1) * size].astype(np.int64))
                step += 1

    def step(self, windows: torch.Tensor, share: float) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = self.loss(windows[:, :-1].contiguous(), windows[:, 1:].contiguous())
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        for optimiser, peak in zip(self.optimisers, (self.recipe.matrix_rate, self.recipe.embedding_rate), strict=True):
            for group in optimiser.param_groups:
                group["lr"] = share * peak
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return float(loss.detach())

    def log(self, loss: float, rate: float) -> None:
        path, progress = self.folder / "training_log.csv", self.progress
        new = not path.exists()
        with path.open("a", newline="") as out:
            writer = csv.writer(out, lineterminator="\n")
            if new:
                writer.writerow(["step", "tokens", "loss_nats_per_token", "matrix_learning_rate", "seconds"])
            writer.writerow([progress.step, progress.tokens, f"{loss:.4f}", f"{rate:.3e}", f"{progress.seconds:.0f}"])

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "progress": asdict(self.progress),
            "recipes": self.history,
            "shape": asdict(self.model.shape),
        }
        torch.save(state, self.folder / "checkpoint.part")
        (self.folder / "checkpoint.part").rename(self.folder / "checkpoint.pt")

    def load(self) -> None:
        state = torch.load(self.folder / "checkpoint.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        self.history = state["recipes"]
        self.trim_log()

    def trim_log(self) -> None:
        """Forgets the lines a lost tail of the run had written after its last checkpoint."""
        path = self.folder / "training_log.csv"
        if path.exists():
            head, *rows = path.read_text().splitlines()
            kept = [head, *(row for row in rows if int(row.partition(",")[0]) <= self.progress.step)]
            path.write_text("".join(line + "\n" for line in kept))


def without_step(entry: dict[str, float]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "from_step"}


if __name__ == "__main__":
    main()
