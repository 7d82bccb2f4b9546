"""The outbox at work in an API process: puts events into the feed, and has couriers and streams follow it.

Every API process does this. Whoever is first to look puts what is new into the feed; each subscriber is served by the
one process that holds its lease. PostgreSQL wakes us when something was written; if its word is lost, we look anyway.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import httpx

from activities.store import outbox, subscribers
from activities.store.listening import notifications
from activities.store.store import Store
from activities.store.subscribers import Lease
from apps.api.courier import Courier, Pace, Superseded
from apps.api.metrics import Metrics
from models.errors import NotReachable
from workers.logging import get_logger

BATCH = 1_000
# Without a word from PostgreSQL.
LOOK_SECONDS = 0.5
# Of transactions that run at once one wakes us; the others are waited for a little.
BUSY_LOOK_SECONDS = 0.05
BUSY_SECONDS = 1.0
# While there is much to do, what comes in the meantime is taken up together.
GATHER_SECONDS = 0.005
# A lease outlives by this what is sent at its end.
LEASE_MARGIN_SECONDS = 5.0
PAUSE_AFTER_TROUBLE_SECONDS = 1.0

_log = get_logger(__name__)


@dataclass
class _Served:
    lease: Lease
    courier: Courier
    client: httpx.AsyncClient
    task: "asyncio.Task[None]"


class Outbox:
    """Serves all subscribers of a database, as far as no other process does.

    ``followers`` are told the position of the last event whenever it has grown.
    """

    def __init__(self, url: str, metrics: Metrics, *, pace: Pace | None = None) -> None:
        self._url = url
        # Connections of its own: requests to the API and what is told to others do not wait for each other.
        self._store = Store.at(url, pool_size=2, max_overflow=6, found_full=metrics.database_full.inc)
        self._metrics = metrics
        self._pace = pace or Pace()
        self._owner = uuid.uuid4().hex
        self._lease_for = timedelta(seconds=self._pace.send_seconds + LEASE_MARGIN_SECONDS)
        self._leased_until: dict[str, float] = {}
        self._served: dict[str, _Served] = {}
        self._written = asyncio.Event()
        self._changed = asyncio.Event()
        self._head = 0
        self.followers: set[Callable[[int], None]] = set()

    async def run(self) -> None:
        """Work until cancelled; then let others take over."""
        parts = [
            asyncio.create_task(self._for_ever(work), name=f"outbox: {work.__name__.strip('_')}")
            for work in (self._listen, self._follow, self._serve)
        ]
        try:
            await asyncio.gather(*parts)
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await self._stop()

    async def _for_ever(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except NotReachable as unreachable:
                _log.warning("outbox_put_off", work=work.__name__, reason=unreachable.message)
            except Exception as fault:
                # An outbox that died quietly would be missed only when a neighbour is.
                _log.error("outbox_failed", work=work.__name__, error=type(fault).__name__)
            await asyncio.sleep(PAUSE_AFTER_TROUBLE_SECONDS)

    # --- Hearing ---
    async def _listen(self) -> None:
        async for heard in notifications(self._url, outbox.CHANNEL):
            self._written.set()
            if heard != "":
                self._changed.set()

    # --- The feed ---
    async def _follow(self) -> None:
        busy_until = 0.0
        while True:
            self._written.clear()
            moved = await self.sequence()
            now = time.monotonic()
            if moved:
                busy_until = now + BUSY_SECONDS
            if moved == BATCH:
                continue
            busy = now < busy_until
            with suppress(TimeoutError):
                await asyncio.wait_for(self._written.wait(), BUSY_LOOK_SECONDS if busy else LOOK_SECONDS)
            if busy:
                await asyncio.sleep(GATHER_SECONDS)

    async def sequence(self) -> int:
        """Put at most one batch of what is new into the feed, and tell who follows it; returns how many it was."""
        async with self._store.transaction() as session:
            moved = await outbox.sequence(session, BATCH)
            self._head = max(await outbox.head(session), self._head)
        for served in self._served.values():
            served.courier.wake(self._head)
        for follower in tuple(self.followers):
            follower(self._head)
        return moved

    # --- Subscribers ---
    async def _serve(self) -> None:
        renew_every = self._lease_for.total_seconds() / 4
        while True:
            self._changed.clear()
            await self._take_over()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), renew_every)

    async def _take_over(self) -> None:
        asked_at = time.monotonic()
        async with self._store.transaction() as session:
            leases = await subscribers.take_leases(session, self._owner, self._lease_for)
        async with self._store.transaction() as session:
            # Of one that was just being changed the lease was not renewed, and may go on for a while.
            still = await subscribers.still_leased(session, self._owner)
        for lease in leases:
            self._leased_until[lease.subscriber_id] = asked_at + self._lease_for.total_seconds()
        for subscriber_id, served in list(self._served.items()):
            if served.task.done() or (subscriber_id, served.lease.generation) not in still:
                await self._leave(subscriber_id)
        for lease in leases:
            if lease.subscriber_id not in self._served:
                self._begin(lease)

    def _begin(self, lease: Lease) -> None:
        # Redirects are not followed: where a subscriber is, is said by whoever registered it.
        client = httpx.AsyncClient(
            timeout=self._pace.send_seconds,
            limits=httpx.Limits(
                max_connections=self._pace.at_once,
                max_keepalive_connections=self._pace.at_once,
                keepalive_expiry=30.0,
            ),
        )
        courier = Courier(
            self._store,
            client,
            lease,
            pace=self._pace,
            metrics=self._metrics,
            leased_until=lambda: self._leased_until[lease.subscriber_id],
        )
        courier.wake(self._head)
        task = asyncio.create_task(self._bring(courier), name=f"courier of {lease.subscriber_id}")
        self._served[lease.subscriber_id] = _Served(lease, courier, client, task)

    async def _bring(self, courier: Courier) -> None:
        try:
            await courier.run()
        except Superseded:
            self._changed.set()
        except NotReachable as unreachable:
            _log.warning("outbox_put_off", work="courier", reason=unreachable.message)
        except Exception as fault:
            _log.error("outbox_failed", work="courier", error=type(fault).__name__)

    async def _leave(self, subscriber_id: str) -> None:
        served = self._served.pop(subscriber_id)
        served.task.cancel()
        await asyncio.gather(served.task, return_exceptions=True)
        await served.client.aclose()

    async def _stop(self) -> None:
        await asyncio.gather(*(self._leave(subscriber_id) for subscriber_id in list(self._served)))
        with suppress(NotReachable):
            async with self._store.transaction() as session:
                await subscribers.give_up_leases(session, self._owner)
        await self._store.close()
