"""The thread that turns an engine: it steps while there is work and sleeps while there is none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from thaloom.base.errors import DeadlineExceeded, InternalError, ThaloomError
from thaloom.work.runtime.core.engine import Emission, Engine

REST_S = 10.0
"""Of nothing to do, after which memory that keeps nothing goes back to the system: longer than between two requests of
a busy hour."""


_LISTEN_S = 0.5


class EngineRunner:
    """`deliver` and `broken` are called on this thread; they must not block.

    `broken` is called at most once, when the engine is of no further use; the thread has ended then.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        deliver: Callable[[list[Emission]], None],
        broken: Callable[[ThaloomError], None],
        rung: Callable[[float], bool] | None = None,
    ) -> None:
        """`rung`: sleeps until somebody wants memory back, or so many seconds; whether somebody does."""
        self._engine = engine
        self._deliver = deliver
        self._broken = broken
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="thaloom-engine", daemon=True)
        self._listener: threading.Thread | None = None
        if rung is not None:
            self._listener = threading.Thread(target=self._listen, args=(rung,), name="thaloom-pages", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if self._listener is not None:
            self._listener.start()

    def wake(self) -> None:
        """There is work."""
        self._wake.set()

    def stop(self, timeout_s: float) -> bool:
        """Begin no other step; True when the one that is running has ended, False if it does not in time."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout_s)
        if self._listener is not None and self._listener.ident is not None:
            self._listener.join()  # at most _LISTEN_S
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping and self._engine.lost is None:
                self._turn()
        except Exception as error:  # noqa: BLE001 - supervisor: an engine that broke its own rules must not go on
            self._broken(InternalError(f"the engine broke: {type(error).__name__}: {error}"))
            return
        if self._engine.lost is not None:
            self._broken(self._engine.lost)

    def _listen(self, rung: Callable[[float], bool]) -> None:
        """Between two steps the engine looks for itself; one that has nothing to do is woken for it."""
        while not self._stopping and self._thread.is_alive():
            try:
                if rung(_LISTEN_S):
                    self._wake.set()
            except DeadlineExceeded:  # somebody who was stopped keeps everybody waiting: who sleeps here goes on
                time.sleep(_LISTEN_S)

    def _turn(self) -> None:
        self._wake.clear()  # before looking: whoever submits from here on sets it again
        news = self._engine.step()
        if news:
            self._deliver(news)
        if not self._engine.busy and self._engine.lost is None:
            self._engine.check()
            if not self._wake.wait(REST_S):
                self._engine.rest()
                self._wake.wait()
