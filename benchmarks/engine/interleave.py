"""The runner: for each cell and each peer of its class, ours and the peer's in turn, again and again.

One engine computes at a time, right after a probe of the memory. What fails is told and left out from there on; the
others go on. Rounds go over all cells, so that a run that is cut short has measured everything a little.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.engine.cells import Cell, WeightClass
from benchmarks.engine.engines import Engine, Session, Unavailable
from benchmarks.engine.pairs import Pair, Run, order
from benchmarks.engine.probe import waited_s

Key = tuple[WeightClass, Cell, str]
"""Class, cell, and the peer's name."""


@dataclass(slots=True, kw_only=True)
class Measured:
    """All pairs of a run. `versions` and `left_out` by engine; `failed` by key."""

    pairs: dict[Key, list[Pair]] = field(default_factory=dict)
    alone: dict[tuple[WeightClass, Cell], list[Run]] = field(default_factory=dict)
    """Ours in classes that no peer is there for."""
    versions: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[Key, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    model: Path
    ours: Mapping[WeightClass, Engine]
    peers: Sequence[Engine]
    cells: Sequence[Cell]
    num_pairs: int
    deadline: float | None = None
    """time.monotonic() at which no other pair is begun."""

    def out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline


def measure(plan: Plan, probe: Callable[[], float], tell: Callable[[str], None] | None = None) -> Measured:
    """Prepare everybody, open everybody, run everybody. Ours failing to open is an error; a peer's is a note."""
    tell = tell or (lambda line: print(line, file=sys.stderr, flush=True))
    measured = Measured()
    with ExitStack() as stack:
        ours = {weight_class: _open(engine, plan.model, stack) for weight_class, engine in plan.ours.items()}
        for weight_class, session in ours.items():
            measured.versions[plan.ours[weight_class].name] = session.version
        peers: list[tuple[Engine, Session]] = []
        for peer in plan.peers:
            try:
                tell(f"open {peer.name}")
                session = _open(peer, plan.model, stack)
            except Unavailable as error:
                tell(f"left out: {peer.name}: {error}")
                measured.left_out[peer.name] = str(error)
                continue
            measured.versions[peer.name] = session.version
            peers.append((peer, session))
        for number, first_and_second in enumerate(order(plan.num_pairs)):
            for cell in plan.cells:
                for weight_class, session in ours.items():
                    rivals = [(peer, other) for peer, other in peers if peer.weight_class == weight_class]
                    if plan.out_of_time():
                        tell(f"out of time in round {number + 1}")
                        return measured
                    if not rivals:
                        run = _run(session, cell, probe)
                        measured.alone.setdefault((weight_class, cell), []).append(run)
                    for peer, other in rivals:
                        key = (weight_class, cell, peer.name)
                        if key in measured.failed:
                            continue
                        try:
                            sides = {"ours": session, "peer": other}
                            runs = {side: _run(sides[side], cell, probe) for side in first_and_second}
                        except Unavailable as error:
                            tell(f"failed: {peer.name}, {cell.name}: {error}")
                            measured.failed[key] = str(error)
                            continue
                        pair = Pair(ours=runs["ours"], peer=runs["peer"])
                        measured.pairs.setdefault(key, []).append(pair)
                        tell(
                            f"{number + 1}: {weight_class}, {cell.name}: ours {pair.ours.rate:.0f}, "
                            f"{peer.name} {pair.peer.rate:.0f} tokens/s: {pair.ratio:.2f} "
                            f"(memory {pair.ours.probe / 1e9:.0f} and {pair.peer.probe / 1e9:.0f} GB/s)"
                        )
    return measured


def _open(engine: Engine, model: Path, stack: ExitStack) -> Session:
    """Raises Unavailable; then nothing of it is left."""
    with contextlib.ExitStack() as own:
        engine.prepare(model)
        session = own.enter_context(engine.open(model))
        stack.push(own.pop_all())
    return session


def _run(session: Session, cell: Cell, probe: Callable[[], float]) -> Run:
    bytes_per_s = probe()
    begin, waited = time.monotonic(), waited_s()
    rate = session.rate(cell)
    share = None if waited is None else ((waited_s() or waited) - waited) / (time.monotonic() - begin)
    return Run(rate=rate, probe=bytes_per_s, waited=share)
