"""``GET /v1/availability/stream``: availability as it changes, over a connection that stays open."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from activities.store import outbox
from activities.store.store import Store
from apps.api import examples
from apps.api.gate import ASKED
from apps.api.limits import STOPPING
from apps.api.parts import PartsOf
from apps.api.problems import answers
from apps.api.queries import only_known_parameters
from apps.api.streams import Reader
from models.identifiers import NodeId, Sku
from models.outbox import OutboxEvent, Topic

# Proxies close what is silent, mostly after a minute.
HEARTBEAT_SECONDS = 15.0
# A client that was cut off comes back after so long.
RETRY_MILLISECONDS = 2000
_PAGE = 1_000

router = APIRouter(
    prefix="/v1/availability", tags=["availability"], dependencies=[Depends(only_known_parameters)]
)


LastEventId = Annotated[
    str,
    Header(
        pattern=r"^[0-9]{1,18}$",
        description="The last `id` that was read: goes on behind it, if it still can",
    ),
]


@router.get(
    "/stream",
    summary="Follow availability",
    response_class=StreamingResponse,
    responses=answers(401, 422, 503)
    | {200: {"content": {"text/event-stream": {"example": examples.STREAM}}}},
)
async def stream_availability(
    *,
    request: Request,
    parts: PartsOf,
    sku: Annotated[Sku | None, Query(description="Only of this SKU, what is available now first")] = None,
    node: Annotated[NodeId | None, Query(description="Only at this node")] = None,
    seconds: Annotated[
        int | None,
        Query(ge=0, le=86_400, description="How long to follow; else until one of us ends it"),
    ] = None,
    last_event_id: LastEventId = None,  # type: ignore[assignment] # may be left out, but is no null when it is there
) -> StreamingResponse:
    """Server-sent events (`text/event-stream`): a `start`, then an `availability` for each change that is committed.

    Of a `sku` comes first what is available at each node now, unless the stream goes on where another was cut off
    (`resumed` in `start`). Each event is the whole state of one row, and one may come twice: the last one counts.
    Where `resumed` is false, nothing is told of what changed before: look it up.
    """
    state = request.scope["state"]
    reader, position = await parts.streams.join()
    try:
        since = int(last_event_id) if last_event_id else None
        async with parts.store.transaction() as session:
            goes_on = since is not None and await outbox.goes_on(session, Topic.AVAILABILITY, since, position)
        stream = _Stream(
            parts.store,
            reader,
            sku=sku,
            node=node,
            since=since if goes_on else None,
            position=position,
            stopping=state.get(STOPPING) or asyncio.Event(),
            seconds=0 if state.get(ASKED) == "HEAD" else seconds,
        )
    except BaseException:
        parts.streams.leave(reader)
        raise
    return _Answer(stream, lambda: parts.streams.leave(reader))


class _Answer(StreamingResponse):
    """Gives its place up when it ends, also where nobody was left to read the first line."""

    def __init__(self, stream: "_Stream", leave: Callable[[], None]) -> None:
        # A proxy that collects an answer before it hands it on would hand on nothing.
        super().__init__(stream.text(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._leave()


class _Stream:
    """One stream: what it tells from the tables, and then what its reader is told."""

    def __init__(
        self,
        store: Store,
        reader: Reader,
        *,
        sku: str | None,
        node: str | None,
        since: int | None,
        position: int,
        stopping: asyncio.Event,
        seconds: int | None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._sku = sku
        self._node = node
        self._since = since
        self._position = position
        self._stopping = stopping
        self._ends_at = math.inf if seconds is None else time.monotonic() + seconds

    async def text(self) -> AsyncIterator[str]:
        """All of it, line by line."""
        yield f"retry: {RETRY_MILLISECONDS}\n\n"
        first = self._what_is() if self._since is None else self._what_was_missed(self._since)
        async for part in first:
            yield part
        async for part in self._what_comes():
            yield part

    async def _what_is(self) -> AsyncIterator[str]:
        yield _written("start", self._position, {"position": self._position, "resumed": False})
        if self._sku is None:
            return
        async with self._store.transaction() as session:
            levels = await outbox.availability(session, self._sku, self._node)
        now = datetime.now(UTC).isoformat()
        for level in levels:
            yield _written("availability", self._position, level | {"position": self._position, "at": now})

    async def _what_was_missed(self, since: int) -> AsyncIterator[str]:
        yield _written("start", since, {"position": since, "resumed": True})
        while since < self._position:
            async with self._store.transaction() as session:
                events = await outbox.feed(
                    session, [Topic.AVAILABILITY], since, upto=self._position, most=_PAGE
                )
            for event in events:
                if self._includes(event):
                    yield _told(event)
            since = events[-1].position if len(events) == _PAGE else self._position

    async def _what_comes(self) -> AsyncIterator[str]:
        ending = asyncio.create_task(self._end_with_the_server())
        try:
            while not (self._stopping.is_set() or self._reader.too_slow):
                wait = min(self._ends_at - time.monotonic(), HEARTBEAT_SECONDS)
                if wait <= 0:
                    return
                try:
                    event = await asyncio.wait_for(self._reader.queue.get(), wait)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                # What came before the reader knew its position has been told already, or is part of what is.
                if event is not None and event.position > self._position and self._includes(event):
                    yield _told(event)
        finally:
            ending.cancel()

    async def _end_with_the_server(self) -> None:
        await self._stopping.wait()
        self._reader.put(None)

    def _includes(self, event: OutboxEvent) -> bool:
        return self._sku in (None, event.data["sku"]) and self._node in (None, event.data["node"])


def _told(event: OutboxEvent) -> str:
    said = event.data | {"position": event.position, "at": event.at.isoformat()}
    return _written("availability", event.position, said)


def _written(kind: str, position: int, said: dict[str, Any]) -> str:
    return f"id: {position}\nevent: {kind}\ndata: {json.dumps(said)}\n\n"
