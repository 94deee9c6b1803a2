"""An ONNX Runtime session: made from bytes alone, run with a deadline, its rows tried for independence.

The one module that imports onnxruntime. Made from bytes, a model can reach no file; no library of custom operators is
ever registered, so a model that needs one is refused: loading runs no code of the model's.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime

from thaloom.base.errors import BadParameter, DeadlineExceeded, NotServable
from thaloom.kernel.models.types import ModelTensor
from thaloom.work.runtime.engines.onnx.arrays import NUMPY, Array

RUN_S = 60.0
"""For one pass; then it is ended, because others wait."""
TOLERANCE = 1e-4
"""Of what joining may change, relative: other sums of the same numbers (measured on small networks: 1e-6)."""
_TRIED_ROWS = (1, 2)
_OPEN_SIZE = 8
"""What stands for a size that is open, when a model is tried out."""


class Session:
    """Runs on any thread, one at a time."""

    def __init__(
        self, model: bytes, inputs: Sequence[ModelTensor], outputs: Sequence[ModelTensor], threads: int
    ) -> None:
        """Raises NotServable with the runtime's reason."""
        for tensor in (*inputs, *outputs):
            if tensor.dtype not in NUMPY:
                raise NotServable(f"{tensor.name!r} is {tensor.dtype}, which is not served")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads are others' threads
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no common base
            raise NotServable(f"ONNX Runtime refuses the model: {_first_line(error)}") from error
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        """What its makers wrote into the file."""
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.joins = self._rows_are_independent()

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str], deadline_s: float = RUN_S) -> list[Array]:
        """Raises BadParameter with the runtime's reason, DeadlineExceeded."""
        options = onnxruntime.RunOptions()
        over = threading.Event()

        def stop() -> None:
            over.set()
            options.terminate = True

        timer = threading.Timer(deadline_s, stop)
        timer.daemon = True
        timer.start()
        try:
            return [np.asarray(array) for array in self._session.run(list(outputs), dict(inputs), options)]
        except Exception as error:
            if over.is_set():
                raise DeadlineExceeded(f"the model did not end within {deadline_s:g} s") from error
            raise BadParameter(f"the model refuses these inputs: {_first_line(error)}", param="inputs") from error
        finally:
            timer.cancel()

    def _rows_are_independent(self) -> bool:
        """Whether requests may be joined along the first axis: declared open by every input and output, and tried with
        made-up rows, alone and together. Not so, or not to be found out: every request runs alone."""
        if not all(tensor.shape and tensor.shape[0] == -1 for tensor in (*self.inputs, *self.outputs)):
            return False
        names = [tensor.name for tensor in self.outputs]
        draw = np.random.default_rng(0)
        parts = [{tensor.name: _made_up(tensor, rows, draw) for tensor in self.inputs} for rows in _TRIED_ROWS]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        try:
            alone = [self.run(part, names, 10.0) for part in parts]
            together = self.run(joined, names, 10.0)
        except (BadParameter, DeadlineExceeded):
            return False
        return all(_same(apart, whole) for apart, whole in zip(zip(*alone, strict=True), together, strict=True))


def _made_up(tensor: ModelTensor, rows: int, draw: np.random.Generator) -> Array:
    assert tensor.shape is not None
    shape = (rows, *(_OPEN_SIZE if size == -1 else size for size in tensor.shape[1:]))
    if tensor.dtype == "BYTES":
        return np.full(shape, "a", object)
    if tensor.dtype.startswith("FP"):
        return draw.standard_normal(shape).astype(NUMPY[tensor.dtype])
    return draw.integers(0, 2, shape).astype(NUMPY[tensor.dtype])


def _same(parts: Sequence[Array], whole: Array) -> bool:
    if whole.ndim == 0 or any(part.ndim != whole.ndim or part.shape[1:] != whole.shape[1:] for part in parts):
        return False  # how long an answer is depends on what is in it
    apart = np.concatenate(parts)
    if apart.shape != whole.shape or apart.dtype != whole.dtype:
        return False
    if apart.dtype.kind == "f":
        return bool(np.allclose(apart, whole, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
    return bool(np.array_equal(apart, whole))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:400] if str(error).strip() else type(error).__name__
