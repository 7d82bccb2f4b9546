import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from temporalio.client import Client
from temporalio.service import RPCError

from activities.store.intake import accept_draft, unstarted
from activities.store.migrate import migrate
from activities.store.store import Store
from apps.api import sweeper as sweeping
from apps.api.metrics import Metrics
from apps.api.parts import Parts
from apps.api.runs import Runs
from apps.api.sweeper import Sweeper
from models import search
from models.clock import ClockStart
from models.errors import NotReachable
from models.order import OrderDraft
from tests.apps.api.builders import a_draft
from tests.apps.api.conftest import TOKEN, WEBHOOK_SECRET
from workers.embedded.ports import any_port
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.temporal import EmbeddedTemporal
from workers.settings import REPOSITORY, Settings

NOW = timedelta(0)


@pytest.fixture(scope="module")
def own_database_url(postgres: EmbeddedPostgres) -> str:
    """A database that no running application sweeps."""
    url = postgres.url("swept")
    migrate(url)
    return url


@pytest.fixture
async def own_store(own_database_url: str) -> AsyncIterator[Store]:
    store = Store.at(own_database_url)
    async with store.transaction() as session:
        await session.execute(text("UPDATE intake SET state = 'started', started_at = now()"))
    yield store
    await store.close()


@pytest.fixture
def parts(settings: Settings, own_store: Store, client: Client) -> Parts:
    return Parts(settings=settings, store=own_store, runs=Runs(client), metrics=Metrics())


async def an_accepted_order(store: Store, clock: ClockStart | None = None) -> str:
    """Committed, and then the process died before it started the run."""
    async with store.transaction() as session:
        draft = OrderDraft.model_validate(a_draft())
        accepted = await accept_draft(session, draft, source="api", clock=clock)
    return accepted.order_id


async def left_over(store: Store) -> list[str]:
    async with store.transaction() as session:
        return [order.order_id for order in await unstarted(session, NOW)]


async def none_left(store: Store) -> bool:
    return not await left_over(store)


async def until(done: Callable[[], Awaitable[bool]], seconds: float = 90) -> None:
    """Wait for what another process or task does; there is nothing to be woken by."""
    async with asyncio.timeout(seconds):
        while not await done():  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def runs(client: Client, order_id: str) -> bool:
    try:
        await client.get_workflow_handle(f"order:{order_id}").describe()
    except RPCError:
        return False
    return True


async def test_accepted_order_without_a_run_gets_one_like_any_other(
    parts: Parts, own_store: Store, client: Client
) -> None:
    start = datetime(2011, 9, 1, 8, tzinfo=UTC)
    order_id = await an_accepted_order(own_store, ClockStart(speed=60, business_start=start))
    assert await Sweeper(parts, grace=NOW).sweep() == 1

    handle = client.get_workflow_handle(f"order:{order_id}")
    described = await handle.describe()
    assert described.typed_search_attributes.get(search.TOTAL_MINOR) == 905
    first_event = await anext(handle.fetch_history_events())
    payload = first_event.workflow_execution_started_event_attributes.input.payloads[0]
    (run,) = await client.data_converter.decode([payload])
    assert run["order_id"] == order_id
    assert run["clock"] == {"speed": 60.0, "business_start": "2011-09-01T08:00:00Z"}
    assert await left_over(own_store) == []
    assert await Sweeper(parts, grace=NOW).sweep() == 0


async def test_order_that_runs_already_is_only_marked(parts: Parts, own_store: Store, client: Client) -> None:
    order_id = await an_accepted_order(own_store)
    handle: Any = await client.start_workflow(
        "OrderWorkflow", {}, id=f"order:{order_id}", task_queue="oms-workflows"
    )
    await Sweeper(parts, grace=NOW).sweep()
    assert (await client.get_workflow_handle(handle.id).describe()).run_id == handle.result_run_id
    assert await left_over(own_store) == []


async def test_order_whose_run_has_ended_is_only_marked(
    parts: Parts, own_store: Store, client: Client
) -> None:
    order_id = await an_accepted_order(own_store)
    handle: Any = await client.start_workflow(
        "OrderWorkflow", {}, id=f"order:{order_id}", task_queue="oms-workflows"
    )
    await handle.terminate()
    await Sweeper(parts, grace=NOW).sweep()
    assert (await client.get_workflow_handle(handle.id).describe()).run_id == handle.result_run_id
    assert await left_over(own_store) == []


