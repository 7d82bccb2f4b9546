import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import format_trace_id
from prometheus_client import generate_latest
from sqlalchemy import text
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import RPCError

from activities.store import reads, rerouting, stock, warehouse
from activities.store.arrived import arrivals
from activities.store.astray import Astray
from activities.store.intake import accept_draft, mark_started, take_unstarted
from activities.store.migrate import migrate
from activities.store.record import record
from activities.store.stock import Wanted
from activities.store.store import Store
from apps.api import invariants
from apps.api import sweeper as sweeping
from apps.api.intake import take_in
from apps.api.metrics import Metrics
from apps.api.parts import Parts
from apps.api.runs import Runs
from apps.api.sweeper import Sweeper
from models import search
from models.clock import ClockStart
from models.errors import NotReachable
from models.journal import Carried, OrderProjection
from models.messages import PlanAgain
from models.order import OrderDraft
from models.states import OrderState
from models.stock import Count, CountedUnits, Receipt, ReceivedUnits
from tests.apps.api.builders import a_draft, an_entry, write_down
from tests.apps.api.conftest import TOKEN, WEBHOOK_SECRET
from tests.builders import a_draft as one_draft
from tests.builders import accepted, carrying, new_number, skus_of, stocked
from tests.builders import write_down as written
from workers.embedded.ports import any_port
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.temporal import EmbeddedTemporal
from workers.settings import REPOSITORY, Settings
from workers.tracing import OneTracePerRun

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
        await session.execute(text("UPDATE orders SET state = 'closed'"))
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


async def a_started_order(store: Store) -> str:
    """Committed and started; what became of its run is another matter."""
    order_id = await an_accepted_order(store)
    async with store.transaction() as session:
        await mark_started(session, order_id)
    return order_id


async def a_terminated_run(client: Client, order_id: str) -> Any:
    handle: Any = await client.start_workflow(
        "OrderWorkflow", {}, id=f"order:{order_id}", task_queue="oms-workflows"
    )
    await handle.terminate()
    return handle


async def input_of(client: Client, workflow_id: str) -> Any:
    first_event = await anext(client.get_workflow_handle(workflow_id).fetch_history_events())
    payload = first_event.workflow_execution_started_event_attributes.input.payloads[0]
    (run,) = await client.data_converter.decode([payload])
    return run


async def spoil(store: Store, order_ids: list[str]) -> None:
    """Make the documents such that no run can be started for them."""
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE intake SET document = '{}' WHERE order_id = ANY(:order_ids)"),
            {"order_ids": order_ids},
        )


async def in_half_a_minute(store: Store) -> None:
    async with store.transaction() as session:
        await session.execute(text("UPDATE intake SET try_at = try_at - interval '30 seconds'"))


async def taken_up(store: Store) -> list[str]:
    async with store.transaction() as session:
        return [order.order_id for order in await take_unstarted(session, NOW)]


async def left_over(store: Store) -> list[str]:
    async with store.transaction() as session:
        found = await reads.unowned_orders(session, NOW)
    return [order.order_id for order in found if not order.started]


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

    described = await client.get_workflow_handle(f"order:{order_id}").describe()
    assert described.typed_search_attributes.get(search.TOTAL_MINOR) == 905
    run = await input_of(client, f"order:{order_id}")
    assert run["order_id"] == order_id
    assert run["clock"] == {"speed": 60.0, "business_start": "2011-09-01T08:00:00Z"}
    assert await left_over(own_store) == []
    assert await Sweeper(parts, grace=NOW).sweep() == 0


@pytest.mark.parametrize("broken", [False, True])
async def test_run_that_is_started_later_belongs_to_the_trace_of_the_request(
    parts: Parts, own_store: Store, client: Client, broken: bool
) -> None:
    tracer = TracerProvider().get_tracer("tests")
    with tracer.start_as_current_span("POST /v1/orders") as request:
        draft = OrderDraft.model_validate(a_draft())
        accepted = await take_in(own_store, Runs(), draft, ClockStart())
    if broken:
        await a_terminated_run(client, accepted.order_id)
    traced = Client(
        client.service_client,
        namespace=client.namespace,
        data_converter=client.data_converter,
        interceptors=[OneTracePerRun(tracer)],
    )
    assert await Sweeper(replace(parts, runs=Runs(traced)), grace=NOW).sweep() == 1
    first_event = await anext(client.get_workflow_handle(accepted.workflow_id).fetch_history_events())
    header = first_event.workflow_execution_started_event_attributes.header.fields["_tracer-data"]
    carried = json.loads(header.data)["traceparent"]
    assert carried.split("-")[1] == format_trace_id(request.get_span_context().trace_id)


