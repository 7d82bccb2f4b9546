"""Reservations whose time is up: freed when nobody comes for them, and never taken from an order that goes on."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import generate_latest
from sqlalchemy import text
from temporalio.client import Client

from activities.store import stock
from activities.store.migrate import migrate
from activities.store.stock import Wanted
from activities.store.store import Store
from apps.api.metrics import Metrics
from apps.api.parts import Parts
from apps.api.runs import Runs
from apps.api.sweeper import Sweeper
from models.errors import NotReachable
from models.identifiers import order_workflow_id
from models.journal import Carried
from models.states import OrderState, ShipmentState
from tests.apps.api.conftest import TOKEN, WEBHOOK_SECRET
from tests.builders import (
    NOON,
    a_draft,
    a_shipment,
    accepted,
    carrying,
    new_number,
    stocked,
    write_down,
)
from workers.embedded.postgres import EmbeddedPostgres
from workers.settings import Settings
from workflows.steps import WORKFLOWS

AN_HOUR_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.fixture(scope="module")
def own_database_url(postgres: EmbeddedPostgres) -> str:
    """A database that no running application sweeps."""
    url = postgres.url("expiry")
    migrate(url)
    return url


@pytest.fixture
async def parts(own_database_url: str, client: Client) -> AsyncIterator[Parts]:
    settings = Settings(api_token=TOKEN, webhook_secret=WEBHOOK_SECRET, database_url=own_database_url)
    store = Store.at(own_database_url)
    yield Parts(settings=settings, store=store, runs=Runs(client), metrics=Metrics())
    await store.close()


async def expired(store: Store, *, order_id: str | None = None, shipments: int = 1) -> tuple[str, str]:
    """The order and the SKU of a reservation whose time is up: two units for each shipment, of ten."""
    order_id = order_id or await accepted(store, a_draft())
    sku = f"SKU-{new_number()}"
    await stocked(store, north={sku: 10})
    async with store.transaction() as session:
        await stock.reserve(
            session,
            key=f"order:{order_id}:reserve:1",
            order_id=order_id,
            plan_id=f"{order_id}:p1",
            wanted=[
                Wanted(shipment_id=f"{order_id}:{number}", node="north", sku=sku, quantity=2)
                for number in range(1, shipments + 1)
            ],
            expires_at=AN_HOUR_AGO,
        )
    return order_id, sku


async def level(store: Store, sku: str) -> tuple[int, int]:
    async with store.transaction() as session:
        row = (
            await session.execute(text("SELECT on_hand, reserved FROM stock WHERE sku = :sku"), {"sku": sku})
        ).one()
    return row.on_hand, row.reserved


async def lasts_until(store: Store, order_id: str) -> datetime | None:
    async with store.transaction() as session:
        found: Any = await session.scalar(
            text("SELECT expires_at FROM reservations WHERE order_id = :order_id"), {"order_id": order_id}
        )
    return found  # type: ignore[no-any-return]


async def told(store: Store, order_id: str) -> list[tuple[str, str]]:
    async with store.transaction() as session:
        rows = await session.execute(
            text("SELECT what, why FROM timeline WHERE order_id = :order_id AND kind = 'stock.expired'"),
            {"order_id": order_id},
        )
        return [(row.what, row.why) for row in rows]


async def test_an_order_whose_run_goes_on_keeps_its_units_for_another_day(
    parts: Parts, client: Client
) -> None:
    order_id, sku = await expired(parts.store)
    handle = await client.start_workflow("NobodyRunsIt", id=order_workflow_id(order_id), task_queue=WORKFLOWS)
    try:
        assert await Sweeper(parts).expire() == 0
    finally:
        await handle.terminate()
    assert await level(parts.store, sku) == (10, 2)
    until = await lasts_until(parts.store, order_id)
    assert until is not None
    assert until > datetime.now(UTC) + timedelta(hours=23)
    assert b'expired_total{outcome="extended"} 1.0' in generate_latest(parts.metrics.registry)


async def test_an_order_that_ended_frees_its_units_and_says_so_once(parts: Parts) -> None:
    order_id, sku = await expired(parts.store, shipments=2)
    await write_down(parts.store, order_id, carrying(order_id, OrderState.CANCELLED, 9))
    assert await Sweeper(parts).expire() == 4
    assert await level(parts.store, sku) == (10, 0)
    assert (
        await told(parts.store, order_id)
        == [
            (
                "2 reserved units are free again",
                "the reservation expired, and nobody comes for it: its order is cancelled",
            )
        ]
        * 2
    )
    assert b"stray_units_freed_total 4.0" in generate_latest(parts.metrics.registry)
    assert await Sweeper(parts).expire() == 0


async def test_a_reservation_of_an_order_that_nobody_knows_is_freed(parts: Parts) -> None:
    _, sku = await expired(parts.store, order_id=f"web:{new_number()}")
    assert await Sweeper(parts).expire() == 2
    assert await level(parts.store, sku) == (10, 0)


async def test_an_open_order_without_a_run_keeps_its_units_until_a_person_has_decided(parts: Parts) -> None:
    order_id, sku = await expired(parts.store)
    assert await Sweeper(parts).expire() == 0
    assert await level(parts.store, sku) == (10, 2)
    until = await lasts_until(parts.store, order_id)
    assert until is not None
    assert timedelta(minutes=50) < until - datetime.now(UTC) < timedelta(minutes=70)


async def test_units_of_a_shipment_that_was_called_off_are_freed_and_the_others_stay(parts: Parts) -> None:
    order_id, sku = await expired(parts.store, shipments=2)
    await write_down(
        parts.store,
        order_id,
        Carried(shipment=a_shipment(order_id, 1, state=ShipmentState.CANCELLED)),
    )
    assert await Sweeper(parts).expire() == 2
    assert await level(parts.store, sku) == (10, 2)


async def test_units_of_a_shipment_that_was_called_off_stay_with_an_order_that_is_planned_anew(
    parts: Parts, client: Client
) -> None:
    order_id, sku = await expired(parts.store)
    stopped = Carried(shipment=a_shipment(order_id, 1, state=ShipmentState.CANCELLED))
    await write_down(parts.store, order_id, stopped)
    await write_down(parts.store, order_id, carrying(order_id, OrderState.BACKORDERED, 9))
    handle = await client.start_workflow("NobodyRunsIt", id=order_workflow_id(order_id), task_queue=WORKFLOWS)
    try:
        assert await Sweeper(parts).expire() == 0
    finally:
        await handle.terminate()
    assert await level(parts.store, sku) == (10, 2)


async def test_units_for_a_shipment_that_a_reset_run_makes_anew_are_kept(parts: Parts) -> None:
    order_id = await accepted(parts.store, a_draft())
    # Called off before the reservation was made.
    await write_down(
        parts.store,
        order_id,
        Carried(shipment=a_shipment(order_id, 1, state=ShipmentState.CANCELLED)),
    )
    _, sku = await expired(parts.store, order_id=order_id)
    assert await Sweeper(parts).expire() == 0
    assert await level(parts.store, sku) == (10, 2)


async def test_a_parcel_under_way_keeps_its_units_though_its_order_has_ended(parts: Parts) -> None:
    order_id, sku = await expired(parts.store)
    await write_down(
        parts.store, order_id, Carried(shipment=a_shipment(order_id, 1, state=ShipmentState.PICKED))
    )
    await write_down(parts.store, order_id, carrying(order_id, OrderState.CANCELLED, 9))
    assert await Sweeper(parts).expire() == 0
    assert await level(parts.store, sku) == (10, 2)


async def test_goods_that_left_are_not_on_the_shelf_when_their_order_has_ended(parts: Parts) -> None:
    order_id, sku = await expired(parts.store)
    gone = a_shipment(order_id, 1, state=ShipmentState.DELIVERED, handed_over_at=NOON)
    await write_down(parts.store, order_id, Carried(shipment=gone))
    await write_down(parts.store, order_id, carrying(order_id, OrderState.CLOSED, 9))
    assert await Sweeper(parts).expire() == 0
    assert await level(parts.store, sku) == (8, 0)


async def test_what_was_shipped_does_not_expire_again_and_again(parts: Parts) -> None:
    order_id, _ = await expired(parts.store)
    async with parts.store.transaction() as session:
        await stock.consume(session, f"{order_id}:1")
    await Sweeper(parts).expire()
    assert await lasts_until(parts.store, order_id) is None


async def test_while_temporal_is_away_nothing_is_freed_and_the_question_comes_back(parts: Parts) -> None:
    order_id, sku = await expired(parts.store)
    away = Parts(settings=parts.settings, store=parts.store, runs=Runs(None), metrics=Metrics())
    with pytest.raises(NotReachable):
        await Sweeper(away).expire()
    assert await level(parts.store, sku) == (10, 2)
    until = await lasts_until(parts.store, order_id)
    assert until is not None
    assert until < datetime.now(UTC) + timedelta(minutes=6)


async def test_a_reservation_whose_time_is_not_up_is_left_alone(parts: Parts) -> None:
    order_id, sku = await expired(parts.store)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with parts.store.transaction() as session:
        await session.execute(
            text("UPDATE reservations SET expires_at = :tomorrow WHERE order_id = :order_id"),
            {"tomorrow": tomorrow, "order_id": order_id},
        )
    await write_down(parts.store, order_id, carrying(order_id, OrderState.CANCELLED, 9))
    assert await Sweeper(parts).expire() == 0
    assert await level(parts.store, sku) == (10, 2)
