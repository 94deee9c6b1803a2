"""An idle service is asked for: it is started again, or it is said why not."""

from __future__ import annotations

from thaloom.base.clock import Clock
from thaloom.base.events import Emit
from thaloom.base.ids import ServiceName
from thaloom.init.acting.guards import ServiceGuard
from thaloom.init.events import ServiceWoken
from thaloom.init.rounds.reconcile_loop import ReconcileLoop
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import check_keep_alive


class Waking:
    """No wish is changed here: what comes of it is in the journal, as StartWorker and Unload."""

    def __init__(
        self, store: StateStore, loop: ReconcileLoop, *, guard: ServiceGuard, clock: Clock, emit: Emit
    ) -> None:
        self._store = store
        self._loop = loop
        self._guard = guard
        self._clock = clock
        self._emit = emit

    async def wake(self, name: ServiceName, reason: str) -> None:
        """Begin to start it, if it is idle; who else asks in the same moment changes nothing. Raises ServiceNotFound,
        and whatever forbids the service as things are: then it stays idle."""
        self._loop.require_up()
        if self._store.service(name).idle_since is None:
            return
        await self._guard.check(self._store.service(name).spec)
        since = self._store.service(name).idle_since
        if since is None:  # somebody else was faster
            return
        self._store.put_rest(name, idle_since=None, waking=True)
        self._emit(ServiceWoken(service=name, reason=reason, idle_s=round(max(0.0, self._clock.now() - since), 3)))
        self._loop.renewed(name)
        self._loop.tell_doors()
        self._loop.wake()

    async def keep(self, name: ServiceName, keep_alive_s: float) -> None:
        """Have it stay for so long after each request, until somebody says otherwise or it is unloaded; 0: no longer
        than it is asked. Of a service that is idle there is nothing to keep. Raises ServiceNotFound, BadParameter."""
        check_keep_alive(keep_alive_s)
        service = self._store.service(name)
        if service.idle_since is None and service.asked_keep_alive_s != keep_alive_s:
            self._store.put_rest(name, idle_since=None, waking=service.waking, asked_keep_alive_s=keep_alive_s)
            self._loop.tell_doors()
            self._loop.wake()
