"""The application behind a real socket, served as in production, within the test's own process."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import FastAPI

from apps.api.serving import uvicorn_config
from workers.embedded.ports import any_port
from workers.settings import Settings


class _Server(uvicorn.Server):
    """Leaves the signals to pytest."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def behind_a_socket(app: FastAPI, settings: Settings) -> AsyncIterator[int]:
    """Serve ``app`` with the limits of ``settings``; the port that it listens at."""
    port = any_port()
    server = _Server(
        uvicorn_config(app, settings.model_copy(update={"api_port": port}), stop_within_seconds=5)
    )
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            if serving.done():
                serving.result()
                raise AssertionError("the server ended before it had started")
            await asyncio.sleep(0.02)
        yield port
    finally:
        server.should_exit = True
        await serving