async def test_order_that_is_just_being_handed_over_is_left_alone(
    parts: Parts, own_store: Store, client: Client
) -> None:
    order_id = await an_accepted_order(own_store)
    assert await Sweeper(parts, grace=timedelta(hours=1)).sweep() == 0
    assert not await runs(client, order_id)


async def test_only_one_process_sweeps_at_a_time(parts: Parts, own_store: Store) -> None:
    await an_accepted_order(own_store)
    async with own_store.transaction() as elsewhere:
        await elsewhere.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": sweeping.LOCK})
        assert await Sweeper(parts, grace=NOW).sweep() == 0
    assert await Sweeper(parts, grace=NOW).sweep() == 1


async def test_five_sweepers_at_once_start_each_order_once(parts: Parts, own_store: Store) -> None:
    for _ in range(10):
        await an_accepted_order(own_store)
    started = await asyncio.gather(*(Sweeper(parts, grace=NOW).sweep() for _ in range(5)))
    assert sum(started) == 10
    assert await left_over(own_store) == []


async def test_nothing_is_lost_while_temporal_is_down(
    parts: Parts, settings: Settings, own_store: Store
) -> None:
    order_id = await an_accepted_order(own_store)
    cut_off = Parts(settings=settings, store=own_store, runs=Runs(), metrics=Metrics())
    with pytest.raises(NotReachable):
        await Sweeper(cut_off, grace=NOW).sweep()
    assert await left_over(own_store) == [order_id]
    assert await Sweeper(parts, grace=NOW).sweep() == 1


async def test_order_that_cannot_be_started_does_not_hold_up_the_others(
    parts: Parts, own_store: Store
) -> None:
    spoilt, sound = await an_accepted_order(own_store), await an_accepted_order(own_store)
    async with own_store.transaction() as session:
        await session.execute(
            text("UPDATE intake SET document = '{}' WHERE order_id = :order_id"), {"order_id": spoilt}
        )
    assert await Sweeper(parts, grace=NOW).sweep() == 1
    assert await left_over(own_store) == [spoilt]
    assert sound not in await left_over(own_store)


async def test_sweeper_goes_on_after_a_fault(
    parts: Parts, own_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper = Sweeper(parts, grace=NOW, pause=timedelta(milliseconds=10))
    calls = 0
    swept = sweeper.sweep

    async def sometimes() -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("once")
        return await swept()

    monkeypatch.setattr(sweeper, "sweep", sometimes)
    await an_accepted_order(own_store)
    task = asyncio.create_task(sweeper.run())
    try:
        await until(lambda: none_left(own_store))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def an_api_process(database_url: str, temporal_address: str, port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "apps.api"],
        cwd=REPOSITORY,
        env=os.environ
        | {
            "DATABASE_URL": database_url,
            "TEMPORAL_ADDRESS": temporal_address,
            "ORDERWRIGHT_API_PORT": str(port),
            "ORDERWRIGHT_API_TOKEN": TOKEN,
            "ORDERWRIGHT_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "ORDERWRIGHT_LOG_JSON": "true",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def until_it_lives(caller: httpx.AsyncClient) -> None:
    async def lives() -> bool:
        try:
            return (await caller.get("/healthz")).status_code == 200
        except httpx.TransportError:
            return False

    await until(lives)


async def test_order_accepted_by_a_process_that_was_killed_is_run_by_the_next(
    own_database_url: str, own_store: Store, temporal: EmbeddedTemporal, client: Client
) -> None:
    port = any_port()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as caller:
        # Nothing listens where the first process looks for Temporal: it gets no further than the commit.
        first = an_api_process(own_database_url, f"127.0.0.1:{any_port()}", port)
        try:
            await until_it_lives(caller)
            answer = await caller.post("/v1/orders", json=a_draft())
        finally:
            first.kill()
            first.communicate()
        assert answer.status_code == 202
        order_id = answer.json()["order_id"]
        assert not await runs(client, order_id)

        second = an_api_process(own_database_url, temporal.address, port)
        try:
            await until_it_lives(caller)
            await until(lambda: none_left(own_store))
            assert await runs(client, order_id)
            second.send_signal(signal.SIGTERM)
            out, err = await asyncio.to_thread(second.communicate, timeout=30)
        finally:
            second.kill()
        assert second.returncode == 0, "a stop that was asked for is a success"
        assert out == b""
        assert err
        assert all(line.startswith(b"{") for line in err.splitlines()), err.decode()
        assert b"Wilhelmina" not in err
