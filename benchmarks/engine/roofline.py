"""The least time a cell can take on this machine: every weight read once, or every operation done at the peak."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.engine.cells import NUM_DECODED, Cell, WeightClass
from benchmarks.engine.probe import Peaks

from thaloom.base.plugins import Registry
from thaloom.hal.costs import Cost, Load, Run, step_cost
from thaloom.hal.ops import Program
from thaloom.work.runtime.architectures import Architecture, select

WEIGHT_BITS: dict[WeightClass, float] = {"8 bit": 8.0, "4 bit": 4.5, "16 bit": 16.0}
"""4 bit: groups of 32 with a scale of 16 bits each."""
KV_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The ceilings of one program in one class of weights."""

    program: Program
    weight_class: WeightClass
    peaks: Peaks

    def rate(self, cell: Cell, *, bytes_per_s: float) -> float:
        """Tokens/s that cannot be passed while memory gives `bytes_per_s`."""
        cost = self.cost(cell)
        operations_per_s = self.peaks.best(weight_bits=round(WEIGHT_BITS[self.weight_class]))
        floor_s = cost.floor_s(operations_per_s=operations_per_s or float("inf"), bytes_per_s=bytes_per_s)
        return (cell.prompt if cell.kind == "prefill" else cell.batch) / floor_s

    def cost(self, cell: Cell) -> Cost:
        """Of the prompt's one pass, or of the decode step in the middle of the run."""
        if cell.kind == "prefill":
            runs: tuple[Run, ...] = (Run(num_rows=cell.prompt, length=cell.prompt),)
        else:
            runs = (Run(num_rows=1, length=cell.prompt + NUM_DECODED // 2),) * cell.batch
        weight_bytes = WEIGHT_BITS[self.weight_class] / 8
        load = Load(runs=runs, num_outputs=cell.batch, weight_value_bytes=weight_bytes, kv_value_bytes=KV_BYTES)
        return step_cost(self.program, load)


def program_of(model: Path) -> Program:
    registry: Registry[Architecture] = Registry("architecture")
    registry.discover()
    config = json.loads((model / "config.json").read_text())
    return select(registry, config).build(config)
