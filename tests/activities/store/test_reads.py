from datetime import timedelta

import pytest

from activities.store import reads
from activities.store.intake import mark_started
from activities.store.reads import OrderFilters, ReviewFilters
from activities.store.store import Store
from models.errors import InvalidDocument, NotReachable
from models.journal import Carried, OrderProjection
from models.order import CustomerType
from models.review import ReviewKind
from models.states import OrderState, ReviewState
from tests.builders import a_draft, a_review, accept, accepted, carrying, write_down


async def test_pages_follow_each_other_newest_first_and_miss_nothing(store: Store) -> None:
    ids = [await accepted(store, a_draft(channel="paged")) for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        async with store.transaction() as session:
            page = await reads.orders(session, OrderFilters(channel="paged"), cursor, limit=3)
        seen += [order.order_id for order in page.orders]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == ids[::-1]


async def test_filters_narrow_the_list(store: Store) -> None:
    quiet = await accepted(store, a_draft(channel="narrow"))
    loud = await accepted(store, a_draft(channel="narrow"))
    projection = OrderProjection(
        version=1, state=OrderState.IN_REVIEW, needs_review=True, customer_type=CustomerType.B2B
    )
    await write_down(store, loud, Carried(order=projection))

    async def listed(**filters: object) -> list[str]:
        wanted = OrderFilters.model_validate({"channel": "narrow", **filters})
        async with store.transaction() as session:
            return [order.order_id for order in (await reads.orders(session, wanted)).orders]

    assert await listed(state="in_review") == [loud]
    assert await listed(needs_review=True) == [loud]
    assert await listed(needs_review=False) == [quiet]
    assert await listed(customer_type="b2b") == [loud]
    assert await listed(state="closed") == []


@pytest.mark.parametrize(
    "cursor", ["x", "bnVsbA==", "WzEsMl0=", "WyIyMDI2LTAxLTAxVDAwOjAwOjAwIiwgIngiXQ==", "é"]
)
async def test_a_made_up_cursor_is_refused(store: Store, cursor: str) -> None:
    async with store.transaction() as session:
        with pytest.raises(InvalidDocument, match="not a cursor"):
            await reads.orders(session, cursor=cursor)


async def test_an_unknown_order_is_none(store: Store) -> None:
    async with store.transaction() as session:
        assert await reads.order(session, "web:none") is None
        assert await reads.review(session, "web:none:r1") is None


async def test_reviews_are_listed_by_state_and_kind(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    open_one = a_review(order_id, 1)
    closed = a_review(order_id, 2, kind=ReviewKind.PLAN, state=ReviewState.EXPIRED)
    await write_down(store, order_id, Carried(reviews=(open_one, closed)))
    async with store.transaction() as session:
        assert (await reads.reviews(session, ReviewFilters(order_id=order_id))).reviews == (open_one,)
        every = await reads.reviews(session, ReviewFilters(order_id=order_id, state=None))
        assert every.reviews == (open_one, closed)
        plans = ReviewFilters(order_id=order_id, state=None, kind=ReviewKind.PLAN)
        assert (await reads.reviews(session, plans)).reviews == (closed,)


async def test_orders_without_an_owner_are_found(fresh_store: Store) -> None:
    never_started = await accepted(fresh_store, a_draft())
    asked_nobody = await accepted(fresh_store, a_draft())
    asked = await accepted(fresh_store, a_draft())
    closed = await accepted(fresh_store, a_draft())
    for order_id, state in (
        (asked_nobody, OrderState.NEEDS_OPERATOR),
        (asked, OrderState.IN_REVIEW),
        (closed, OrderState.CLOSED),
    ):
        await write_down(fresh_store, order_id, carrying(order_id, state, 1))
    await write_down(fresh_store, asked, Carried(reviews=(a_review(asked),)))
    async with fresh_store.transaction() as session:
        for order_id in (asked_nobody, asked, closed):
            await mark_started(session, order_id)

    async with fresh_store.transaction() as session:
        unowned = await reads.unowned_orders(session, timedelta(0))
        assert [order.order_id for order in unowned] == [never_started, asked_nobody]
        assert await reads.unowned_orders(session, timedelta(hours=1)) == []
        still_open = await reads.open_orders(session)
        assert [order.order_id for order in still_open] == [never_started, asked_nobody, asked]
        assert await reads.state_counts(session) == {
            OrderState.RECEIVED: 1,
            OrderState.NEEDS_OPERATOR: 1,
            OrderState.IN_REVIEW: 1,
            OrderState.CLOSED: 1,
        }
        assert await reads.state_counts(session, [closed]) == {OrderState.CLOSED: 1}


async def test_a_database_that_does_not_answer_says_so() -> None:
    nowhere = Store.at("postgresql+psycopg://postgres@/orderwright?host=/nowhere")
    with pytest.raises(NotReachable, match="PostgreSQL does not answer"):
        await nowhere.ping()
    with pytest.raises(NotReachable):
        await accept(nowhere, a_draft())
    await nowhere.close()
