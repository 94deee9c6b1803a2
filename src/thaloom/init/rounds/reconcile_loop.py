"""The rounds of the reconciler: look, decide, do one thing, look again, until there is nothing to do; then tell the
door, and sleep until something happens.

One action at a time and a fresh look before the next is how a plan is re-checked against the present: what came true
in between changes the next decision, never the middle of an action.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from thaloom.base.clock import Clock, first_of
from thaloom.base.errors import NodeNotRunning, ThaloomError
from thaloom.base.events import Emit
from thaloom.base.ids import ServiceName
from thaloom.init.boot import NodeConfig
from thaloom.init.events import ActionFailed, NodeStopping, ProcessLost, RoundFailed, ServiceFailing, ServiceHeld
from thaloom.init.memory.idling import Idling
from thaloom.init.memory.node_memory import NodeMemory
from thaloom.init.memory.placement import Placement, Planner
from thaloom.init.memory.segments import Segments
from thaloom.init.rounds.actions import Action, Hold, StartDoor, StartWorker, subject
from thaloom.init.rounds.backoff import Backoff
from thaloom.init.rounds.executor import Executor
from thaloom.init.rounds.last_words import LastWords, words_of
from thaloom.init.rounds.passes import Passes
from thaloom.init.rounds.publishing import Publisher
from thaloom.init.rounds.reconcile import Snapshot, Wish, decide, next_look_at
from thaloom.init.rounds.records import Records
from thaloom.init.rounds.reporter import Reporter
from thaloom.init.rounds.supervisor import Supervised, Supervisor
from thaloom.kernel.state.store import StateStore
from thaloom.kernel.state.types import Service

_MOST_ACTIONS = 1000
"""In one round; more means that doing something does not make it so."""
_AFTER_ERROR_S = 1.0


class ReconcileLoop:
    """The loop. What it remembers is in Records; everything else it looks up."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        store: StateStore,
        planner: Planner,
        memory: NodeMemory,
        supervisor: Supervisor,
        executor: Executor,
        records: Records,
        reporter: Reporter,
        publisher: Publisher,
        idling: Idling,
        segments: Segments,
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._config = config
        self._store = store
        self._planner = planner
        self._memory = memory
        self._supervisor = supervisor
        self._executor = executor
        self._records = records
        self._reporter = reporter
        self._publisher = publisher
        self._idling = idling
        idling.tell_doors = self.tell_doors
        self._segments = segments
        self._clock = clock
        self._emit = emit
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._seen: Snapshot | None = None
        self._wishes: dict[ServiceName, tuple[tuple[Service, Placement | Hold, Backoff], Wish]] = {}
        """Each with what it was made of."""
        self.passes = Passes()
        self.going_down = False
        self.on_going_down: Callable[[], None] = lambda: None
        """Who else has something to end."""
        self.on_published: Callable[[], None] = lambda: None
        """Who else has something to tell the door, at the end of each round."""
        self.on_memory_error: Callable[[], None] = lambda: None
        """Who has memory to give back."""
        self.failures = 0
        """Rounds, and words to the doors, that ended in an error of ours."""

    def require_up(self) -> None:
        """Raises NodeNotRunning where the node is about to end."""
        if self.going_down:
            raise NodeNotRunning("the node is going down")

    def go_down(self, reason: str) -> None:
        """Begin the orderly end; a second time changes nothing. Wishes stay: the next start serves them again."""
        if not self.going_down:
            self._emit(NodeStopping(reason=reason))
            self.going_down = True
            self.wake()
            self.on_going_down()

    def wake(self) -> None:
        """Something changed: look again soon."""
        self._news.set()

    def use(self, config: NodeConfig) -> None:
        """Heed other settings from the next round on."""
        self._config = config
        self.wake()

    async def hold_still(self) -> None:
        """Return when no action is under way; none begins any more."""
        await self._turn.acquire()

    async def run(self) -> None:
        """Rounds, until the node is going down and no process is left."""
        while not await self.settle():
            await self._sleep()

    async def settle(self) -> bool:
        """One whole round now; whether the node is down.

        An error of ours in a round is told and counted, and the next round begins from what is there.
        """
        async with self._turn:
            begun, cpu = self._clock.monotonic(), time.thread_time()
            try:
                down = await self._round()
                self.passes.took(self._clock.monotonic() - begun, time.thread_time() - cpu)
                return down
            except Exception as error:  # noqa: BLE001 - a supervisor: logged, counted, tried again
                self._count_failure(error)
                return False

    def _count_failure(self, error: Exception) -> None:
        self.failures += 1
        if isinstance(error, MemoryError):
            self.on_memory_error()
        self._emit(RoundFailed(failures=self.failures, message=f"{type(error).__name__}: {error}"))
        self._retry_soon()

    def renewed(self, service: ServiceName) -> None:
        """The wish changed, or somebody insists."""
        self._records.renew(service)
        self._planner.forget(service)

    def removed(self, service: ServiceName) -> None:
        """Nobody wishes for it any more."""
        self._records.remove(service)
        self._planner.forget(service)
        self._reporter.forget(service)
        self._wishes.pop(service, None)

    def process_lost(self, process: Supervised, last_words: LastWords) -> None:
        """A process ended and nobody had asked."""
        lease, now = process.lease, self._clock.monotonic()
        backoff = self._records.lost(lease.service, last_words, now=now, ready_since=process.ready_since)
        retry_in_s = None if math.isinf(backoff.next_try_at) else round(backoff.next_try_at - now, 3)
        self._emit(
            ProcessLost(
                role=lease.role,
                id=lease.id,
                pid=lease.pid,
                service=lease.service,
                failures=backoff.failures,
                retry_in_s=retry_in_s,
                reason=last_words.reason,
                last_words=last_words.message,
            )
        )
        if backoff.failed and lease.service is not None:
            self._emit(ServiceFailing(service=lease.service, failures=backoff.failures, message=last_words.message))

    async def look(self) -> Snapshot:
        """The present, frozen."""
        self._segments.look(self._supervisor)
        for process in self._supervisor:
            self._memory.measured(process)
        self._memory.measured_sharing()
        self._memory.settle(self._supervisor)
        return Snapshot(
            now=self._clock.monotonic(),
            going_down=self.going_down,
            grace_s=self._config.stop_grace_s,
            door_address=self._config.address,
            door_next_try_at=self._records.backoff(None).next_try_at,
            wishes=tuple([await self._wish(service) for service in self._store.services()]),
            processes=self._supervisor.observe(),
            free_bytes=self._memory.free_bytes(self._supervisor),
            loaded=self._idling.loaded(),
            leaving_bytes=self._idling.leaving_bytes(),
        )

    async def _wish(self, service: Service) -> Wish:
        """The very one of the last look where nothing it is made of has changed."""
        plan = await self._planner.plan(service)
        name = service.spec.name
        made_of = (service, plan, self._records.backoff(name))
        known = self._wishes.get(name)
        if known is not None and known[0] == made_of:  # mostly the very same, which is seen at once
            return known[1]
        wish = self._made_wish(service, plan)
        self._wishes[name] = (made_of, wish)
        return wish

    def _made_wish(self, service: Service, plan: Placement | Hold) -> Wish:
        return Wish(
            service=service.spec.name,
            revision=service.revision,
            device=plan.device if isinstance(plan, Placement) else None,
            needed_bytes=plan.estimate.total_bytes if isinstance(plan, Placement) else 0,
            next_try_at=self._records.backoff(service.spec.name).next_try_at,
            replicas=service.spec.replicas,
            obstacle=plan if isinstance(plan, Hold) else None,
            idle=service.idle_since is not None,
        )

    async def _round(self) -> bool:
        self._news.clear()
        for _ in range(_MOST_ACTIONS):
            self._seen = snapshot = await self.look()
            actions = decide(snapshot)
            holds = [action for action in actions if isinstance(action, Hold)]
            for hold in self._records.keep_holds(holds):
                self._emit(ServiceHeld(service=hold.service, reason=hold.reason, message=hold.message))
            self._idling.settle_waking(holds)
            todo = next((action for action in actions if not isinstance(action, Hold)), None)
            if todo is None or not await self._perform(todo):
                break
        else:
            raise RuntimeError(f"{_MOST_ACTIONS} actions and no end; the last one: {todo!r}")
        self.tell_doors()
        self.on_published()
        return self.going_down and not snapshot.processes

    def tell_of_ready(self) -> None:
        """Who is told that a service is ready finds it so: the doors hear of it at once, not at the end of the round
        that follows, which tells them what cannot be published now. Not before the first look: it is not known then
        who else serves."""
        if self._seen is None:
            return
        try:
            self.tell_doors()
        except Exception as error:  # noqa: BLE001 - as in a round: whoever looked after that worker goes on
            self._count_failure(error)

    def tell_doors(self) -> None:
        """Publish the routes as they are now."""
        self._publisher.publish(self._reporter.routes(), tuple(self._store.aliases()))

    async def _perform(self, action: Action) -> bool:
        """Whether to go on with this round: what failed is tried again later."""
        try:
            await self._executor.perform(action)
        except (ThaloomError, OSError) as error:
            words = words_of(error)
            self._emit(ActionFailed(action=type(action).__name__, subject=subject(action), message=words.message))
            if not isinstance(action, StartWorker | StartDoor):
                self._retry_soon()
                return False
            owner = action.service if isinstance(action, StartWorker) else None
            self._records.failed(owner, words, now=self._clock.monotonic())
        return True

    async def _sleep(self) -> None:
        """Until there is news, a back-off ends, or the slow tick comes."""
        moment = None if self._seen is None else next_look_at(self._seen)
        wait_s = self._config.tick_s
        if moment is not None:
            wait_s = min(wait_s, max(0.0, moment - self._clock.monotonic()))
        await first_of(self._news.wait(), self._clock.sleep(wait_s))

    def _retry_soon(self) -> None:
        asyncio.get_running_loop().call_later(_AFTER_ERROR_S, self.wake)