async def test_order_that_runs_already_is_only_marked(parts: Parts, own_store: Store, client: Client) -> None:
    order_id = await an_accepted_order(own_store)
    handle: Any = await client.start_workflow(
        "OrderWorkflow", {}, id=f"order:{order_id}", task_queue="oms-workflows"
    )
    await Sweeper(parts, grace=NOW).sweep()
    assert (await client.get_workflow_handle(handle.id).describe()).run_id == handle.result_run_id
    assert await left_over(own_store) == []


async def test_order_whose_run_ended_without_ever_moving_it_is_run(
    parts: Parts, own_store: Store, client: Client
) -> None:
    order_id = await an_accepted_order(own_store)
    handle = await a_terminated_run(client, order_id)
    await write_down(own_store, order_id, entries=(an_entry(order_id, 0), an_entry(order_id, 1)))
    assert await Sweeper(parts, grace=NOW).sweep() == 1
    described = await client.get_workflow_handle(handle.id).describe()
    assert described.run_id != handle.result_run_id
    assert described.status is WorkflowExecutionStatus.RUNNING
    run = await input_of(client, handle.id)
    assert run["memory"]["entry_count"] == 2, "its entries would not be taken for those of the run before"
    assert await left_over(own_store) == []


async def test_order_whose_run_has_done_its_work_is_never_run_again(
    parts: Parts, own_store: Store, client: Client
) -> None:
    order_id = await an_accepted_order(own_store)
    handle = await a_terminated_run(client, order_id)
    await write_down(own_store, order_id, state=OrderState.REJECTED)
    await Sweeper(parts, grace=NOW).sweep()
    assert (await client.get_workflow_handle(handle.id).describe()).run_id == handle.result_run_id
    assert await left_over(own_store) == []


async def test_run_that_ends_while_it_would_be_started_again_is_waited_for(
    parts: Parts, own_store: Store, client: Client
) -> None:
    order_id = await an_accepted_order(own_store)
    handle = await a_terminated_run(client, order_id)
    async with own_store.transaction() as session:
        await record(
            session, order_id, Carried(order=OrderProjection(version=1, state=OrderState.VALIDATING))
        )
        sweep = asyncio.create_task(Sweeper(parts, grace=NOW).sweep())
        await asyncio.wait([sweep], timeout=2)
        assert not sweep.done()
    await sweep
    assert (await client.get_workflow_handle(handle.id).describe()).run_id == handle.result_run_id


@pytest.mark.parametrize("gone", ["terminated", "vanished"])
async def test_started_order_that_lost_its_run_before_its_first_step_gets_another(
    parts: Parts, own_store: Store, client: Client, gone: str
) -> None:
    order_id = await a_started_order(own_store)
    if gone == "terminated":
        await a_terminated_run(client, order_id)
    sweeper = Sweeper(parts, look_after=NOW)
    assert await sweeper.look() == 1
    described = await client.get_workflow_handle(f"order:{order_id}").describe()
    assert described.status is WorkflowExecutionStatus.RUNNING
    assert await sweeper.look() == 0, "it has just been looked at"


async def test_order_further_along_that_lost_its_run_is_reported_and_not_restarted(
    parts: Parts, own_store: Store, client: Client
) -> None:
    order_id = await a_started_order(own_store)
    handle = await a_terminated_run(client, order_id)
    await write_down(own_store, order_id, state=OrderState.RESERVING, version=5)
    with capture_logs(processors=[merge_contextvars]) as lines:
        assert await Sweeper(parts, look_after=NOW).look() == 1
    (told,) = (line for line in lines if line["event"] == "order_has_no_run")
    about = {"order_id": order_id, "workflow_id": f"order:{order_id}", "actor": "orderwright"}
    assert told.items() >= about.items()
    assert b"orderwright_orders_without_run_total 1.0" in generate_latest(parts.metrics.registry)
    assert (await client.get_workflow_handle(handle.id).describe()).run_id == handle.result_run_id


async def test_orders_that_run_or_have_ended_are_left_as_they_are(
    parts: Parts, own_store: Store, client: Client
) -> None:
    running, ended = await a_started_order(own_store), await a_started_order(own_store)
    await client.start_workflow("OrderWorkflow", {}, id=f"order:{running}", task_queue="oms-workflows")
    await write_down(own_store, ended, state=OrderState.CLOSED)
    assert await Sweeper(parts, look_after=NOW).look() == 0
    assert not await runs(client, ended)


async def test_order_that_is_just_being_handed_over_is_left_alone(
    parts: Parts, own_store: Store, client: Client
) -> None:
    order_id = await an_accepted_order(own_store)
    assert await Sweeper(parts, grace=timedelta(hours=1)).sweep() == 0
    assert not await runs(client, order_id)


