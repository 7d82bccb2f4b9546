import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.store.migrate import migrate
from activities.store.store import Store
from apps.api import runs
from apps.api.application import create_app
from tests.apps.api.rehearsal import RehearsedOrder, RehearsedShipment
from workers.client import connect
from workers.embedded.namespace import reconcile_search_attributes
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.temporal import EmbeddedTemporal
from workers.settings import Settings
from workflows.steps import WORKFLOWS

TOKEN = "a-token-of-the-tests"
WEBHOOK_SECRET = "a-secret-of-the-tests"
PAY_LINK_SECRET = "another-secret-of-the-tests"


@pytest.fixture(scope="session")
def servers_dir() -> Iterator[Path]:
    """A short path that PostgreSQL's user may enter, which pytest's own private directories are not."""
    path = Path(tempfile.mkdtemp(prefix="ow-api-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(servers_dir: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(servers_dir / "pg", settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture(scope="session")
def database_url(postgres: EmbeddedPostgres) -> str:
    """One database for all tests of the API; each test uses order numbers of its own."""
    url = postgres.url("api")
    migrate(url)
    return url


@pytest.fixture(scope="session")
def temporal(servers_dir: Path) -> Iterator[EmbeddedTemporal]:
    with EmbeddedTemporal(servers_dir / "temporal", in_memory=True) as server:
        yield server


@pytest.fixture(scope="session")
async def client(temporal: EmbeddedTemporal) -> Client:
    connected = await connect(temporal.address)
    await reconcile_search_attributes(connected)
    return connected


@pytest.fixture(scope="session")
def settings(database_url: str) -> Settings:
    return Settings(
        api_token=TOKEN,
        webhook_secret=WEBHOOK_SECRET,
        pay_link_secret=PAY_LINK_SECRET,
        database_url=database_url,
        speed=1.0,
    )


@asynccontextmanager
async def serving(app: FastAPI, token: str | None = TOKEN) -> AsyncIterator[httpx.AsyncClient]:
    """``app`` with all that runs beside it, and somebody who calls it."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://api", headers=headers, timeout=90
        ) as caller,
    ):
        yield caller


@pytest.fixture(scope="session")
async def api(settings: Settings, client: Client) -> AsyncIterator[httpx.AsyncClient]:
    with pytest.MonkeyPatch.context() as patient:
        # A busy machine is not what these tests are about.
        patient.setattr(runs, "CALL_WITHIN", timedelta(seconds=60))
        async with serving(create_app(settings, client=client)) as caller:
            yield caller


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    opened = Store.at(database_url)
    yield opened
    await opened.close()


@asynccontextmanager
async def rehearsing(client: Client) -> AsyncIterator[Worker]:
    """A worker that runs the stand-ins."""
    worker = Worker(
        client,
        task_queue=WORKFLOWS,
        workflows=[RehearsedOrder, RehearsedShipment],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with worker:
        yield worker


@pytest.fixture
async def worker(client: Client, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Worker]:
    # There is a worker, so there is an answer; on a busy machine it may take longer than a caller would wait.
    monkeypatch.setattr(runs, "ANSWER_WITHIN", timedelta(seconds=60))
    async with rehearsing(client) as running:
        yield running
