"""What is known of carriers: the outcomes of parcels, added up, read now and then, and kept with each plan."""

from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from activities.routing import RoutingActivities
from activities.store import carriers
from activities.store.carriers import CarrierExperience, leg_records
from activities.store.plans import decision
from activities.store.store import Store
from models.effects import RouteOrder
from models.journal import Carried
from models.states import ShipmentState
from policies.routing.carriers import LegRecord
from policies.routing.exact import ExactRouter
from policies.routing.questions import differences
from policies.routing.terms import terms_of
from tests.activities.running import run
from tests.builders import NOON, a_draft, a_shipment, accepted, skus_of, stocked, write_down

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
_numbers = count(1)


async def delivered(
    session: AsyncSession, times: int, late_by: timedelta = timedelta(hours=-1), node: str = "north"
) -> None:
    """Parcels that were promised for noon and on their way for a day and a half."""
    await session.execute(
        text(
            """
            INSERT INTO outcomes (outcome_id, order_id, kind, promised_at, actual_at, decision, details, known_at)
            SELECT 'seen-' || :first + number, 'web:seen', 'shipment', :promised, :actual, 'delivered',
                   jsonb_build_object('node', CAST(:node AS text), 'carrier', 'islandpost', 'service', 'tracked48',
                                      'handed_over_at', CAST(:handed_over AS text)), now()
              FROM generate_series(1, :times) AS number
            """
        ),
        {
            "first": next(_numbers) * 10_000,
            "times": times,
            "node": node,
            "promised": NOON,
            "actual": NOON + late_by,
            "handed_over": (NOON + late_by - timedelta(days=1.5)).isoformat(),
        },
    )


async def test_parcels_are_added_up_by_leg_with_the_days_begun_that_they_were_late(
    fresh_store: Store,
) -> None:
    async with fresh_store.transaction() as session:
        assert await leg_records(session, LONG_AGO) == []
        await delivered(session, 3)
        await delivered(session, 1, timedelta(0))  # at the very moment is in time
        await delivered(session, 2, timedelta(seconds=1))
        await delivered(session, 1, timedelta(days=2, hours=1))
        await delivered(session, 4, node="south")
        found = await leg_records(session, LONG_AGO)
        assert found == [
            LegRecord(
                node="north",
                carrier="islandpost",
                service="tracked48",
                parcels=7,
                late=3,
                days_late=5,
                handed_over=7,
                transit_days=10.5,
            ),
            LegRecord(
                node="south",
                carrier="islandpost",
                service="tracked48",
                parcels=4,
                late=0,
                days_late=0,
                handed_over=4,
                transit_days=6.0,
            ),
        ]
        assert await leg_records(session, datetime.now(UTC) + timedelta(days=1)) == []


async def test_what_shipments_leave_behind_is_what_is_counted(fresh_store: Store) -> None:
    order_id = await accepted(fresh_store, a_draft())
    promised = NOON + timedelta(days=3)
    ends = (
        (1, ShipmentState.DELIVERED, promised + timedelta(hours=30), promised - timedelta(days=1)),
        (2, ShipmentState.DELIVERED, promised, None),  # nobody scanned it when it was handed over
        (3, ShipmentState.LOST, None, promised - timedelta(days=1)),
        (4, ShipmentState.CANCELLED, None, None),
    )
    for number, state, at, handed_over in ends:
        shipment = a_shipment(
            order_id, number, state=state, version=9, delivered_at=at, handed_over_at=handed_over
        )
        await write_down(fresh_store, order_id, Carried(shipment=shipment))
    async with fresh_store.transaction() as session:
        (record,) = await leg_records(session, LONG_AGO)
    assert (record.node, record.carrier, record.service) == ("north", "islandpost", "tracked48")
    assert (record.parcels, record.late, record.days_late) == (2, 1, 2)
    assert record.handed_over == 1
    assert record.transit_days == pytest.approx(2.25)


async def test_it_is_read_again_after_a_while_and_not_for_each_order(fresh_store: Store) -> None:
    now = [1_000.0]
    experience = CarrierExperience(fresh_store, clock=lambda: now[0])
    assert (await experience.model()).parcels == 0
    async with fresh_store.transaction() as session:
        await delivered(session, 5)
    now[0] += 599
    assert (await experience.model()).parcels == 0
    now[0] += 1
    assert (await experience.model()).parcels == 5


async def test_a_store_that_does_not_answer_is_asked_again_and_meanwhile_the_model_before_holds(
    fresh_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> list[LegRecord]:
        raise ConnectionError("gone")

    now = [1_000.0]
    experience = CarrierExperience(fresh_store, clock=lambda: now[0])
    with monkeypatch.context() as broken:
        broken.setattr(carriers, "leg_records", gone)
        with pytest.raises(ConnectionError):
            await experience.model()
    known = await experience.model()
    now[0] += 601
    with monkeypatch.context() as broken:
        broken.setattr(carriers, "leg_records", gone)
        with pytest.raises(ConnectionError):
            await experience.model()
    assert await experience.model() is known


async def test_an_order_is_routed_by_what_carriers_did_and_again_by_what_they_had_done_then(
    fresh_store: Store,
) -> None:
    draft = a_draft(quantity=1)
    order_id = await accepted(fresh_store, draft)
    (sku,) = skus_of(draft)
    await stocked(fresh_store, north={sku: 5}, south={sku: 5})
    async with fresh_store.transaction() as session:
        await delivered(session, 200, timedelta(hours=5))
        await delivered(session, 400, node="south")
    routing = RoutingActivities(fresh_store, ExactRouter())
    answer = await run(routing.route_order, RouteOrder(order_id=order_id, attempt=1, business_now=NOON))
    assert answer.plan is not None, answer.unfillable
    # Both cost the same, and of two equals it would be the first.
    assert [one.node for one in answer.plan.shipments] == ["south"]
    async with fresh_store.transaction() as session:
        made = await decision(session, order_id)
        await delivered(session, 5_000, timedelta(days=3), node="south")
    assert made.problem is not None
    assert made.problem.carriers is not None
    assert made.problem.carriers.parcels == 600
    assert made.plan.late_risk is not None
    assert "risk of being late" in {term.term for term in terms_of(made.plan)}
    assert differences(made.plan, made.problem) == []


async def test_a_new_shop_takes_carriers_at_their_word_and_says_so(fresh_store: Store) -> None:
    draft = a_draft(quantity=1)
    order_id = await accepted(fresh_store, draft)
    (sku,) = skus_of(draft)
    await stocked(fresh_store, north={sku: 5})
    routing = RoutingActivities(fresh_store, ExactRouter())
    await run(routing.route_order, RouteOrder(order_id=order_id, attempt=1, business_now=NOON))
    async with fresh_store.transaction() as session:
        made = await decision(session, order_id)
    assert made.plan.late_risk is None
    assert "carriers are taken at their word until 100 parcels were delivered (0 so far)" in made.plan.reasons