async def test_what_one_process_has_taken_up_the_others_leave_alone(parts: Parts, own_store: Store) -> None:
    order_id = await an_accepted_order(own_store)
    async with own_store.transaction() as elsewhere:
        assert [order.order_id for order in await take_unstarted(elsewhere, NOW)] == [order_id]
        assert await Sweeper(parts, grace=NOW).sweep() == 0
    assert await Sweeper(parts, grace=NOW).sweep() == 0, "the other one is still at it, or has died"
    await in_half_a_minute(own_store)
    assert await Sweeper(parts, grace=NOW).sweep() == 1


async def test_many_orders_that_cannot_be_started_do_not_starve_the_younger(
    parts: Parts, own_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_BATCH", 2)
    spoilt = [await an_accepted_order(own_store) for _ in range(4)]
    await spoil(own_store, spoilt)
    sound = await an_accepted_order(own_store)
    sweeper = Sweeper(parts, grace=NOW)
    with capture_logs(processors=[merge_contextvars]) as lines:
        assert [await sweeper.sweep() for _ in range(3)] == [0, 0, 1]
    told = [line for line in lines if line["event"] == "run_not_started"]
    assert [(line["order_id"], line["workflow_id"]) for line in told] == [(o, f"order:{o}") for o in spoilt]
    assert {line["actor"] for line in told} == {"orderwright"}
    assert sound not in await left_over(own_store)
    await in_half_a_minute(own_store)
    assert len(await taken_up(own_store)) == 4, "they are tried again"
    await in_half_a_minute(own_store)
    assert await taken_up(own_store) == [], "but not as soon as the first time"


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
    await spoil(own_store, [spoilt])
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


async def test_a_look_for_parcels_that_never_ends_does_not_keep_the_sweeper_from_starting_orders(
    parts: Parts, own_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = asyncio.Event()

    async def endless(*_given: object, **_named: object) -> list[Astray]:
        looking.set()
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(invariants, "astray", endless)
    monkeypatch.setattr(invariants, "_ASTRAY_WITHIN", timedelta(milliseconds=10))
    task = asyncio.create_task(Sweeper(parts, grace=NOW, pause=timedelta(milliseconds=10)).run())
    try:
        await asyncio.wait_for(looking.wait(), timeout=30)
        await an_accepted_order(own_store)
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


async def an_order_that_lost_units(store: Store) -> str:
    """A count found less than was promised to a started order."""
    order_id, sku = await a_started_order(store), f"SKU-{uuid4().hex[:10]}"
    await stocked(store, north={sku: 2})
    wanted = Wanted(shipment_id=f"{order_id}:1", node="north", sku=sku, quantity=2)
    async with store.transaction() as session:
        reservation = await stock.reserve(
            session,
            key=f"order:{order_id}:reserve:1",
            order_id=order_id,
            plan_id=f"{order_id}:p1",
            wanted=[wanted],
            expires_at=datetime.now(UTC) + timedelta(days=7),
        )
        assert reservation.reserved
    counted = Count(
        document_id=f"C-{sku}", actor="wms", node="north", lines=(CountedUnits(sku=sku, quantity=1),)
    )
    async with store.transaction() as session:
        await warehouse.count(session, counted)
    return order_id


async def signals(client: Client, order_id: str) -> list[tuple[str, Any]]:
    found = []
    async for event in client.get_workflow_handle(f"order:{order_id}").fetch_history_events():
        if event.HasField("workflow_execution_signaled_event_attributes"):
            told = event.workflow_execution_signaled_event_attributes
            (message,) = await client.data_converter.decode(told.input.payloads)
            found.append((told.signal_name, message))
    return found


async def test_a_run_is_told_of_units_that_the_warehouse_does_not_hold(
    parts: Parts, own_store: Store, client: Client
) -> None:
    order_id = await an_order_that_lost_units(own_store)
    await client.start_workflow("OrderWorkflow", {}, id=f"order:{order_id}", task_queue="oms-workflows")
    assert await Sweeper(parts).plan_anew() == 1
    assert await Sweeper(parts).plan_anew() == 0
    ((name, message),) = await signals(client, order_id)
    assert name == "stock_lost" and message["shipments"] == [1]


async def test_back_ordered_runs_are_told_when_there_is_more_of_what_they_wait_for(
    parts: Parts, own_store: Store, client: Client
) -> None:
    waiting = [one_draft(), one_draft(placed_at="2026-03-01T09:30:00Z")]
    (sku,) = skus_of(waiting[0])
    waiting[1] = waiting[1].model_copy(update={"lines": waiting[0].lines})
    await stocked(own_store, north={sku: 0, "other": 0})
    orders = [await accepted(own_store, draft) for draft in waiting]
    for order_id in orders:
        await written(own_store, order_id, carrying(order_id, OrderState.BACKORDERED, 5))
        await client.start_workflow("OrderWorkflow", {}, id=f"order:{order_id}", task_queue="oms-workflows")
    sweeper = Sweeper(parts)
    assert await sweeper.wake() == 0

    async def arrives(of: str, units: int) -> None:
        lines = (ReceivedUnits(sku=of, quantity=units),)
        receipt = Receipt(document_id=f"R-{new_number()}", actor="wms", node="north", lines=lines)
        async with own_store.transaction() as session:
            await warehouse.receive(session, receipt)

    await arrives("other", 5)
    assert await sweeper.wake() == 0
    await arrives(sku, 3)
    # Not heard yet, it is told again: of the same event, the first that was placed first.
    assert [await sweeper.wake(), await sweeper.wake()] == [2, 2]
    for order_id in orders:
        first, second = await signals(client, order_id)
        assert first == second
        assert first[0] == "stock_arrived" and first[1]["reason"] == f"{sku} at north: receipt"
    async with own_store.transaction() as session:
        assert [found.order_id for found in await arrivals(session, 10)] == orders[::-1]
        # Once they have looked again there is nothing new, nor when others have taken it.
        await session.execute(text("UPDATE orders SET updated_at = now() + interval '2 minutes'"))
        assert await arrivals(session, 10) == []
        await session.execute(text("UPDATE orders SET updated_at = now() - interval '2 minutes'"))
        await session.execute(text("UPDATE stock SET reserved = on_hand WHERE sku = :sku"), {"sku": sku})
        assert await arrivals(session, 10) == []


async def test_a_run_that_was_told_before_we_died_is_told_of_the_same_event_again(
    parts: Parts, own_store: Store, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = await an_order_that_lost_units(own_store)
    await client.start_workflow("OrderWorkflow", {}, id=f"order:{order_id}", task_queue="oms-workflows")

    async def dies(*_: Any) -> None:
        raise ConnectionError

    with monkeypatch.context() as dying, pytest.raises(ConnectionError):
        dying.setattr("apps.api.sweeper.told_of", dies)
        await Sweeper(parts).plan_anew()
    assert await Sweeper(parts).plan_anew() == 1
    first, second = await signals(client, order_id)
    assert first == second


async def test_an_order_without_a_run_has_nothing_to_plan_anew(parts: Parts, own_store: Store) -> None:
    await an_order_that_lost_units(own_store)
    assert await Sweeper(parts).plan_anew() == 1
    assert await Sweeper(parts).plan_anew() == 0


async def an_order_to_plan_again(store: Store) -> str:
    order_id = await accepted(store, one_draft())
    message = PlanAgain(event_id="notice-1", actor="dana", reason="north is closed: a flood", shipments=(1,))
    async with store.transaction() as session:
        assert await rerouting.tell_later(session, order_id, message)
        assert not await rerouting.tell_later(session, order_id, message), "of one thing once"
    return order_id


async def test_runs_are_told_to_plan_anew_once(parts: Parts, own_store: Store, client: Client) -> None:
    order_id = await an_order_to_plan_again(own_store)
    await client.start_workflow("OrderWorkflow", {}, id=f"order:{order_id}", task_queue="oms-workflows")
    assert [await Sweeper(parts).reroute(), await Sweeper(parts).reroute()] == [1, 0]
    ((name, message),) = await signals(client, order_id)
    assert (name, message["event_id"], message["shipments"]) == ("plan_again", "notice-1", [1])


async def test_who_was_told_to_plan_anew_before_we_died_is_told_of_the_same_event(
    parts: Parts, own_store: Store, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = await an_order_to_plan_again(own_store)
    await client.start_workflow("OrderWorkflow", {}, id=f"order:{order_id}", task_queue="oms-workflows")

    async def dies(*_: Any) -> None:
        raise ConnectionError

    with monkeypatch.context() as dying, pytest.raises(ConnectionError):
        dying.setattr("activities.store.rerouting.told_of", dies)
        await Sweeper(parts).reroute()
    assert await Sweeper(parts).reroute() == 1
    first, second = await signals(client, order_id)
    assert first == second


async def test_an_order_without_a_run_is_not_told_for_ever(parts: Parts, own_store: Store) -> None:
    await an_order_to_plan_again(own_store)
    assert [await Sweeper(parts).reroute(), await Sweeper(parts).reroute()] == [1, 0]
