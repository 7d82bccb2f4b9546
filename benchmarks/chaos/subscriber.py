"""A neighbour who is told of everything, behaves badly, and writes down what it heard.

It does what docs/integrate.md asks of one: it checks the signature, remembers the ids of events, and applies each once.
Some requests it turns away, and some it takes and then fails to say so: the events of both must come again.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple

import uvicorn
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from activities.store import subscribers
from activities.store.store import Store
from apps.simulators.chance import fraction
from models.errors import OrderwrightError
from models.outbox import OutboxEnvelope, OutboxEvent, Topic
from models.webhooks import SIGNATURE_HEADER, TIMESTAMP_HEADER, verify
from workers.embedded.ports import LOOPBACK, any_port

SUBSCRIBER = "chaos"
SECRET = "kept by the harness and its subscriber"
_TURNED_AWAY = 0.04
_TAKEN_SILENTLY = 0.04
_STARTS_WITHIN = 30.0


class Heard(NamedTuple):
    """What a subscriber was told: events in the order in which it applied them, and what was wrong with the telling."""

    applied: Mapping[str, OutboxEvent]
    repeated: int = 0
    wrong: tuple[tuple[str, str], ...] = ()


@dataclass
class Subscriber:
    """The receiving end. ``seed`` says which requests go wrong."""

    seed: int
    _applied: dict[str, OutboxEvent] = field(default_factory=dict)
    _furthest: dict[str, int] = field(default_factory=dict)
    _tries: Counter[str] = field(default_factory=Counter)
    _repeated: int = 0
    _wrong: list[tuple[str, str]] = field(default_factory=list)

    def heard(self) -> Heard:
        """Everything so far."""
        return Heard(dict(self._applied), self._repeated, tuple(self._wrong))

    async def register(self, store: Store, url: str) -> None:
        """Subscribe to everything from now on."""
        async with store.transaction() as session:
            await subscribers.add(
                session,
                subscriber_id=SUBSCRIBER,
                name="the harness",
                url=url,
                topics=list(Topic),
                secret=SECRET,
            )

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Serve while inside; gives the URL to be told at. Raises ``OrderwrightError`` if that cannot be done."""
        port = any_port()
        app = Starlette(routes=[Route("/events", self.take, methods=["POST"])])
        server = uvicorn.Server(
            uvicorn.Config(app, host=LOOPBACK, port=port, log_level="error", access_log=False, lifespan="off")
        )
        # In a thread of its own it leaves Ctrl-C to the harness.
        serving = asyncio.create_task(asyncio.to_thread(server.run))
        try:
            async with asyncio.timeout(_STARTS_WITHIN):
                while not server.started:
                    if serving.done():
                        raise OrderwrightError(f"no subscriber can listen on port {port}")
                    await asyncio.sleep(0.05)
            yield f"http://{LOOPBACK}:{port}/events"
        finally:
            server.should_exit = True
            await asyncio.wait([serving], timeout=10)

    async def take(self, request: Request) -> Response:
        """One request: events of one key, oldest first."""
        try:
            body = await request.body()
        except ClientDisconnect:
            # Whoever told it was killed while telling; nobody hears this answer.
            return Response(status_code=HTTPStatus.BAD_REQUEST)
        try:
            signature, stamp = (request.headers.get(name) for name in (SIGNATURE_HEADER, TIMESTAMP_HEADER))
            verify((SECRET,), signature, stamp, body, time.time())
            envelope = OutboxEnvelope.model_validate_json(body)
        except (OrderwrightError, ValidationError) as error:
            self._wrong.append(("", f"an unusable request: {type(error).__name__}"))
            return Response(status_code=HTTPStatus.BAD_REQUEST)
        first = envelope.events[0].event_id
        self._tries[first] += 1
        drawn = fraction(self.seed, first, f"try {self._tries[first]}")
        if drawn < _TURNED_AWAY:
            return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        for event in envelope.events:
            self.apply(envelope.key, event)
        silent = drawn < _TURNED_AWAY + _TAKEN_SILENTLY
        return Response(status_code=HTTPStatus.INTERNAL_SERVER_ERROR if silent else HTTPStatus.NO_CONTENT)

    def apply(self, key: str, event: OutboxEvent) -> None:
        """Take in an event that came with those of ``key``."""
        before = self._applied.get(event.event_id)
        if before is not None:
            self._repeated += 1
            if before != event:
                self._wrong.append((event.event_id, "came again with other content"))
            return
        if event.key != key:
            self._wrong.append((event.event_id, f"of {event.key} came with those of {key}"))
        if event.position <= self._furthest.get(event.key, 0):
            self._wrong.append(
                (event.event_id, f"came after position {self._furthest[event.key]} of {event.key}")
            )
        self._furthest[event.key] = max(event.position, self._furthest.get(event.key, 0))
        self._applied[event.event_id] = event
