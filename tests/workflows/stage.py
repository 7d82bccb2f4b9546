"""Everything real around worker processes that a test may kill: Temporal, PostgreSQL, the simulators and the API."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
from sqlalchemy import text
from temporalio.client import Client

from activities.store.store import Store
from apps.simulators.faults import FaultScript, put_in_force
from models.order import OrderDraft
from tests.apps.simulators.running import (
    NEIGHBOUR_TOKEN,
    PATIENCE,
    REPOSITORY,
    SECRET,
    Simulator,
    ask,
    free_port,
    running,
)
from workers.client import connect
from workers.embedded.namespace import prepare
from workers.embedded.temporal import EmbeddedTemporal

TOKEN = "a-token-of-the-tests"
SPEED = 86_400.0
FIRST_BUILD = "first"


class Child:
    """A process of ours, started, waited for and ended by its own id."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, *command], cwd=REPOSITORY, env={**os.environ, **environment}
        )

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait for ``ready``; fail when the process ends instead."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert self._process.poll() is None, f"{self.name} ended with {self._process.returncode}"
            assert time.monotonic() < deadline, f"{self.name} does not come up"
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """As a power cut would."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait(PATIENCE)


class Stage:
    """A whole stack whose workers the test owns."""

    def __init__(
        self,
        *,
        folder: Path,
        client: Client,
        store: Store,
        simulators: Mapping[str, Simulator],
        environment: Mapping[str, str],
        api: httpx.AsyncClient,
    ) -> None:
        self.folder = folder
        self.client = client
        self.store = store
        self.simulators = simulators
        self.api = api
        self._environment = environment
        self._workers = 0

    @asynccontextmanager
    async def worker(self, module: str, *options: str, build: str = FIRST_BUILD) -> AsyncIterator[Child]:
        """A worker process of ``build``, polling every queue; killed with the context, if not before."""
        self._workers += 1
        ready = self.folder / f"ready-{self._workers}"
        child = Child(
            f"worker {self._workers}",
            ["-m", module, str(self.folder), str(ready), *options],
            {**self._environment, "ORDERWRIGHT_DEPLOYMENT_BUILD_ID": build},
        )
        try:
            await child.until(ready.exists)
            yield child
        finally:
            child.kill()

    async def submit(self, draft: OrderDraft) -> None:
        """Send an order in, as a shop does."""
        response = await self.api.post("/v1/orders", content=draft.model_dump_json())
        assert response.status_code in (200, 202), response.text

    async def rows(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        """What a query of the database gives."""
        async with self.store.transaction() as session:
            return [dict(row) for row in (await session.execute(text(statement), values)).mappings()]

    def effects(self, simulator: str) -> list[dict[str, Any]]:
        """All that a simulator did, oldest first."""
        statement = ask(self.simulators[simulator], "GET", "/statement").body
        return cast(list[dict[str, Any]], statement["effects"])

    def misbehave(self, script: FaultScript) -> None:
        """Put a fault script in force at the simulators."""
        put_in_force(script, self.folder)


@asynccontextmanager
async def set_up(folder: Path, database_url: str) -> AsyncIterator[Stage]:
    """The stage in ``folder``, without any worker yet."""
    api_port = free_port()
    simulators = {
        name: Simulator(
            name, folder, speed=SPEED, webhook_url=f"http://127.0.0.1:{api_port}/v1/webhooks/{name}"
        )
        for name in ("payment", "warehouse", "carrier", "messages")
    }
    with EmbeddedTemporal(folder / "temporal", in_memory=True) as temporal, running(*simulators.values()):
        client = await connect(temporal.address, "default", from_environment=False)
        await prepare(client, FIRST_BUILD, ours=True)
        environment = {
            "DATABASE_URL": database_url,
            "TEMPORAL_ADDRESS": temporal.address,
            "TEMPORAL_NAMESPACE": "default",
            "ORDERWRIGHT_SPEED": str(SPEED),
            "ORDERWRIGHT_API_TOKEN": TOKEN,
            "ORDERWRIGHT_WEBHOOK_SECRET": SECRET,
            "ORDERWRIGHT_PAYMENT_TOKEN": NEIGHBOUR_TOKEN,
            "ORDERWRIGHT_CARRIER_TOKEN": NEIGHBOUR_TOKEN,
            "ORDERWRIGHT_API_PORT": str(api_port),
            # Everybody here calls from the same address.
            "ORDERWRIGHT_API_CONNECTION_SHARE": "1",
            "ORDERWRIGHT_LOG_LEVEL": "ERROR",
            "ORDERWRIGHT_DEPLOYMENT_BUILD_ID": FIRST_BUILD,
            **{
                f"ORDERWRIGHT_{name.upper()}_URL": one.url
                for name, one in simulators.items()
                if name != "messages"
            },
            "ORDERWRIGHT_MESSAGE_URL": simulators["messages"].url,
        }
        store = Store.at(database_url, pool_size=5, max_overflow=5)
        url = f"http://127.0.0.1:{api_port}"
        try:
            with _ended(Child("api", ["-m", "apps.api"], environment)) as api:
                await api.until(lambda: _answers(url))
                headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
                async with httpx.AsyncClient(
                    base_url=url, headers=headers, timeout=60, trust_env=False
                ) as caller:
                    yield Stage(
                        folder=folder,
                        client=client,
                        store=store,
                        simulators=simulators,
                        environment=environment,
                        api=caller,
                    )
        finally:
            await store.close()


@contextmanager
def _ended(child: Child) -> Iterator[Child]:
    try:
        yield child
    finally:
        child.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False
