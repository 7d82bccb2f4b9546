"""Follows the feed of availability for every stream of this process: one look at the database tells all of them."""

import asyncio
import time
from contextlib import suppress
from datetime import timedelta

from activities.store import outbox
from activities.store.store import Store
from apps.api.metrics import Metrics
from apps.api.outbox import Outbox
from apps.api.problems import Busy
from models.errors import NotReachable
from models.outbox import OutboxEvent, Topic
from workers.logging import get_logger

# What waits for a slow reader at most; then it has to come back and ask for the rest.
QUEUED = 5_000
# Events are written this long after the last stream has ended, so that who comes back misses nothing.
KEEP = timedelta(days=1)
KEEP_AGAIN_SECONDS = 600.0
# For transactions that began before anybody wanted to know.
SETTLE_SECONDS = 5.0
_PAGE = 1_000

_log = get_logger(__name__)


class Reader:
    """One stream's place: what waits for it, and whether it was too slow."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[OutboxEvent | None] = asyncio.Queue(QUEUED)
        self.too_slow = False

    def put(self, event: OutboxEvent | None) -> None:
        """Tell it of ``event``; of None, that it is to look whether it should end."""
        try:
            self.queue.put_nowait(event)
        except asyncio.QueueFull:
            # It ends, and its client comes back and asks for the rest.
            self.too_slow = True


class Streams:
    """Follows the feed for every stream of this process, as long as there is one."""

    def __init__(self, store: Store, working: Outbox, metrics: Metrics, *, most: int) -> None:
        self._store = store
        self._outbox = working
        self._metrics = metrics
        self._most = most
        self._readers: set[Reader] = set()
        # How far all readers have been told; None while there is none.
        self._position: int | None = None
        self._head = 0
        self._woken = asyncio.Event()
        self._joining = asyncio.Lock()
        self._keep_at = 0.0

    async def run(self) -> None:
        """Follow until cancelled."""
        self._outbox.followers.add(self._wake)
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), KEEP_AGAIN_SECONDS)
                self._woken.clear()
                try:
                    await self._follow()
                except NotReachable as unreachable:
                    _log.warning("streams_put_off", reason=unreachable.message)
                    await asyncio.sleep(1)
                    self._woken.set()
        finally:
            self._outbox.followers.discard(self._wake)

    async def join(self) -> tuple[Reader, int]:
        """A place among the readers, and the position behind which it is told everything.

        Raises ``Busy`` when there is none left, and ``NotReachable``.
        """
        if len(self._readers) >= self._most:
            raise Busy(f"{self._most} streams are open already: come back in a few seconds")
        reader = Reader()
        # Taken before the first wait, so that not more come in than there are places.
        self._readers.add(reader)
        try:
            async with self._joining:
                await self._have_events_written()
                if self._position is None:
                    async with self._store.transaction() as session:
                        self._position = await outbox.head(session)
                position = self._position
        except BaseException:
            self.leave(reader)
            raise
        self._metrics.streams.set(len(self._readers))
        return reader, position

    def leave(self, reader: Reader) -> None:
        """Give the place up."""
        self._readers.discard(reader)
        if not self._readers:
            self._position = None
        self._metrics.streams.set(len(self._readers))

    def _wake(self, head: int) -> None:
        if head > self._head:
            self._head = head
            self._woken.set()

    async def _follow(self) -> None:
        if self._readers and time.monotonic() >= self._keep_at:
            await self._keep()
        while (before := self._position) is not None and before < self._head:
            upto = self._head
            async with self._store.transaction() as session:
                events = await outbox.feed(session, [Topic.AVAILABILITY], before, upto=upto, most=_PAGE)
            if self._position != before:
                # Everybody left meanwhile; who came then begins further on.
                continue
            self._position = events[-1].position if len(events) == _PAGE else upto
            for reader in self._readers:
                for event in events:
                    reader.put(event)

    async def _have_events_written(self) -> None:
        if not await self._keep():
            return
        async with self._store.transaction() as session:
            began = await outbox.next_transaction(session)
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            async with self._store.transaction() as session:
                if await outbox.settled(session, began):
                    return
            await asyncio.sleep(0.02)
        _log.warning("streams_begin_unsettled", seconds=SETTLE_SECONDS)

    async def _keep(self) -> bool:
        async with self._store.transaction() as session:
            anew = await outbox.want(session, Topic.AVAILABILITY, KEEP)
        self._keep_at = time.monotonic() + KEEP_AGAIN_SECONDS
        return anew
