"""Brings one subscriber its events: of each key in order, at least once, whatever happens to it, to us or in between.

All that is known lives in one loop; sending is done beside it and only reports back. Written down are a position, up to
which everything was taken, and the keys that failed, with the event at which each waits (``outbox_held``). Whoever
starts from that sends again at most what was under way.
"""

import asyncio
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx

from activities.store import outbox, subscribers
from activities.store.store import Store
from activities.store.subscribers import Held, Lease, Progress
from apps.api.metrics import Metrics
from models.outbox import OutboxEnvelope, OutboxEvent
from models.webhooks import SIGNATURE_HEADER, TIMESTAMP_HEADER, sign
from workers.logging import get_logger

# Events that are read ahead and not taken yet; of one key, at most so many and so much go in one request.
WINDOW = 1_000
BATCH = 100
BATCH_BYTES = 256 * 1024
# The position is written down this often while events are taken, and at once when nothing is under way.
NOTE_SECONDS = 0.2
# So many keys in a row without an answer mean that nobody is there; then one is tried at a time.
NOBODY_AFTER = 5
LONGEST_PROBE_SECONDS = 30.0
# For what is under way when we are to stop.
LAST_SECONDS = 3.0
_READ_OF_ANSWER = 64 * 1024

_log = get_logger(__name__)


@dataclass(frozen=True)
class Pace:
    """How fast, and how often again. ``attempts`` tries of one event; the n-th waits ``first_wait`` times 2^(n-1)."""

    send_seconds: float = 10.0
    at_once: int = 8
    attempts: int = 20
    first_wait: float = 1.0
    longest_wait: float = 600.0

    def wait(self, attempts: int) -> float:
        """Seconds until the next try after so many; spread, so that many keys do not come back in one moment."""
        longest = min(self.first_wait * 2.0 ** min(attempts - 1, 30), self.longest_wait)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads, and keeps no secret


class Superseded(Exception):
    """Somebody changed the subscriber, or another dispatcher has it: what this one knows does not count any more."""


@dataclass(frozen=True)
class _Failure:
    """``nobody``: it did not answer, or has no time now; else it said no. ``wait``: what it asked us to wait."""

    text: str
    nobody: bool
    wait: float = 0.0


@dataclass(frozen=True)
class _Sent:
    """What became of one request. ``upto``: how far a held key was looked through."""

    key: str
    events: tuple[OutboxEvent, ...]
    failure: _Failure | None
    upto: int | None = None
    more: bool = False


@dataclass
class _Waiting:
    """A held key. ``seen``: the last event of it that was passed over in the feed."""

    held: Held
    seen: int = 0


@dataclass
class _Changes:
    held: dict[str, Held] = field(default_factory=dict)
    freed: set[str] = field(default_factory=set)


