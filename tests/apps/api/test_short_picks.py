"""A short pick that the warehouse reports by itself: stock promises no units that the picker could not find."""

import asyncio
from typing import Any

import httpx
from sqlalchemy import text
from temporalio.client import Client
from temporalio.worker import Worker

from activities.store.lost import untold_losses
from activities.store.short_picks import correct_stock
from activities.store.store import Store
from models.messages import WmsEvent
from models.webhooks import WebhookEnvelope
from tests.activities.store.test_stock import a_sku, differences, level
from tests.activities.store.test_warehouse import promised
from tests.apps.api.builders import new_number
from tests.apps.api.test_orders import heard, submitted
from tests.apps.api.test_webhooks import a_pick, post
from tests.builders import stocked


async def a_shipment(api: httpx.AsyncClient, client: Client, store: Store, sku: str) -> str:
    """Of an order that runs: three of ten units at north are promised to it."""
    order_id = await submitted(api)
    await stocked(store, north={sku: 10})
    await promised(store, sku, 3, days=9, order_id=order_id)
    await client.start_workflow(
        "ShipmentWorkflow", {}, id=f"shipment:{order_id}:1", task_queue="oms-workflows"
    )
    return f"{order_id}:1"


def short(shipment_id: str, *missing: tuple[str, int], event_id: str | None = None) -> dict[str, Any]:
    envelope = a_pick(shipment_id, event_id or f"short-{new_number()}")
    lines = [{"sku": sku, "quantity": units} for sku, units in missing]
    return envelope | {"event": envelope["event"] | {"kind": "short", "missing": lines}}


async def entries(store: Store, shipment_id: str, kind: str) -> list[dict[str, Any]]:
    statement = "SELECT what, why, actor FROM timeline WHERE shipment_id = :id AND kind = :kind"
    async with store.transaction() as session:
        found = await session.execute(text(statement), {"id": shipment_id, "kind": kind})
        return [dict(row) for row in found.mappings()]


async def test_what_the_picker_did_not_find_is_promised_to_nobody_any_more(
    api: httpx.AsyncClient, client: Client, worker: Worker, store: Store
) -> None:
    sku = a_sku()
    shipment_id = await a_shipment(api, client, store, sku)
    assert (await post(api, "warehouse", short(shipment_id, (sku, 2)))).json()["status"] == "delivered"
    assert await level(store, sku) == (8, 1)
    assert await differences(store, sku) == []
    # The shipment's run hears of it as ever, and the order's is owed word that it has to be planned anew.
    ((name, event),) = (await heard(client, f"shipment:{shipment_id}")).messages
    assert (name, event["kind"], event["missing"]) == ("wms_event", "short", [{"sku": sku, "quantity": 2}])
    async with store.transaction() as session:
        losses = [loss for loss in await untold_losses(session, 1_000) if shipment_id in loss.shipments]
        told = await session.scalar(
            text("SELECT count(*) FROM stock_released WHERE shipment_id = :id"), {"id": shipment_id}
        )
    assert told == 1
    assert all(loss.order_id == shipment_id.rpartition(":")[0] for loss in losses)
    [lost] = await entries(store, shipment_id, "stock.lost")
    assert (lost["what"], lost["actor"]) == (f"2 of {sku} reserved at north are not there", "warehouse")


async def test_an_event_corrects_stock_once_however_often_and_by_whichever_way_it_comes(
    api: httpx.AsyncClient, client: Client, worker: Worker, store: Store
) -> None:
    sku = a_sku()
    shipment_id = await a_shipment(api, client, store, sku)
    envelope = short(shipment_id, (sku, 1), (sku, 1))
    answers = await asyncio.gather(*(post(api, "warehouse", envelope) for _ in range(4)))
    assert {answer.status_code for answer in answers} == {200}
    # As the run finds it when it looks its pick up at the warehouse.
    event = WmsEvent.model_validate(envelope["event"])
    await correct_stock(store, shipment_id, event)
    assert await level(store, sku) == (8, 1)
    # Another event is another loss.
    await post(api, "warehouse", short(shipment_id, (sku, 1)))
    assert await level(store, sku) == (7, 0)


async def test_a_short_pick_that_says_no_units_changes_no_stock(
    api: httpx.AsyncClient, client: Client, worker: Worker, store: Store
) -> None:
    sku = a_sku()
    shipment_id = await a_shipment(api, client, store, sku)
    assert (await post(api, "warehouse", short(shipment_id))).status_code == 200
    picked = a_pick(shipment_id, f"picked-{new_number()}")
    picked["event"]["missing"] = [{"sku": sku, "quantity": 1}]
    assert (await post(api, "warehouse", picked)).status_code == 200
    assert await level(store, sku) == (10, 3)


async def test_what_cannot_be_corrected_is_on_the_timeline_and_the_run_hears_of_the_pick(
    api: httpx.AsyncClient, client: Client, worker: Worker, store: Store
) -> None:
    sku = a_sku()
    shipment_id = await a_shipment(api, client, store, sku)
    envelope = short(shipment_id, ("not-in-it", 1))
    for _ in range(2):
        assert (await post(api, "warehouse", envelope)).status_code == 200
    assert await level(store, sku) == (10, 3)
    [entry] = await entries(store, shipment_id, "stock.uncorrected")
    assert "not-in-it was not reserved" in entry["why"]
    assert len((await heard(client, f"shipment:{shipment_id}")).messages) == 1


async def test_an_event_without_missing_units_is_the_event_that_it_was_before_there_were_any() -> None:
    without = a_pick("web:1:1")
    none_missing = without | {"event": without["event"] | {"missing": []}}
    told = [WebhookEnvelope.model_validate(envelope) for envelope in (without, none_missing)]
    more = WebhookEnvelope.model_validate(short("web:1:1", ("A", 1), event_id="pick-1"))
    assert told[0].fingerprint == told[1].fingerprint
    # As the version before this field made it of the same event.
    assert told[0].fingerprint == "147536201ded2347de0b0188f8dccaa68b2e1727266fc90c1f5c0235e80f7b10"
    assert more.fingerprint != told[0].fingerprint
