"""Broken exchanges: the layer between a simulator and the network that delays, refuses and cuts, as a script says."""

import asyncio
import socket
import struct
from http import HTTPStatus
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from apps.simulators.faults import BROKEN_EXCHANGES, Fault, FaultKind, Faults

# People and supervisors look here, whatever the neighbours have to put up with.
_ALWAYS_WELL = ("/healthz", "/statement")
_LINGER_NOT = struct.pack("ii", 1, 0)


class Misbehaving:
    """``app`` as a neighbour on a bad day. The outermost layer: to cut a connection it needs the server's own."""

    def __init__(self, app: Starlette, faults: Faults) -> None:
        self.app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless a fault strikes it."""
        if scope["type"] != "http" or scope["path"] in _ALWAYS_WELL:
            await self.app(scope, receive, send)
            return
        endpoint, key = f"{scope['method']} {scope['path']}", _key(scope)
        if slow := self._faults.strikes((FaultKind.LATENCY,), endpoint, key):
            await asyncio.sleep(slow.wait)
        broken = self._faults.strikes(BROKEN_EXCHANGES, endpoint, key)
        if broken is None:
            await self.app(scope, receive, send)
        elif broken.do is FaultKind.STATUS:
            await _refusal(broken)(scope, receive, send)
        else:
            if broken.do in (FaultKind.RESET_AFTER, FaultKind.TIME_OUT_AFTER):
                await self.app(scope, receive, _swallow)
            if broken.do in (FaultKind.TIME_OUT_BEFORE, FaultKind.TIME_OUT_AFTER):
                await _keep_waiting(receive, broken.wait)
            await _reset(send)


def _key(scope: Scope) -> str:
    named = Headers(scope=scope).get("idempotency-key")
    query = parse_qs(scope["query_string"].decode("latin-1"))
    # Of a statement each piece may meet its own misfortune.
    return named or next((query[name][0] for name in ("key", "reference", "after") if name in query), "")


def _refusal(fault: Fault) -> JSONResponse:
    status = HTTPStatus(fault.status)
    says_when = status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE) and fault.wait
    return JSONResponse(
        {"code": "fault", "message": f"{status.phrase}, as the fault script says"},
        status_code=fault.status,
        headers={"Retry-After": f"{max(1, round(fault.wait))}"} if says_when else {},
    )


async def _swallow(_answer: Message) -> None:
    """Nobody will hear it."""


async def _keep_waiting(receive: Receive, seconds: float) -> None:
    """Until the caller has had enough, or ``seconds`` have passed."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                continue
    except TimeoutError:
        return


async def _reset(send: Send) -> None:
    """End the connection without a word: the caller sees a reset."""
    # uvicorn offers no way to do that; the transport under the request's own send is its only handle.
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("the fault script cuts this connection")
    line = transport.get_extra_info("socket")
    if line is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    transport.abort()
    await asyncio.sleep(0)  # the server notices, and does not try to answer
