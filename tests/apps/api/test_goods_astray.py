"""Parcels that left although they were called off, or arrived although they were paid back: people are told, once."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from activities.store import astray as parcels
from activities.store import operations, reads
from activities.store.astray import Astray
from activities.store.late import keep_late_event
from activities.store.operations import PaymentOperation
from activities.store.store import Store
from apps.api import invariants
from apps.api.broken_runs import Finding, Trouble
from apps.api.invariants import Invariants
from apps.api.metrics import Metrics
from apps.api.parts import Parts
from apps.api.sweeper import Sweeper
from models.identifiers import shipment_workflow_id
from models.journal import Carried
from models.messages import CarrierEvent, CarrierEventKind
from models.operations import OperationState, PaymentKind
from models.review import ReviewKind, ReviewTask, Verdict
from models.states import OrderState, ReviewState, ShipmentState
from models.webhooks import WebhookKind
from tests.apps.api.test_questions import Said, an_order
from tests.builders import NOON, a_shipment, an_entry, carrying, gbp, write_down
from workers.settings import Settings

TRACKING = "T-1"


@pytest.fixture
def job(store: Store) -> Invariants:
    return Invariants(store, Said())


async def a_parcel(store: Store, state: ShipmentState, *, refunded: bool = False, **changes: Any) -> str:
    """An order that has ended, with a labelled parcel in ``state``; answers its id."""
    order_id = await an_order(store, OrderState.SHIPPED)
    if refunded:
        await paid_back(store, order_id)
    parcel = a_shipment(order_id, version=9, state=state, tracking=TRACKING, **changes)
    await write_down(store, order_id, Carried(shipment=parcel))
    await write_down(store, order_id, carrying(order_id, OrderState.CLOSED, 6))
    return order_id


async def paid_back(store: Store, order_id: str) -> None:
    """13.95 GBP were taken for the parcel and given back."""
    moved = ((PaymentKind.AUTHORISE, None), (PaymentKind.CAPTURE, "a"), (PaymentKind.REFUND, "c"))
    for (kind, parent), ref in zip(moved, "acr", strict=True):
        operation = PaymentOperation(
            key=f"{order_id}-{ref}",
            order_id=order_id,
            shipment_id=f"{order_id}:1",
            kind=kind,
            amount=gbp(1395),
            parent=parent and f"{order_id}-{parent}",
            cause="lost_parcel" if kind is PaymentKind.REFUND else None,
        )
        async with store.transaction() as session:
            await operations.intend(session, operation)
            confirmed, own_ref = OperationState.CONFIRMED, f"{order_id}-{ref}"
            await operations.answer(session, operation, state=confirmed, content={}, provider_ref=own_ref)


async def scanned(
    store: Store, order_id: str, kind: CarrierEventKind, event_id: str = "s-1", tracking: str = TRACKING
) -> None:
    """The carrier reports what no run hears any more."""
    event = CarrierEvent(event_id=event_id, kind=kind, occurred_at=NOON, tracking=tracking)
    async with store.transaction() as session:
        await keep_late_event(
            session,
            workflow_id=shipment_workflow_id(f"{order_id}:1"),
            order_id=order_id,
            event_id=event_id,
            kind=WebhookKind.CARRIER_EVENT,
            event=event,
        )


async def found(job: Invariants, order_id: str) -> Finding | None:
    """What a look at everything says of this order's parcel."""
    findings = (await job.round()).findings
    return next((finding for finding in findings if finding.order_id == order_id), None)


async def task_of(store: Store, finding: Finding | None) -> ReviewTask:
    assert finding is not None and finding.task_id is not None
    async with store.transaction() as session:
        task = await reads.review(session, finding.task_id)
    assert task is not None
    return task


@pytest.mark.parametrize("kind", ["collected", "in_transit", "out_for_delivery", "delivered"])
async def test_a_cancelled_parcel_that_the_carrier_has_is_put_before_a_person(
    store: Store, job: Invariants, kind: CarrierEventKind
) -> None:
    order_id = await a_parcel(store, ShipmentState.CANCELLED)
    await scanned(store, order_id, CarrierEventKind(kind))
    task = await task_of(store, await found(job, order_id))
    assert (task.kind, task.state) == (ReviewKind.RUN_BROKEN, ReviewState.OPEN)
    assert task.why_flagged[0].code == Trouble.LEFT_THOUGH_CANCELLED
    assert f"reports {kind}: 2 units worth 13.95 GBP from north, tracking T-1" in task.why_flagged[0].reason
    assert "no money held, none taken" in task.what_happened
    assert "corrects its stock" in task.recommendation


