"""The runner: for each cell and class, ours and the peers' in turn, again and again.

One engine computes at a time, right after a probe of the memory. A run of ours stands between two peers and makes a
pair with each: P A Q, Q A P, P A Q ... What fails is told and left out from there on; the others go on. Rounds go over
all cells, so that a run that is cut short has measured everything a little; costly cells come in every other round.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.engine.cells import Cell, WeightClass
from benchmarks.engine.engines import Engine, Session, Unavailable
from benchmarks.engine.pairs import Pair, Run
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
    ended_early: bool = False
    """By Ctrl-C or SIGTERM: there are fewer pairs than were asked for."""


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
    with ExitStack() as stack:
        runner = Runner(plan, probe, tell or (lambda line: print(line, file=sys.stderr, flush=True)))
        runner.open(stack)
        try:
            for number in range(plan.num_pairs):
                runner.round(number)
        except (KeyboardInterrupt, SystemExit):  # an hour's pairs are not thrown away with the one under way
            runner.measured.ended_early = True
            runner.tell("ended early: what was measured until now is kept")
        return runner.measured


class Runner:
    """One run of a plan: who is open, and what was measured so far."""

    def __init__(self, plan: Plan, probe: Callable[[], float], tell: Callable[[str], None]) -> None:
        self.measured = Measured()
        self._plan = plan
        self._probe = probe
        self.tell = tell
        self._ours: dict[WeightClass, Session] = {}
        self._peers: list[tuple[Engine, Session]] = []

    def open(self, stack: ExitStack) -> None:
        for weight_class, engine in self._plan.ours.items():
            self._ours[weight_class] = self._open(engine, stack)
        for peer in self._plan.peers:
            try:
                self._peers.append((peer, self._open(peer, stack)))
            except Unavailable as error:
                self.tell(f"left out: {peer.name}: {error}")
                self.measured.left_out[peer.name] = str(error)

    def round(self, number: int) -> None:
        for cell in self._plan.cells:
            if number % 2 and cell.costly:
                continue
            for weight_class in self._plan.ours:
                self.turn(weight_class, cell, number)

    def turn(self, weight_class: WeightClass, cell: Cell, number: int) -> None:
        """Everybody of one class in one cell: one run of ours between every two peers."""
        ours = self._plan.ours[weight_class]
        rivals = [
            (peer, session)
            for peer, session in self._peers
            if peer.weight_class == weight_class
            and (weight_class, cell, peer.name) not in self.measured.failed
            and (not cell.only or cell.only in peer.name)
        ]
        if not rivals and not any(peer.weight_class == weight_class for peer, _ in self._peers):
            run = self._run(ours, self._ours[weight_class], cell)
            if run:
                self.measured.alone.setdefault((weight_class, cell), []).append(run)
        for group in in_twos(rivals):
            if self._plan.out_of_time() or (weight_class, cell, ours.name) in self.measured.failed:
                return
            before, after = around(group, number)
            first = [(peer, self._run(peer, session, cell)) for peer, session in before]
            mine = self._run(ours, self._ours[weight_class], cell)
            last = [(peer, self._run(peer, session, cell)) for peer, session in after]
            for peer, run in first + last:
                if mine and run:
                    self._keep(peer, cell, Pair(ours=mine, peer=run))

    def _keep(self, peer: Engine, cell: Cell, pair: Pair) -> None:
        pairs = self.measured.pairs.setdefault((peer.weight_class, cell, peer.name), [])
        pairs.append(pair)
        self.tell(
            f"{len(pairs)}: {peer.weight_class}, {cell.name}: ours {pair.ours.rate:.0f}, "
            f"{peer.name} {pair.peer.rate:.0f} tokens/s: {pair.ratio:.2f} "
            f"(memory {pair.ours.probe / 1e9:.0f} and {pair.peer.probe / 1e9:.0f} GB/s)"
        )

    def _run(self, engine: Engine, session: Session, cell: Cell) -> Run | None:
        """None if it failed, which is told."""
        bytes_per_s = self._probe()
        begin, waited = time.monotonic(), waited_s()
        try:
            rate = session.rate(cell)
        except Unavailable as error:
            self.tell(f"failed: {engine.name}, {cell.name}: {error}")
            self.measured.failed[engine.weight_class, cell, engine.name] = str(error)
            return None
        share = None if waited is None else ((waited_s() or waited) - waited) / (time.monotonic() - begin)
        return Run(rate=rate, probe=bytes_per_s, waited=share)

    def _open(self, engine: Engine, stack: ExitStack) -> Session:
        """Raises Unavailable; then nothing of it is left."""
        self.tell(f"open {engine.name}")
        engine.prepare(self._plan.model)
        session = stack.enter_context(engine.open(self._plan.model))
        self.measured.versions[engine.name] = session.version
        return session


Rival = tuple[Engine, Session]


def in_twos(rivals: Sequence[Rival]) -> Iterator[Sequence[Rival]]:
    for start in range(0, len(rivals), 2):
        yield rivals[start : start + 2]


def around(group: Sequence[Rival], number: int) -> tuple[Sequence[Rival], Sequence[Rival]]:
    """Who runs right before ours and who right after; the other way round the next time, so that a drift of the
    machine favours nobody."""
    first, last = (group[:1], group[1:]) if len(group) == 2 else (group[:0], group)
    return (first, last) if number % 2 == 0 else (last, first)