class Courier:
    """Serves the subscriber of ``lease`` until cancelled, or until ``Superseded`` is raised.

    ``leased_until`` is the time (``time.monotonic``) at which the lease may have run out: nothing is sent that might
    still be under way then.
    """

    def __init__(
        self,
        store: Store,
        client: httpx.AsyncClient,
        lease: Lease,
        *,
        pace: Pace,
        metrics: Metrics,
        leased_until: Callable[[], float],
    ) -> None:
        self._store = store
        self._client = client
        self._lease = lease
        self._pace = pace
        self._metrics = metrics
        self._leased_until = leased_until
        self._woken = asyncio.Event()
        self._head = 0
        self._read = lease.position
        self._noted = lease.position
        self._note_at = 0.0
        # Events that were read, by key; and the positions of those that were not taken, in order.
        self._queues: OrderedDict[str, deque[OutboxEvent]] = OrderedDict()
        self._open: dict[int, None] = {}
        self._held: dict[str, _Waiting] = {}
        self._sending: dict[asyncio.Task[_Sent], str] = {}
        # Keys in a row that nobody answered for, and when to try once more.
        self._unanswered: set[str] = set()
        self._probes = 0
        self._probe_at = 0.0
        self._last_success: datetime | None = None
        self._failing_since: datetime | None = None
        self._last_failure: str | None = None
        self._told_failure: tuple[datetime | None, str | None] = (None, None)

    def wake(self, head: int) -> None:
        """There are events up to position ``head``."""
        if head > self._head:
            self._head = head
            self._woken.set()

    async def run(self) -> None:
        """Serve. Raises ``Superseded``, and ``NotReachable`` when the database does not answer."""
        async with self._store.transaction() as session:
            held = await subscribers.held_keys(session, self._lease.subscriber_id)
            self._head = max(self._head, await outbox.head(session))
        self._held = {one.key: _Waiting(one) for one in held}
        try:
            while True:
                self._woken.clear()
                await self._take_up()
                await self._read_on()
                self._send()
                await self._note()
                await self._wait()
        except asyncio.CancelledError:
            await self._finish()
            raise
        finally:
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    # --- Reading ---
    async def _read_on(self) -> None:
        room = WINDOW - len(self._open)
        upto = self._head
        if upto <= self._read or room <= 0:
            return
        async with self._store.transaction() as session:
            events = await outbox.feed(session, self._lease.topics, self._read, upto=upto, most=room)
        for event in events:
            if event.key in self._held:
                self._held[event.key].seen = event.position
            else:
                self._queues.setdefault(event.key, deque()).append(event)
                self._open[event.position] = None
        # All that lies in between is about something else.
        self._read = events[-1].position if len(events) == room else upto

    # --- Sending ---
    def _send(self) -> None:
        while len(self._sending) < self._pace.at_once:
            if self._leased_until() - time.monotonic() <= self._pace.send_seconds:
                return
            key = self._next()
            if key is None:
                return
            work = self._send_held(key) if key in self._held else self._send_queued(key)
            self._sending[asyncio.create_task(work, name=f"send to {self._lease.subscriber_id}")] = key

    def _next(self) -> str | None:
        busy = set(self._sending.values())
        if self._nobody_there:
            if busy or time.monotonic() < self._probe_at:
                return None
            waiting = sorted(
                (one.held.position, key) for key, one in self._held.items() if not one.held.dead_at
            )
            return next(iter(self._queues), None) or next((key for _, key in waiting), None)
        now = datetime.now(UTC)
        due = [key for key, one in self._held.items() if _due(one.held, now) and key not in busy]
        # Keys that fail may take long about it: they never have all the room.
        if due and sum(key in self._held for key in busy) < max(self._pace.at_once // 2, 1):
            return min(due, key=lambda key: self._held[key].held.try_at)
        return next((key for key in self._queues if key not in busy), None)

    @property
    def _nobody_there(self) -> bool:
        return len(self._unanswered) >= NOBODY_AFTER

    async def _send_queued(self, key: str) -> _Sent:
        events = tuple(_at_most(list(self._queues[key])[:BATCH]))
        return _Sent(key, events, await self._post(key, events))

    async def _send_held(self, key: str) -> _Sent:
        held, upto = self._held[key].held, self._read
        # After a failure one event alone, so that it is known which one it is.
        most = 1 if held.attempts else BATCH
        async with self._store.transaction() as session:
            found = await outbox.feed_of_key(
                session, key, self._lease.topics, start=held.position, upto=upto, most=most + 1
            )
        events = tuple(_at_most(found[:most]))
        failure = await self._post(key, events) if events else None
        return _Sent(key, events, failure, upto, more=len(found) > len(events))

    async def _post(self, key: str, events: tuple[OutboxEvent, ...]) -> _Failure | None:
        envelope = OutboxEnvelope(subscriber_id=self._lease.subscriber_id, key=key, events=events)
        body = envelope.model_dump_json().encode()
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            TIMESTAMP_HEADER: str(timestamp),
            SIGNATURE_HEADER: sign(self._lease.secret, timestamp, body),
        }
        try:
            async with (
                asyncio.timeout(self._pace.send_seconds),
                self._client.stream("POST", self._lease.url, content=body, headers=headers) as response,
            ):
                read = 0
                async for chunk in response.aiter_raw():
                    read += len(chunk)
                    if read > _READ_OF_ANSWER:
                        break
        except TimeoutError:
            return _Failure(f"no answer within {self._pace.send_seconds:g} s", nobody=True)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            return _Failure(f"no answer: {type(error).__name__}", nobody=True)
        if response.is_success:
            return None
        status = response.status_code
        return _Failure(
            f"HTTP {status}",
            nobody=status in _NOBODY,
            wait=_asked_to_wait(response.headers.get("retry-after")),
        )

    # --- What became of it ---
    async def _take_up(self) -> None:
        """Take in what was sent, and write down at once what failed: only then may the position pass it."""
        done = [task for task in self._sending if task.done()]
        if not done:
            return
        changes = _Changes()
        taken: list[_Sent] = []
        for task in done:
            del self._sending[task]
            sent = task.result()
            if sent.failure is None:
                self._succeeded(sent, changes)
                taken.append(sent)
            else:
                self._failed(sent, sent.failure, changes)
        if changes.held or changes.freed:
            await self._write(changes)
        for sent in taken:
            for event in sent.events:
                age = (datetime.now(UTC) - event.at).total_seconds()
                self._metrics.outbox_seconds.observe(max(age, 0.0))

    def _succeeded(self, sent: _Sent, changes: _Changes) -> None:
        now = datetime.now(UTC)
        self._last_success, self._failing_since, self._last_failure = now, None, None
        if self._nobody_there:
            for waiting in self._held.values():
                if waiting.held.dead_at is None:
                    # Spread a little, and not as long as it would have been.
                    soon = now + timedelta(seconds=random.uniform(0, 2))  # noqa: S311
                    waiting.held = waiting.held.model_copy(update={"try_at": min(waiting.held.try_at, soon)})
        self._unanswered.clear()
        self._probes = 0
        if sent.events:
            self._metrics.outbox_sent.labels(self._lease.subscriber_id, "taken").inc(len(sent.events))
        if sent.key not in self._held:
            self._forget_queued(sent.key, sent.events)
            return
        waiting = self._held[sent.key]
        upto = sent.upto or 0
        if sent.more or waiting.seen > upto:
            position = sent.events[-1].position + 1 if sent.events else waiting.held.position
            waiting.held = waiting.held.model_copy(
                update={"position": position, "attempts": 0, "try_at": now}
            )
            changes.held[sent.key] = waiting.held
        else:
            del self._held[sent.key]
            changes.freed.add(sent.key)

    def _failed(self, sent: _Sent, failure: _Failure, changes: _Changes) -> None:
        now = datetime.now(UTC)
        self._failing_since = self._failing_since or now
        self._last_failure = failure.text
        self._metrics.outbox_sent.labels(self._lease.subscriber_id, "failed").inc(len(sent.events))
        if failure.nobody:
            self._unanswered.add(sent.key)
        else:
            self._unanswered.clear()
        if self._nobody_there:
            self._probes += 1
            wait = min(self._pace.wait(self._probes), LONGEST_PROBE_SECONDS)
            self._probe_at = time.monotonic() + max(wait, min(failure.wait, LONGEST_PROBE_SECONDS))
            if self._probes == 1:
                _log.warning(
                    "subscriber_does_not_answer", subscriber=self._lease.subscriber_id, failure=failure.text
                )
            # It is nobody's key's fault; what was held before keeps its time.
            if sent.key not in self._held:
                return
        before = self._held[sent.key].held if sent.key in self._held else None
        attempts = (before.attempts if before else 0) + 1
        wait = max(self._pace.wait(attempts), min(failure.wait, self._pace.longest_wait))
        failed_at = before.failed_at if before and before.attempts else now
        held = Held(
            key=sent.key,
            position=sent.events[0].position,
            attempts=attempts,
            try_at=now + timedelta(seconds=wait),
            failed_at=failed_at,
            failure=failure.text,
            dead_at=now if self._is_dead(attempts, failure, failed_at) else None,
        )
        if held.dead_at:
            _log.error(
                "outbox_dead_letter",
                subscriber=self._lease.subscriber_id,
                position=held.position,
                event_id=sent.events[0].event_id,
                failure=held.failure,
                attempts=attempts,
            )
        changes.held[sent.key] = held

    def _is_dead(self, attempts: int, failure: _Failure, failed_at: datetime) -> bool:
        """Tried often enough. While nobody answers for any key, an event may well be taken when somebody does."""
        if attempts < self._pace.attempts:
            return False
        return not failure.nobody or (self._last_success is not None and self._last_success > failed_at)

    def _forget_queued(self, key: str, events: Iterable[OutboxEvent]) -> None:
        queue = self._queues[key]
        for event in events:
            del self._open[event.position]
            queue.popleft()
        if queue:
            # The others first: one busy key must not be served before all of them.
            self._queues.move_to_end(key)
        else:
            del self._queues[key]

    # --- Writing down ---
    @property
    def _position(self) -> int:
        return next(iter(self._open)) - 1 if self._open else self._read

    async def _write(self, changes: _Changes) -> None:
        """Write changes down, and then act on them: a key that is held takes what is queued of it along."""
        await self._write_down(tuple(changes.held.values()), tuple(changes.freed))
        for key, held in changes.held.items():
            waiting = self._held.setdefault(key, _Waiting(held))
            waiting.held = held
            queued = self._queues.pop(key, ())
            for event in queued:
                del self._open[event.position]
                waiting.seen = event.position

    async def _note(self) -> None:
        told = (self._failing_since, self._last_failure)
        if self._position == self._noted and told == self._told_failure:
            return
        if time.monotonic() >= self._note_at or not (self._sending or self._queues):
            await self._write_down((), ())

    async def _write_down(self, held: tuple[Held, ...], freed: tuple[str, ...]) -> None:
        position = self._position
        told = (self._failing_since, self._last_failure)
        progress = Progress(
            position=position, held=held, freed=freed, failing_since=told[0], last_failure=told[1]
        )
        async with self._store.transaction() as session:
            mine = await subscribers.write_progress(session, self._lease, progress)
        if not mine:
            raise Superseded
        self._noted, self._told_failure = position, told
        self._note_at = time.monotonic() + NOTE_SECONDS

    # --- Waiting ---
    async def _wait(self) -> None:
        if any(task.done() for task in self._sending):
            return
        woken = asyncio.create_task(self._woken.wait())
        try:
            await asyncio.wait(
                {woken, *self._sending}, timeout=self._pause(), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            woken.cancel()

    def _pause(self) -> float:
        """Seconds until something is due by itself; what is being sent wakes us when it is done."""
        if self._read < self._head and len(self._open) < WINDOW:
            return 0.0
        due = [1.0]
        if self._position != self._noted:
            due.append(self._note_at - time.monotonic())
        if self._nobody_there:
            if not self._sending:
                due.append(self._probe_at - time.monotonic())
        elif len(self._sending) < max(self._pace.at_once // 2, 1):
            now, busy = datetime.now(UTC), set(self._sending.values())
            due += [
                (one.held.try_at - now).total_seconds()
                for key, one in self._held.items()
                if one.held.dead_at is None and key not in busy
            ]
        return max(min(due), 0.02)

    async def _finish(self) -> None:
        """Wait a little for what is under way, so that it need not be sent again."""
        try:
            if self._sending:
                await asyncio.wait(self._sending, timeout=LAST_SECONDS)
            await self._take_up()
            await self._note_last()
        except Exception as fault:
            _log.warning("outbox_progress_not_noted", error=type(fault).__name__)

    async def _note_last(self) -> None:
        if self._position != self._noted:
            await self._write_down((), ())


# It did not get it, or has no time for it; nothing is said about the event.
_NOBODY = frozenset({408, 425, 429, 502, 503, 504})


def _due(held: Held, now: datetime) -> bool:
    return held.dead_at is None and held.try_at <= now


def _at_most(events: list[OutboxEvent]) -> Iterable[OutboxEvent]:
    """As many of them as fit into a request; the first in any case."""
    size = 0
    for number, event in enumerate(events):
        size += len(event.model_dump_json())
        if number and size > BATCH_BYTES:
            return
        yield event


def _asked_to_wait(header: str | None) -> float:
    return float(header) if header and header.isdigit() and len(header) <= 6 else 0.0