async def test_a_scan_that_the_run_of_a_cancelled_parcel_noted_is_put_before_a_person(
    store: Store, job: Invariants
) -> None:
    order_id = await a_parcel(store, ShipmentState.CANCELLED)
    noted = an_entry(
        order_id,
        7,
        shipment_id=f"{order_id}:1",
        kind="carrier.unexpected",
        what="collected came when the shipment was cancelled",
    )
    await write_down(store, order_id, Carried(entries=(noted,)))
    task = await task_of(store, await found(job, order_id))
    assert "reports collected" in task.why_flagged[0].reason


@pytest.mark.parametrize("late", [True, False])
async def test_a_parcel_that_arrives_after_it_was_paid_back_is_put_before_a_person(
    store: Store, job: Invariants, late: bool
) -> None:
    order_id = await a_parcel(store, ShipmentState.LOST, refunded=True, delivered_at=None if late else NOON)
    if late:
        await scanned(store, order_id, CarrierEventKind.DELIVERED)
    task = await task_of(store, await found(job, order_id))
    assert task.why_flagged[0].code == Trouble.ARRIVED_THOUGH_PAID_BACK
    assert "13.95 GBP taken, 13.95 GBP given back" in task.what_happened


async def test_what_is_as_it_should_be_is_put_before_nobody(store: Store, job: Invariants) -> None:
    delivered = await a_parcel(store, ShipmentState.DELIVERED)
    await scanned(store, delivered, CarrierEventKind.DELIVERED)
    another = await a_parcel(store, ShipmentState.CANCELLED)
    await scanned(store, another, CarrierEventKind.COLLECTED, tracking="another-parcel")
    unscanned = await a_parcel(store, ShipmentState.CANCELLED)
    await scanned(store, unscanned, CarrierEventKind.EXCEPTION)
    still_lost = await a_parcel(store, ShipmentState.LOST, refunded=True)
    await scanned(store, still_lost, CarrierEventKind.IN_TRANSIT)
    in_pieces = await a_parcel(store, ShipmentState.LOST, refunded=True, delivered_at=NOON)
    damaged = an_entry(in_pieces, 7, shipment_id=f"{in_pieces}:1", kind="carrier.damaged")
    await write_down(store, in_pieces, Carried(entries=(damaged,)))
    about = {finding.order_id for finding in (await job.round()).findings}
    assert not about & {delivered, another, unscanned, still_lost, in_pieces}


async def test_there_is_one_task_per_parcel_and_it_stays_until_somebody_answers(
    store: Store, job: Invariants
) -> None:
    order_id = await a_parcel(store, ShipmentState.CANCELLED)
    await scanned(store, order_id, CarrierEventKind.COLLECTED)
    first = await found(job, order_id)
    assert first is not None
    # The API reads all of them seldom: in between the task is neither healed nor forgotten.
    assert first in (await job.round({order_id})).findings
    await scanned(store, order_id, CarrierEventKind.DELIVERED, event_id="s-2")
    assert "reports collected:" in (await task_of(store, first)).why_flagged[0].reason
    again = await found(Invariants(store, Said()), order_id)
    assert again is not None and again.task_id == first.task_id
    assert "reports collected, delivered:" in (await task_of(store, again)).why_flagged[0].reason


async def test_the_api_counts_parcels_astray_apart_from_broken_runs(store: Store, settings: Settings) -> None:
    order_id = await a_parcel(store, ShipmentState.CANCELLED)
    await scanned(store, order_id, CarrierEventKind.COLLECTED)
    metrics = Metrics()
    parts = Parts(settings=settings, store=store, runs=Said(), metrics=metrics)
    counted = await Sweeper(parts).prove()
    metric = {sample.name: sample.value for family in metrics.registry.collect() for sample in family.samples}
    assert metric["orderwright_parcels_astray"] >= 1
    assert metric["orderwright_broken_runs"] + metric["orderwright_parcels_astray"] == counted


@pytest.mark.parametrize("verdict", [Verdict.APPROVE, Verdict.REJECT])
async def test_an_answer_closes_the_task_for_good_and_starts_nothing(
    store: Store, job: Invariants, verdict: Verdict
) -> None:
    order_id = await a_parcel(store, ShipmentState.CANCELLED)
    await scanned(store, order_id, CarrierEventKind.COLLECTED)
    task = await task_of(store, await found(job, order_id))
    answered = await job.decide(
        task.task_id, verdict, actor="dana", reason="the carrier brings it back", request_id="d"
    )
    assert "no run is started" in answered
    async with store.transaction() as session:
        closed, order = await reads.review(session, task.task_id), await reads.order(session, order_id)
    assert closed is not None and order is not None
    assert (closed.state, closed.verdict, closed.reason) == (
        ReviewState.DECIDED,
        verdict,
        "the carrier brings it back",
    )
    assert (order.state, order.needs_review) == (OrderState.CLOSED, False)
    await scanned(store, order_id, CarrierEventKind.DELIVERED, event_id="s-2")
    assert await found(job, order_id) is None


