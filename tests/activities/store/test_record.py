from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlmodel import col

from activities.store import reads
from activities.store.store import Store
from activities.store.views import OrderView
from models.journal import Carried, OrderProjection
from models.order import CustomerType
from models.review import Verdict
from models.states import OrderState, ReviewState, ShipmentState
from models.tables.journal import OutcomeRow
from tests.builders import (
    NOON,
    a_draft,
    a_review,
    a_shipment,
    accepted,
    an_entry,
    carrying,
    write_down,
)


async def order_of(store: Store, order_id: str) -> OrderView:
    async with store.transaction() as session:
        order = await reads.order(session, order_id)
    assert order is not None
    return order


async def outcomes_of(store: Store, order_id: str) -> list[OutcomeRow]:
    async with store.transaction() as session:
        rows = await session.scalars(
            select(OutcomeRow)
            .where(col(OutcomeRow.order_id) == order_id)
            .order_by(col(OutcomeRow.known_at), col(OutcomeRow.outcome_id))
        )
        return list(rows)


async def test_writing_the_same_twice_changes_nothing(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    carried = carrying(order_id, OrderState.VALIDATING, 1)
    await write_down(store, order_id, carried)
    await write_down(store, order_id, carried)
    async with store.transaction() as session:
        assert [entry.entry_id for entry in await reads.timeline(session, order_id)] == [
            f"order:{order_id}/1"
        ]


async def test_a_late_writer_with_an_older_version_changes_nothing(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    await write_down(store, order_id, carrying(order_id, OrderState.ROUTING, 5))
    await write_down(store, order_id, carrying(order_id, OrderState.ASSESSING, 3))
    order = await order_of(store, order_id)
    assert (order.state, order.version) == (OrderState.ROUTING, 5)


async def test_a_projection_that_does_not_know_the_customer_type_keeps_it(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    known = OrderProjection(version=1, state=OrderState.ASSESSING, customer_type=CustomerType.B2B)
    await write_down(store, order_id, Carried(order=known))
    await write_down(store, order_id, carrying(order_id, OrderState.ROUTING, 2))
    assert (await order_of(store, order_id)).customer_type is CustomerType.B2B


async def test_the_timeline_keeps_everything_it_was_told_in_order(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    first = an_entry(
        order_id, 1, actor="ann", why="known", policy_version="risk-1", details={"score": 0.5, "n": 2}
    )
    await write_down(store, order_id, Carried(entries=(first, an_entry(order_id, 2))))
    async with store.transaction() as session:
        found = await reads.timeline(session, order_id)
    assert found[0].model_dump(exclude={"position"}) == first.model_dump()
    assert [entry.entry_id[-1] for entry in found] == ["1", "2"]


async def test_a_decided_review_is_never_opened_again(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    task = a_review(order_id)
    decided = task.model_copy(
        update={
            "state": ReviewState.DECIDED,
            "verdict": Verdict.APPROVE,
            "decided_by": "ann",
            "decided_at": NOON,
        }
    )
    for version in (task, decided, task.model_copy(update={"reminders": 9})):
        await write_down(store, order_id, Carried(reviews=(version,)))
    async with store.transaction() as session:
        assert await reads.review(session, task.task_id) == decided


async def test_a_late_copy_of_an_open_review_does_not_take_back_its_reminders(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    task = a_review(order_id)
    reminded = task.model_copy(update={"reminders": 2})
    await write_down(store, order_id, Carried(reviews=(reminded,)))
    await write_down(store, order_id, Carried(reviews=(task,)))
    async with store.transaction() as session:
        assert await reads.review(session, task.task_id) == reminded


async def test_a_shipment_moves_forward_only_and_leaves_one_outcome_per_ending(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    lost = a_shipment(order_id, version=4, state=ShipmentState.LOST, handed_over_at=NOON)
    found_again = lost.model_copy(
        update={
            "version": 5,
            "state": ShipmentState.DELIVERED,
            "delivered_at": NOON + timedelta(days=9),
            "late": True,
        }
    )
    for projection in (a_shipment(order_id), lost, lost, found_again, lost):
        await write_down(store, order_id, Carried(shipment=projection))

    shipment = (await order_of(store, order_id)).shipments[0]
    assert (shipment.state, shipment.version) == (ShipmentState.DELIVERED, 5)
    outcomes = await outcomes_of(store, order_id)
    assert [outcome.decision for outcome in outcomes] == ["lost", "delivered"]
    assert outcomes[1].actual_at == NOON + timedelta(days=9)
    assert outcomes[1].promised_at == shipment.promised_at
    assert outcomes[1].details["late"] is True


async def test_a_broken_transaction_leaves_no_trace(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    carried = Carried(
        entries=(an_entry(order_id),), shipment=a_shipment(order_id, amount=a_shipment(order_id).amount * -1)
    )
    with pytest.raises(Exception, match="not_negative"):
        await write_down(store, order_id, carried)
    async with store.transaction() as session:
        assert await reads.timeline(session, order_id) == []
