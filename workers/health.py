"""Whether a worker process lives, and whether it can work: two paths over HTTP for those who watch processes.

``/healthz`` answers 200 as long as the process does. ``/readyz`` answers 200 when every part answers, else 503, and
says which does not, like the API's path of the same name.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from models.errors import OrderwrightError, Refused

# Raises our own error when a part does not answer.
Check = Callable[[], Awaitable[object]]
Checks = Mapping[str, Check]

CHECK_SECONDS = 5.0


@asynccontextmanager
async def answering(host: str, port: int, checks: Checks) -> AsyncIterator[None]:
    """Answer on ``host:port`` while inside; port 0 answers nowhere.

    Raises:
        Refused: the port cannot be listened on.
    """
    if not port:
        yield
        return
    server = _Server(
        uvicorn.Config(
            _application(checks),
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    serving = asyncio.create_task(server.serve([_listening(host, port)]), name="health")
    try:
        yield
    finally:
        server.should_exit = True
        await serving


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The worker decides when it ends."""
        yield


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as taken:
        raise Refused(
            f"health cannot be answered on {host}:{port} (ORDERWRIGHT_HEALTH_PORT): {taken.strerror}"
        ) from taken


_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


def _application(checks: Checks) -> Callable[[_Message, _Receive, _Send], Awaitable[None]]:
    async def answer(scope: _Message, _receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return
        status, body = await _answer(scope["path"], checks)
        content = json.dumps(body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return answer


async def _answer(path: str, checks: Checks) -> tuple[int, dict[str, Any]]:
    if path == "/healthz":
        return 200, {"status": "ok"}
    if path != "/readyz":
        return 404, {"detail": "there are /healthz and /readyz"}
    found = await asyncio.gather(*(_state_of(check) for check in checks.values()))
    parts = dict(zip(checks, found, strict=True))
    ready = all(state == "ok" for state in found)
    return 200 if ready else 503, {"ready": ready, "parts": parts}


async def _state_of(check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        return f"does not answer within {CHECK_SECONDS:.0f} s"
    except OrderwrightError as failed:
        return failed.message
    return "ok"
