"""Which runs there must be: of every open order, and of every shipment that was released."""

from datetime import timedelta

import pytest

from activities.store import broken
from activities.store.store import Store
from models.states import OrderState
from models.tables.orders import PlanRow
from tests.builders import NOON, a_draft, accepted, carrying, write_down


async def shipments_looked_for(store: Store, *states: OrderState) -> int:
    """How many of an order that went through ``states``, with a plan of one shipment that has written nothing."""
    order_id = await accepted(store, a_draft())
    async with store.transaction() as session:
        summary = {"shipments": [{"number": 1}]}
        session.add(
            PlanRow(
                plan_id=f"{order_id}/p1",
                order_id=order_id,
                attempt=1,
                plan={},
                summary=summary,
                created_at=NOON,
            )
        )
    for version, state in enumerate(states, start=1):
        await write_down(store, order_id, carrying(order_id, state, version, plan_id=f"{order_id}/p1"))
    async with store.transaction() as session:
        found = await broken.subjects(session, timedelta(0), {order_id})
    return sum(subject.shipment_id is not None for subject in found)


@pytest.mark.parametrize(
    "since",
    [
        [],
        [OrderState.IN_REVIEW],
        [OrderState.NEEDS_OPERATOR],
        [OrderState.AWAITING_CUSTOMER],
        [OrderState.CANCELLING],
        [OrderState.COMPENSATING],
        [OrderState.CANCELLING, OrderState.NEEDS_OPERATOR],
    ],
    ids=lambda states: "_".join(states) or "released",
)
async def test_a_released_shipment_is_looked_for_whatever_its_order_waits_for_since(
    store: Store, since: list[OrderState]
) -> None:
    assert await shipments_looked_for(store, OrderState.ROUTING, OrderState.RELEASED, *since) == 1


@pytest.mark.parametrize(
    "states",
    [
        [OrderState.ROUTING, OrderState.IN_REVIEW],
        [OrderState.RESERVING, OrderState.CANCELLING],
        [OrderState.RELEASED, OrderState.ROUTING],
        [OrderState.RELEASED, OrderState.ROUTING, OrderState.IN_REVIEW],
        [OrderState.RELEASED, OrderState.CANCELLING, OrderState.CANCELLED],
    ],
    ids="_".join,
)
async def test_a_shipment_that_is_not_released_yet_or_again_is_not_looked_for(
    store: Store, states: list[OrderState]
) -> None:
    assert await shipments_looked_for(store, *states) == 0