WHEN = {"late_events": "received_at", "shipments": "updated_at", "payment_operations": "answered_at"}


async def long_ago(store: Store, order_id: str, *, but: str = "") -> None:
    """All that came of this order's parcel came ten days ago, ``but`` for what one table says."""
    async with store.transaction() as session:
        for table, moment in WHEN.items():
            if table != but:
                await session.execute(
                    text(f"UPDATE {table} SET {moment} = now() - interval '10 days' WHERE order_id = :id"),
                    {"id": order_id},
                )


async def test_the_api_asks_only_for_what_came_lately_and_everything_is_read_when_everything_is_asked_for(
    store: Store, job: Invariants
) -> None:
    old, new = [await a_parcel(store, ShipmentState.CANCELLED) for _ in range(2)]
    for order_id in (old, new):
        await scanned(store, order_id, CarrierEventKind.COLLECTED)
        await long_ago(store, order_id)
    await scanned(store, new, CarrierEventKind.DELIVERED, event_id="s-2")
    lately = {finding.order_id: finding for finding in (await job.round(set())).findings}
    assert old not in lately
    assert "reports collected, delivered:" in lately[new].why, "what came before is told with what is new"
    assert await found(job, old) is not None


@pytest.mark.parametrize("table", ["shipments", "payment_operations", ""])
async def test_a_parcel_that_arrived_and_was_paid_back_is_found_lately_whichever_came_last(
    store: Store, job: Invariants, table: str
) -> None:
    order_id = await a_parcel(store, ShipmentState.LOST, refunded=True, delivered_at=NOON)
    await long_ago(store, order_id, but=table)
    lately = {finding.order_id for finding in (await job.round(set())).findings}
    assert (order_id in lately) is bool(table)


async def test_a_parcel_that_is_cancelled_long_after_it_left_is_found_lately(
    store: Store, job: Invariants
) -> None:
    """Its run was gone meanwhile, and nobody heard the scan; then it was closed by hand."""
    order_id = await a_parcel(store, ShipmentState.CANCELLED)
    await scanned(store, order_id, CarrierEventKind.COLLECTED)
    await long_ago(store, order_id, but="shipments")
    assert order_id in {finding.order_id for finding in (await job.round(set())).findings}


async def test_what_the_run_of_a_cancelled_parcel_noted_lately_is_found_lately(
    store: Store, job: Invariants
) -> None:
    order_id = await a_parcel(store, ShipmentState.CANCELLED)
    await long_ago(store, order_id)
    noted = an_entry(
        order_id,
        7,
        shipment_id=f"{order_id}:1",
        kind="carrier.unexpected",
        what="collected came when the shipment was cancelled",
    )
    await write_down(store, order_id, Carried(entries=(noted,)))
    assert order_id in {finding.order_id for finding in (await job.round(set())).findings}


async def test_a_parcel_is_found_among_however_much_came_lately(
    store: Store, job: Invariants, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = await a_parcel(store, ShipmentState.CANCELLED)
    await scanned(store, order_id, CarrierEventKind.COLLECTED)

    async def very_much(*_given: object) -> set[str]:
        return {f"{order_id}:{number}" for number in range(70_000)}

    monkeypatch.setattr(parcels, "_heard_of", very_much)
    assert order_id in {finding.order_id for finding in (await job.round(set())).findings}


async def test_a_look_for_parcels_that_fails_hides_nothing_else_and_is_not_tried_in_every_round(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []

    async def failing(*_given: object, **_named: object) -> list[Astray]:
        looked.append(1)
        raise RuntimeError

    monkeypatch.setattr(invariants, "astray", failing)
    order_id = await an_order(store)
    runs = Said()
    runs.timer = False
    job = Invariants(store, runs)
    with capture_logs() as lines:
        for _ in range(2):
            findings = (await job.round({order_id})).findings
            assert order_id in {finding.order_id for finding in findings}
    assert [line["event"] for line in lines].count("parcels_not_looked_for") == len(looked) == 1


async def test_a_look_for_parcels_that_takes_too_long_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(*_given: object, **_named: object) -> list[Astray]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(invariants, "astray", endless)
    monkeypatch.setattr(invariants, "_ASTRAY_WITHIN", timedelta(0))
    with capture_logs() as lines:
        await Invariants(store, Said()).round(set())
    assert "parcels_not_looked_for" in [line["event"] for line in lines]
