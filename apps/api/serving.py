"""HTTP/1.1 as we serve it: uvicorn's protocol, with time-outs for slow callers and problems for what is no request.

What uvicorn leaves open: a header that never ends, a body that is sent on after its answer, an answer that nobody
reads, connections without number, of one caller or of many; and it answers in plain text before the application is
asked.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import h11
import uvicorn
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from apps.api.forwarded import Forwarded, Proxies
from apps.api.gate import SECURITY_HEADERS
from apps.api.limits import STOPPING, VOUCHED, caller_of
from apps.api.problems import Busy, HeaderTooLarge, TooSlow, problem_response, response_to
from workers.settings import Settings


def uvicorn_config(app: Any, settings: Settings, *, stop_within_seconds: int) -> uvicorn.Config:
    """How uvicorn serves ``app`` with the limits of ``settings``."""
    proxies = Proxies(settings)

    class Protocol(_Protocol):
        header_seconds = settings.api_header_seconds
        reading_seconds = settings.api_body_seconds
        crowd = Crowd(settings, proxies)

    return uvicorn.Config(
        Forwarded(app, proxies),
        host=settings.api_host,
        port=settings.api_port,
        http=Protocol,
        ws="none",
        h11_max_incomplete_event_size=settings.api_max_header_bytes,
        # Longer than callers and proxies keep an idle connection (mostly 60 s at most): who closes it must be the one
        # who sends next, else a request crosses our hanging up and is lost.
        timeout_keep_alive=settings.api_keep_alive_seconds,
        log_config=None,  # uvicorn's lines go through our logger
        access_log=False,  # the gate writes one line per request, without what a query string may hold
        server_header=False,
        # Ours reads them. uvicorn's believes whom its own variable names, and with * the word of the caller itself.
        proxy_headers=False,
        timeout_graceful_shutdown=stop_within_seconds,
    )


class Crowd:
    """Who is connected to one server: so many at once, and of one caller no more than a share of them.

    Where there is no room, the connection that has kept us waiting longest makes some: for a whole header, or for a
    body that neither a token nor a signature vouches for yet. Or else the one that has rested longest since its last
    answer. So sockets that are opened and say no more cost nobody else their place. One that began just now is spared,
    for the rest is on its way. A proxy that is named speaks for many, and has no share.
    """

    def __init__(self, settings: Settings, proxies: Proxies) -> None:
        self._most = settings.api_max_connections
        self._most_of_one = max(int(self._most * settings.api_connection_share), 1)
        self._proxies = proxies
        self._inside = dict["_Protocol", str | None]()
        # Those inside that keep us waiting and are nobody we know, and since when; the oldest first.
        self._silent = dict["_Protocol", float]()
        # Those inside that were answered and have asked nothing since; the oldest first.
        self._resting = dict["_Protocol", None]()
        self._turned_away = dict["_Protocol", str | None]()
        self._of_one = Counter[str | None]()
        self._away_of_one = Counter[str | None]()

    def lets_in(self, newcomer: "_Protocol") -> bool:
        """Whether there is room for ``newcomer``, if need be at the expense of who has said nothing yet."""
        caller = self._caller(newcomer)
        if caller is not None and self._of_one[caller] >= self._most_of_one:
            room = self._make_room(lambda other: self._inside[other] == caller)
        else:
            room = len(self._inside) < self._most or self._make_room(lambda _: True)
        if room:
            self._inside[newcomer] = caller
            self._silent[newcomer] = time.monotonic()
            self._of_one[caller] += 1
        return room

    def answers(self, newcomer: "_Protocol") -> bool:
        """Whether one that was not let in is told so: not if as many again wait for being told."""
        caller = self._caller(newcomer)
        full = caller is not None and self._away_of_one[caller] >= self._most_of_one
        if full or len(self._turned_away) >= self._most:
            return False
        self._turned_away[newcomer] = caller
        self._away_of_one[caller] += 1
        return True

    def hears(self, one: "_Protocol") -> None:
        """Note that a whole request has come, or that somebody we know sends one."""
        self._silent.pop(one, None)
        self._resting.pop(one, None)

    def waits_for(self, one: "_Protocol") -> None:
        """Note that a whole header has come, whose body is to follow."""
        self.hears(one)
        if one in self._inside:
            self._silent[one] = time.monotonic()

    def doubts(self, one: "_Protocol") -> bool:
        """Whether the request was not there as a whole yet, nor vouched for."""
        return one in self._silent

    def answered(self, one: "_Protocol") -> None:
        """Note that nothing is left to be answered."""
        if one in self._inside:
            self._resting[one] = None

    def loses(self, one: "_Protocol") -> None:
        """Forget a connection that is closed, or about to be."""
        self._silent.pop(one, None)
        self._resting.pop(one, None)
        for where, count in ((self._inside, self._of_one), (self._turned_away, self._away_of_one)):
            if one in where:
                caller = where.pop(one)
                count[caller] -= 1
                if not count[caller]:
                    del count[caller]

    def _make_room(self, may_go: "Callable[[_Protocol], bool]") -> bool:
        opened_before = time.monotonic() - _SPARED_SECONDS
        silent = (one for one, since in self._silent.items() if since <= opened_before and may_go(one))
        oldest = next(silent, None) or next(filter(may_go, self._resting), None)
        if oldest is None:
            return False
        self.loses(oldest)
        oldest.give_way()
        return True

    def _caller(self, one: "_Protocol") -> str | None:
        """None for a proxy: its callers show only with their requests."""
        return None if self._proxies.believe(one.client) else caller_of(one.client)


class _Protocol(H11Protocol):
    """One connection."""

    header_seconds: float
    reading_seconds: float
    crowd: Crowd
    _turned_away = False
    _deadline: asyncio.TimerHandle | None = None
    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Each request carries it: the application says when it knows who sends the request.
        self._stopping = asyncio.Event()
        self.app_state = {
            **self.app_state,
            VOUCHED: partial(self.crowd.hears, self),
            STOPPING: self._stopping,
        }
        self._turned_away = not self.crowd.lets_in(self)
        if self._turned_away and not self.crowd.answers(self):
            # Not even time for an answer: somebody is opening connections for their own sake.
            transport.abort()
        else:
            self._give_time()

    def data_received(self, data: bytes) -> None:
        if self._turned_away:
            self._answer(response_to(_BUSY))
            return
        super().data_received(data)
        if self._deadline is None and self.conn.our_state not in _UNDER_WAY:
            self._give_time()

    def handle_events(self) -> None:
        """Take what has come: of this request, or of the next one when this is answered."""
        before, was_answered = self.cycle, self.conn.our_state is h11.DONE
        super().handle_events()
        if self.conn.our_state in _UNDER_WAY:
            # The header is there; the body is the application's to wait for.
            self._stop_deadline()
            if self.conn.their_state is not h11.SEND_BODY:
                self.crowd.hears(self)
            elif self.cycle is not before:
                self.crowd.waits_for(self)
        elif was_answered and self.conn.our_state is h11.IDLE:
            # The rest of a body that was answered before it had come: whoever sent it may ask again.
            self._stop_deadline()
            self.crowd.answered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.crowd.loses(self)
        self._stop_deadline()
        self._let_be()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server stops: what is being answered is finished, and a stream has to know that it is to end."""
        self._stopping.set()
        super().shutdown()

    def pause_writing(self) -> None:
        """More waits to be read than is buffered: for so long and no longer."""
        super().pause_writing()
        self._break_off_later()

    def resume_writing(self) -> None:
        """The caller has read."""
        super().resume_writing()
        if not self.transport.is_closing():
            self._let_be()

    def timeout_keep_alive_handler(self) -> None:
        """Hang up on a connection that rests."""
        super().timeout_keep_alive_handler()
        self._break_off_later()

    def give_way(self) -> None:
        """Hang up for somebody else."""
        half_a_header, _ = self.conn.trailing_data
        if self.conn.our_state is h11.SEND_RESPONSE or (half_a_header and self.conn.our_state is h11.IDLE):
            self._answer(response_to(_BUSY))
        else:
            self._hang_up()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._break_off_later()
        elif self.conn.our_state is h11.DONE:
            # Answered before the body was read. Closing at once would take the answer away from a caller who is
            # still sending; reading on for ever would be free storage for the rest of the world.
            self._give_time(_LAST_SECONDS if self.crowd.doubts(self) else self.header_seconds)
        elif self.conn.our_state is h11.IDLE:
            self.crowd.answered(self)

    def send_400_response(self, msg: str) -> None:
        """What cannot be read as a request is answered as a problem. Called while the fault is being handled."""
        fault = sys.exc_info()[1]
        if getattr(fault, "error_status_hint", None) == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            self._answer(response_to(HeaderTooLarge("the header is larger than is accepted")))
        else:
            self._answer(problem_response(400, "bad_request", "this is no HTTP request that could be read"))

    def _give_time(self, seconds: float | None = None) -> None:
        self._stop_deadline()
        self._deadline = self.loop.call_later(seconds or self.header_seconds, self._time_is_up)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _time_is_up(self) -> None:
        half_a_header, _ = self.conn.trailing_data
        if half_a_header and self.conn.our_state is h11.IDLE:
            self._answer(response_to(TooSlow(f"no whole header arrived within {self.header_seconds:g} s")))
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        self._stop_deadline()
        self.transport.close()
        self._break_off_later()

    def _break_off_later(self) -> None:
        # Closing waits until what was sent is read, which the caller may never do: its place and what is buffered for
        # it would be gone for good.
        if self._end is None:
            self._end = self.loop.call_later(self.reading_seconds, self.transport.abort)

    def _let_be(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def _answer(self, response: Response) -> None:
        """Answer without the application, and hang up."""
        self._stop_deadline()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        waited_for = self.conn.our_state is h11.SEND_RESPONSE
        if waited_for or self.conn.our_state is h11.IDLE:
            headers = [*response.raw_headers, *_FIXED, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=response.status_code, headers=headers),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if waited_for:
            # The application waits for the rest, and has nobody left to answer.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._hang_up()


_UNDER_WAY = (h11.SEND_RESPONSE, h11.SEND_BODY)
# Time enough for a header that was sent with its connection to be read by a busy process.
_SPARED_SECONDS = 1.0
# Time enough for a stranger to read that it is refused, while it may still be sending.
_LAST_SECONDS = 1.0
_BUSY = Busy("too many callers at once: come back in a few seconds")
_FIXED = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
