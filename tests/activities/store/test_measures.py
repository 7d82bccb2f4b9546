from datetime import UTC, datetime, timedelta
from typing import Any

from activities.store.measures import UNCLEAR_AFTER, measures
from activities.store.operations import PaymentOperation, intend
from activities.store.store import Store
from models.money import Money
from models.operations import PaymentKind, ShippingKind
from models.review import ReviewKind
from models.states import OrderState, ReviewState
from models.tables.journal import ReviewTaskRow
from models.tables.operations import PaymentOperationRow, ShippingOperationRow
from models.tables.orders import OrderRow
from tests.builders import a_draft, accepted

LONG_AGO = datetime.now(UTC) - timedelta(hours=2)


def a_review(task_id: str, **columns: Any) -> ReviewTaskRow:
    given: dict[str, Any] = {
        "kind": ReviewKind.RISK,
        "state": ReviewState.OPEN,
        "opened_at": LONG_AGO,
    } | columns
    return ReviewTaskRow(task_id=task_id, order_id="web:1", workflow_id="order:web:1", task={}, **given)


async def test_an_empty_store_counts_nothing(fresh_store: Store) -> None:
    async with fresh_store.transaction() as session:
        found = await measures(session)
    assert not (found.reviews or found.effects_unclear or found.orders or found.shipments)
    assert (found.reviews_overdue, found.never_started.count, found.late_events) == (0, 0, 0)


async def test_open_reviews_are_counted_by_kind_with_the_age_of_the_oldest(fresh_store: Store) -> None:
    async with fresh_store.transaction() as session:
        session.add(a_review("a", opened_at=datetime.now(UTC)))
        session.add(a_review("b", deadline_at=LONG_AGO))
        session.add(a_review("c", state=ReviewState.DECIDED, deadline_at=LONG_AGO))
    async with fresh_store.transaction() as session:
        found = await measures(session)
    assert set(found.reviews) == {ReviewKind.RISK}
    assert found.reviews[ReviewKind.RISK].count == 2
    assert found.reviews[ReviewKind.RISK].oldest_seconds >= 7200
    assert found.reviews_overdue == 1


async def test_an_effect_is_unclear_once_its_answer_is_overdue(fresh_store: Store) -> None:
    pence = Money(minor=100, currency="GBP")
    ended = await accepted(fresh_store, a_draft())
    async with fresh_store.transaction() as session:
        for key in ("just-now", "long-ago"):
            await intend(
                session,
                PaymentOperation(key=key, order_id="web:1", kind=PaymentKind.AUTHORISE, amount=pence),
            )
        row = await session.get(PaymentOperationRow, "long-ago")
        assert row is not None
        row.intended_at = datetime.now(UTC) - 2 * UNCLEAR_AFTER
        order = await session.get(OrderRow, ended)
        assert order is not None
        order.state = OrderState.CANCELLED
        # Nobody waits for these any more.
        for key, kind, order_id in (
            ("recall", ShippingKind.INTERCEPT, "web:1"),
            ("pick", ShippingKind.CANCEL_PICK, ended),
        ):
            session.add(
                ShippingOperationRow(key=key, order_id=order_id, kind=kind, intended_at=row.intended_at)
            )
    async with fresh_store.transaction() as session:
        unclear = (await measures(session)).effects_unclear
    assert set(unclear) == {"authorise"}
    assert unclear["authorise"].count == 1
    assert unclear["authorise"].oldest_seconds >= UNCLEAR_AFTER.total_seconds()


async def test_orders_that_await_their_customer_are_counted_with_the_age_of_the_oldest(
    fresh_store: Store,
) -> None:
    ages = (timedelta(hours=1), timedelta(hours=5))
    for age in ages:
        order_id = await accepted(fresh_store, a_draft())
        async with fresh_store.transaction() as session:
            row = await session.get(OrderRow, order_id)
            assert row is not None
            row.state, row.updated_at = OrderState.AWAITING_CUSTOMER, datetime.now(UTC) - age
    await accepted(fresh_store, a_draft())
    async with fresh_store.transaction() as session:
        found = (await measures(session)).awaiting_customer
    assert found.count == 2
    assert 5 * 3600 <= found.oldest_seconds < 5 * 3600 + 60
