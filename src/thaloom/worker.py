"""One worker process: one model on one device behind one unix socket. Composes; the work is in work/runtime.

`thaloom-worker --spec FILE`: FILE is a work.runtime.spec.WorkerSpec as JSON. It ends with 0 after SIGTERM or
Shutdown, else with the exit code of the error that ended it, which also lies in `<socket>.failure.json`.
With `--standby DRIVER` there is no such file yet: it waits to be told so (work/runtime/worker/standby.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from thaloom.base.clock import Clock, SystemClock
from thaloom.base.errors import InternalError, ThaloomError
from thaloom.base.events import Emit
from thaloom.base.files import write_atomic
from thaloom.base.heap import keep_little
from thaloom.base.log import LogWriter
from thaloom.base.plugins import Registry
from thaloom.hal.driver import Driver
from thaloom.kernel.models.store import ModelStore
from thaloom.kernel.trust.inherited import InheritedKey
from thaloom.work.runtime.architectures import Architecture
from thaloom.work.runtime.events import WorkerFailed
from thaloom.work.runtime.spec import WorkerSpec, read_spec
from thaloom.work.runtime.worker.loading import LoadedModel, load
from thaloom.work.runtime.worker.service import DEFAULT_GRACE_S, WorkerService
from thaloom.work.runtime.worker.serving import Servable
from thaloom.work.runtime.worker.shared_weights import InheritedMemory
from thaloom.work.runtime.worker.standby import get_ready, stand_by


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker in this process until it is told to end; the exit code."""
    keep_little()
    parser = argparse.ArgumentParser(prog="thaloom-worker", description="Serve one model; started by thaloomd.")
    parser.add_argument("--spec", type=Path, required=True, help="JSON file that says what to serve and where")
    parser.add_argument("--standby", metavar="DRIVER", help="wait until that file is there, with what DRIVER needs")
    asked = parser.parse_args(arguments)
    if asked.standby is not None:
        get_ready(*_plugins(), asked.standby)
        if not stand_by():
            return 0
    clock = SystemClock()
    emit = LogWriter(clock)
    key, memory = InheritedKey(os.environ), InheritedMemory(os.environ)
    try:
        spec = read_spec(asked.spec)
    except ThaloomError as error:
        emit(WorkerFailed(worker="", service="", code=error.code, message=error.message))
        return error.exit_code
    try:
        asyncio.run(_serve(spec, key, memory, clock, emit))
    except ThaloomError as error:
        return _failed(spec, error, emit)
    except Exception as error:  # noqa: BLE001 - supervisor of the process: whatever ends it must be told to the daemon
        traceback.print_exc()  # an error of ours: the log should say where
        return _failed(spec, InternalError(f"the worker broke: {type(error).__name__}: {error}"), emit)
    return 0


async def _serve(spec: WorkerSpec, key: InheritedKey, memory: InheritedMemory, clock: Clock, emit: Emit) -> None:
    service = WorkerService(spec, lambda stop: _load(spec, key, memory, clock, emit, stop), clock=clock, emit=emit)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, service.stop, DEFAULT_GRACE_S)
    await service.run()


def _load(
    spec: WorkerSpec, key: InheritedKey, memory: InheritedMemory, clock: Clock, emit: Emit, stop: threading.Event
) -> LoadedModel | Servable:
    if spec.engine == "onnx":
        from thaloom.work.runtime.engines.onnx.loading import load_onnx  # an extra: only where it is asked for

        return load_onnx(spec, ModelStore(Path(spec.store), clock, emit, key=key))
    if spec.engine != "thaloom":
        from thaloom.work.runtime.engines.loading import load_foreign  # a quarter of all imports: our own needs none

        return load_foreign(spec, stop, clock)
    store = ModelStore(Path(spec.store), clock, emit, key=key)
    return load(spec, store, *_plugins(), stop, emit, memory)


@functools.cache
def _plugins() -> tuple[Registry[Driver], Registry[Architecture]]:
    drivers: Registry[Driver] = Registry("driver")
    architectures: Registry[Architecture] = Registry("architecture")
    drivers.discover()
    architectures.discover()
    return drivers, architectures


def _failed(spec: WorkerSpec, error: ThaloomError, emit: Emit) -> int:
    """Tell why, in the log and where the daemon looks; the exit code."""
    emit(WorkerFailed(worker=spec.worker, service=spec.service, code=error.code, message=error.message))
    with contextlib.suppress(OSError, ThaloomError):  # a full disk: the log has it, and the exit code
        text = json.dumps(error.to_dict()) + "\n"
        if spec.failure_path.exists():  # behind walls it is there already, empty, and no other file can be made
            spec.failure_path.write_text(text)
        else:
            write_atomic(spec.failure_path, text)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
