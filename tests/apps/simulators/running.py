"""Simulators as real processes, and a listening post that answers what it is told."""

import asyncio
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from apps.simulators.assembly import open_simulator
from apps.simulators.faults import Simulator as SimulatorName
from apps.simulators.serving import Settings
from models.webhooks import WebhookEnvelope, verify

SECRET = "a-secret-for-tests"
NEIGHBOUR_TOKEN = "a-token-of-the-neighbours"
REPOSITORY = Path(__file__).resolve().parents[3]
# A loaded machine may take this long to start a process; nothing waits it out when all is well.
PATIENCE = 120.0


def free_port() -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def eventually(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until ``condition`` holds; fail saying ``what`` was waited for."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience:.0f} s for: {what}"
        await asyncio.sleep(0.02)


class Simulator:
    """One simulator process that can be killed and started again on the same port and the same data."""

    def __init__(
        self, name: str, data_dir: Path, *options: str, speed: float = 86400.0, webhook_url: str | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        self._command = [
            *(sys.executable, "-m", "apps.simulators", name),
            *("--port", str(self.port), "--data-dir", str(data_dir), "--speed", str(speed)),
            *("--webhook-url", webhook_url or f"http://127.0.0.1:{free_port()}/nobody"),
            *options,
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self.launch()
        self.wait_until_it_answers()

    def launch(self) -> None:
        """Start the process."""
        self._process = subprocess.Popen(
            self._command,
            cwd=REPOSITORY,
            env={
                **os.environ,
                "ORDERWRIGHT_WEBHOOK_SECRET": SECRET,
                "ORDERWRIGHT_PAYMENT_TOKEN": NEIGHBOUR_TOKEN,
                "ORDERWRIGHT_CARRIER_TOKEN": NEIGHBOUR_TOKEN,
            },
            stdout=subprocess.DEVNULL,
        )

    def wait_until_it_answers(self) -> None:
        """Wait for the first answer; fail when the process ends instead."""
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                ask(self, "GET", "/healthz")
                return
            except OSError:
                assert self._process.poll() is None, f"it ended with {self._process.returncode}"
                assert time.monotonic() < deadline, "it does not answer"
                time.sleep(0.02)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal the process and answer its exit code."""
        assert self._process is not None
        self._process.send_signal(how)
        return self._process.wait(PATIENCE)

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None


@dataclass(frozen=True)
class Answered:
    """What a simulator answered."""

    status: int
    body: dict[str, Any]


def ask(
    one: Simulator, method: str, target: str, *, key: str | None = None, body: dict[str, object] | None = None
) -> Answered:
    """One plain HTTP request, without any of our adapters in between."""
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=PATIENCE)
    try:
        connection.request(
            method,
            target,
            body=None if body is None else json.dumps(body),
            headers={} if key is None else {"Idempotency-Key": key},
        )
        response = connection.getresponse()
        return Answered(response.status, json.loads(response.read()))
    finally:
        connection.close()


@contextmanager
def running(*simulators: Simulator) -> Iterator[None]:
    """Simulators as processes, started side by side and ended with the context."""
    try:
        for one in simulators:
            one.launch()
        for one in simulators:
            one.wait_until_it_answers()
        yield
    finally:
        for one in simulators:
            if one.running:
                one.end(signal.SIGKILL)


@asynccontextmanager
async def inside(
    name: SimulatorName,
    data_dir: Path,
    settings: Settings | None = None,
    *,
    webhook_url: str = "http://127.0.0.1:9/",
) -> AsyncIterator[httpx.AsyncClient]:
    """The same simulator inside the test's own process, and a client to it: no process to wait for."""
    settings = settings or Settings(seed=0, speed=86400.0, token=NEIGHBOUR_TOKEN)
    with open_simulator(name, data_dir, settings, webhook_url=webhook_url, secret=SECRET) as app:
        async with app.app.router.lifespan_context(app.app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://simulator") as client:
                yield client


@dataclass(frozen=True)
class Received:
    """A request as it came in."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def webhook(self) -> WebhookEnvelope:
        """The body as a webhook; fails unless it is signed with the tests' secret, now."""
        verify(
            (SECRET,),
            self.headers.get("orderwright-signature"),
            self.headers.get("orderwright-timestamp"),
            self.body,
            time.time(),
        )
        return WebhookEnvelope.model_validate_json(self.body)


Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


def answer(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    """Answer with this status, body and headers (``Retry_After="3"``)."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status} Told", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return behave


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Read the request, then close without a word."""
    writer.close()


async def reset(writer: asyncio.StreamWriter) -> None:
    """Read the request, then reset the connection."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def break_off(writer: asyncio.StreamWriter) -> None:
    """Promise a long answer and stop in the middle of it."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    writer.close()


async def speak_nonsense(writer: asyncio.StreamWriter) -> None:
    """Answer something that is not HTTP."""
    writer.write(b"SSH-2.0-whatever\r\n")
    await writer.drain()
    writer.close()


async def say_nothing(writer: asyncio.StreamWriter) -> None:
    """Read the request and never answer; ends when the other side gives up."""
    while not writer.transport.is_closing():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0.02)


@dataclass
class ListeningPost:
    """A server that keeps every request and behaves as told, for each request anew."""

    port: int
    behaviour: Behaviour = field(default_factory=lambda: answer(202))
    received: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def webhooks(self) -> list[WebhookEnvelope]:
        """Everything received, each signature checked."""
        return [request.webhook() for request in self.received]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: any number of requests, one after the other."""
        try:
            while not writer.transport.is_closing():
                self.received.append(await _read_request(reader))
                await self.behaviour(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the other side is done
        finally:
            writer.close()


@asynccontextmanager
async def listening(port: int | None = None) -> AsyncIterator[ListeningPost]:
    """A listening post on a port of its own, or on ``port``."""
    post = ListeningPost(port or free_port())
    server = await asyncio.start_server(post.serve, "127.0.0.1", post.port)
    try:
        yield post
    finally:
        server.close()


async def _read_request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, target, headers, body)
