"""HTTP/1.1 as we serve it: uvicorn's protocol, with time-outs for slow callers and problems for what is no request.

What uvicorn leaves open: a header that never ends, a body that is sent on after its answer, connections without
number; and it answers in plain text before the application is asked.
"""

import asyncio
import sys
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from apps.api.gate import SECURITY_HEADERS
from apps.api.problems import Busy, HeaderTooLarge, TooSlow, problem_response, response_to
from workers.settings import Settings


def uvicorn_config(app: Any, settings: Settings, *, stop_within_seconds: int) -> uvicorn.Config:
    """How uvicorn serves ``app`` with the limits of ``settings``."""

    class Protocol(_Protocol):
        header_seconds = settings.api_header_seconds
        max_connections = settings.api_max_connections

    return uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        http=Protocol,
        ws="none",
        h11_max_incomplete_event_size=settings.api_max_header_bytes,
        log_config=None,  # uvicorn's lines go through our logger
        access_log=False,  # the gate writes one line per request, without what a query string may hold
        server_header=False,
        timeout_graceful_shutdown=stop_within_seconds,
    )


class _Protocol(H11Protocol):
    """One connection."""

    header_seconds: float
    max_connections: int
    _turned_away = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._turned_away = len(self.connections) > self.max_connections
        if len(self.connections) > 2 * self.max_connections:
            # Not even time for an answer: somebody is opening connections for their own sake.
            transport.abort()
        else:
            self._give_time()

    def data_received(self, data: bytes) -> None:
        if self._turned_away:
            self._answer(response_to(Busy("too many callers at once: come back in a few seconds")))
            return
        super().data_received(data)
        if self.conn.our_state in (h11.SEND_RESPONSE, h11.SEND_BODY):
            # The request is there; its body is the application's to wait for.
            self._stop_deadline()
        elif self._deadline is None:
            self._give_time()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            # Answered before the body was read. Closing at once would take the answer away from a caller who is
            # still sending; reading on for ever would be free storage for the rest of the world.
            self._give_time()

    def send_400_response(self, msg: str) -> None:
        """What cannot be read as a request is answered as a problem. Called while the fault is being handled."""
        fault = sys.exc_info()[1]
        if getattr(fault, "error_status_hint", None) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            self._answer(response_to(HeaderTooLarge("the header is larger than is accepted")))
        else:
            self._answer(problem_response(400, "bad_request", "this is no HTTP request that could be read"))

    def _give_time(self) -> None:
        self._stop_deadline()
        self._deadline = self.loop.call_later(self.header_seconds, self._time_is_up)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _time_is_up(self) -> None:
        half_a_header, _ = self.conn.trailing_data
        if half_a_header and self.conn.our_state is h11.IDLE:
            self._answer(response_to(TooSlow(f"no whole header arrived within {self.header_seconds:g} s")))
        else:
            self.transport.close()

    def _answer(self, response: Response) -> None:
        """Answer without the application, and hang up."""
        self._stop_deadline()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = [*response.raw_headers, *_FIXED, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=response.status_code, headers=headers),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


_FIXED = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
