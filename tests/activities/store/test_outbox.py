"""Events are written with what they tell of, and put into one order that no reader can miss anything of."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from activities.store import operations, outbox, stock, subscribers
from activities.store.operations import PaymentOperation, ShippingOperation
from activities.store.stock import Wanted, release
from activities.store.store import Store
from models.errors import NotFound, Refused
from models.identifiers import order_workflow_id
from models.journal import Carried
from models.operations import OperationState, PaymentKind, ShippingKind
from models.outbox import OutboxEvent, Topic
from models.states import OrderState, ShipmentState
from tests.builders import (
    NOON,
    a_draft,
    a_shipment,
    accept,
    carrying,
    gbp,
    order_id_of,
    stocked,
    write_down,
)


async def subscribed(store: Store, *topics: Topic, subscriber_id: str = "erp") -> None:
    async with store.transaction() as session:
        await subscribers.add(
            session,
            subscriber_id=subscriber_id,
            name="ERP",
            url="http://127.0.0.1:9/events",
            topics=topics,
            secret="s" * 40,
        )


async def sequenced(store: Store) -> list[OutboxEvent]:
    """Every event that is in the feed when all that was committed is there."""
    async with store.transaction() as session:
        while await outbox.sequence(session):
            pass
    async with store.transaction() as session:
        return await outbox.feed(session, list(Topic), 0, upto=await outbox.head(session), most=10_000)


def told(events: list[OutboxEvent]) -> list[tuple[str, str]]:
    return [(event.key, event.type) for event in events]


async def run(store: Store, statement: str, **values: Any) -> None:
    async with store.transaction() as session:
        await session.execute(text(statement), values)


@asynccontextmanager
async def left_open(store: Store, statement: str, **values: Any) -> AsyncIterator[AsyncSession]:
    """A transaction that has written and is committed at the end of the block."""
    async with store.transaction() as session:
        await session.execute(text(statement), values)
        yield session


TAKE = "UPDATE stock SET reserved = reserved + 1 WHERE sku = :sku"


async def test_nothing_is_written_while_nobody_wants_to_know(fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 5})
    await run(fresh_store, TAKE, sku="A")
    await accept(fresh_store, a_draft())
    assert await sequenced(fresh_store) == []
    await subscribed(fresh_store, Topic.ORDERS)
    await run(fresh_store, TAKE, sku="A")
    assert await sequenced(fresh_store) == []


async def test_availability_is_told_whoever_changes_stock_and_however(fresh_store: Store) -> None:
    await subscribed(fresh_store, Topic.AVAILABILITY)
    await stocked(fresh_store, north={"A": 5, "B": 7})
    await run(fresh_store, "UPDATE stock SET on_hand = on_hand + 1, reserved = 2 WHERE sku = 'A'")
    await run(fresh_store, "UPDATE stock SET on_hand = 9, reserved = 5 WHERE sku = 'A'")
    await run(fresh_store, "DELETE FROM stock WHERE sku = 'B'")
    events = await sequenced(fresh_store)
    assert sorted(told(events[:2])) == [
        ("north/A", "availability.changed"),
        ("north/B", "availability.changed"),
    ]
    # The second of A left what is available as it was.
    assert [(event.key, event.data["available"]) for event in events[2:]] == [("north/A", 4), ("north/B", 0)]
    assert events[2].data == {
        "node": "north",
        "sku": "A",
        "on_hand": 6,
        "reserved": 2,
        "safety_stock": 0,
        "available": 4,
    }


async def test_what_is_kept_back_is_not_available_and_nothing_is_never_less(fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 5})
    await subscribed(fresh_store, Topic.AVAILABILITY)
    await run(fresh_store, "UPDATE stock SET safety_stock = 2")
    await run(fresh_store, "UPDATE stock SET safety_stock = 7")
    await run(fresh_store, "UPDATE stock SET reserved = 1")
    assert [event.data["available"] for event in await sequenced(fresh_store)] == [3, 0]


async def test_of_one_transaction_only_the_last_state_of_a_stock_row_is_told(fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 5})
    await subscribed(fresh_store, Topic.AVAILABILITY)
    async with left_open(fresh_store, TAKE, sku="A") as session:
        await session.execute(text(TAKE), {"sku": "A"})
        await session.execute(text(TAKE), {"sku": "A"})
    assert [event.data["available"] for event in await sequenced(fresh_store)] == [2]


async def test_what_is_rolled_back_is_told_to_nobody(fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 5})
    await subscribed(fresh_store, Topic.AVAILABILITY)
    with pytest.raises(RuntimeError):
        async with left_open(fresh_store, TAKE, sku="A"):
            raise RuntimeError
    await run(fresh_store, TAKE, sku="A")
    assert [event.data["reserved"] for event in await sequenced(fresh_store)] == [1]


async def test_a_transaction_that_commits_late_is_not_skipped(fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 5, "B": 5})
    await subscribed(fresh_store, Topic.AVAILABILITY)
    async with left_open(fresh_store, TAKE, sku="A"):
        # Begun later, committed and read before.
        await run(fresh_store, TAKE, sku="B")
        first = await sequenced(fresh_store)
        assert [event.key for event in first] == ["north/B"]
    after = await sequenced(fresh_store)
    assert [event.key for event in after] == ["north/B", "north/A"]
    assert after[1].position > first[0].position


async def test_changes_of_one_row_keep_their_order_though_the_older_transaction_makes_the_second(
    fresh_store: Store,
) -> None:
    await stocked(fresh_store, north={"A": 9, "B": 9, "C": 9})
    await subscribed(fresh_store, Topic.AVAILABILITY)
    # By transaction ids the older one's change of A would come first; by commit with C under way it would be alone.
    async with left_open(fresh_store, TAKE, sku="B") as older, left_open(fresh_store, TAKE, sku="C"):
        await run(fresh_store, TAKE, sku="A")
        await older.execute(text(TAKE), {"sku": "A"})
        await older.commit()
        events = await sequenced(fresh_store)
    assert [event.data["reserved"] for event in events if event.key == "north/A"] == [1, 2]


@pytest.mark.parametrize("writers", [12])
async def test_nothing_is_missed_and_no_order_lost_however_many_write_and_read(
    fresh_store: Store, writers: int
) -> None:
    await stocked(fresh_store, north={f"S{n}": 10_000 for n in range(4)})
    await subscribed(fresh_store, Topic.AVAILABILITY)
    busy = True
    read: list[OutboxEvent] = []

    async def write(number: int) -> None:
        for turn in range(15):
            async with left_open(fresh_store, TAKE, sku=f"S{(number + turn) % 4}"):
                await asyncio.sleep(0)

    async def follow() -> None:
        while busy or not read or await unread():
            async with fresh_store.transaction() as session:
                await outbox.sequence(session, most=7)
            async with fresh_store.transaction() as session:
                after = read[-1].position if read else 0
                upto = await outbox.head(session)
                read.extend(await outbox.feed(session, [Topic.AVAILABILITY], after, upto=upto, most=10_000))

    async def unread() -> bool:
        async with fresh_store.transaction() as session:
            return bool(await session.scalar(text("SELECT count(*) FROM outbox_staged")))

    following = [asyncio.create_task(follow()) for _ in range(1)]
    await asyncio.gather(*(write(number) for number in range(writers)))
    busy = False
    await asyncio.gather(*following)
    for key in {event.key for event in read}:
        reserved = [event.data["reserved"] for event in read if event.key == key]
        assert reserved == list(range(1, len(reserved) + 1))
    assert len(read) == writers * 15


async def test_two_that_put_events_in_order_at_once_put_each_there_once(fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 1_000})
    await subscribed(fresh_store, Topic.AVAILABILITY)
    for _ in range(20):
        await run(fresh_store, TAKE, sku="A")

    async def move() -> int:
        moved = 0
        for _ in range(10):
            async with fresh_store.transaction() as session:
                moved += await outbox.sequence(session, most=3)
        return moved

    assert sum(await asyncio.gather(*(move() for _ in range(4)))) == 20
    assert [event.data["reserved"] for event in await sequenced(fresh_store)] == list(range(1, 21))


async def test_an_order_is_told_of_each_state_once(fresh_store: Store) -> None:
    await subscribed(fresh_store, Topic.ORDERS)
    draft = a_draft()
    order_id = order_id_of(draft)
    await accept(fresh_store, draft)
    await accept(fresh_store, draft)
    for _ in range(2):
        # The second time its worker had died before it heard of the commit.
        await write_down(fresh_store, order_id, carrying(order_id, OrderState.VALIDATING, 1))
    await write_down(fresh_store, order_id, carrying(order_id, OrderState.VALIDATING, 2))
    await write_down(fresh_store, order_id, carrying(order_id, OrderState.ASSESSING, 3))
    events = await sequenced(fresh_store)
    assert [(event.event_id, event.data["state"]) for event in events] == [
        (f"order:{order_id}:0", "received"),
        (f"order:{order_id}:1", "validating"),
        (f"order:{order_id}:3", "assessing"),
    ]
    document = draft.model_dump_json()
    assert "Wilhelmina" in document
    assert "Wilhelmina" not in "".join(event.model_dump_json() for event in events)


async def test_a_state_set_by_hand_is_told_too(fresh_store: Store) -> None:
    await subscribed(fresh_store, Topic.ORDERS)
    draft = a_draft()
    await accept(fresh_store, draft)
    await run(fresh_store, "UPDATE orders SET state = 'cancelled'")
    await run(fresh_store, "UPDATE orders SET state = 'closed'")
    events = await sequenced(fresh_store)
    assert [event.data["state"] for event in events] == ["received", "cancelled", "closed"]
    assert len({event.event_id for event in events}) == 3


async def test_a_parcel_is_told_under_its_order(fresh_store: Store) -> None:
    draft = a_draft()
    order_id = order_id_of(draft)
    await accept(fresh_store, draft)
    await subscribed(fresh_store, Topic.ORDERS)
    planned = a_shipment(order_id)
    for projection in (
        planned,
        planned,
        planned.model_copy(update={"version": 2, "state": ShipmentState.PICKED}),
    ):
        await write_down(fresh_store, order_id, Carried(shipment=projection))
    assert [(event.key, event.event_id) for event in await sequenced(fresh_store)] == [
        (order_id, f"shipment:{order_id}:1:1"),
        (order_id, f"shipment:{order_id}:1:2"),
    ]


async def reserved(store: Store, key: str, order_id: str, units: int = 2, sku: str = "A") -> bool:
    async with store.transaction() as session:
        answer = await stock.reserve(
            session,
            key=key,
            order_id=order_id,
            plan_id=f"{order_id}:p1",
            wanted=[
                Wanted(shipment_id=f"{order_id}:1", node="north", sku=sku, quantity=units),
                Wanted(shipment_id=f"{order_id}:1", node="north", sku="B", quantity=1),
            ],
            expires_at=NOON,
        )
    return answer.reserved


async def test_commitments_are_told_when_made_released_and_fulfilled(fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 5, "B": 5})
    await subscribed(fresh_store, Topic.COMMITMENTS)
    assert await reserved(fresh_store, "k1", "web:1")
    assert not await reserved(fresh_store, "k2", "web:2", units=99)
    assert await reserved(fresh_store, "k3", "web:3")
    async with fresh_store.transaction() as session:
        await release(session, key="k1", order_id="web:1")
    async with fresh_store.transaction() as session:
        await stock.consume(session, "web:3:1")
    events = await sequenced(fresh_store)
    assert told(events) == [
        ("web:1", "commitment.made"),
        ("web:3", "commitment.made"),
        ("web:1", "commitment.released"),
        ("web:3", "commitment.fulfilled"),
    ]
    units = [
        {"shipment_id": "web:1:1", "node": "north", "sku": sku, "quantity": quantity}
        for sku, quantity in (("A", 2), ("B", 1))
    ]
    for event in (events[0], events[2]):
        assert event.data == {"order_id": "web:1", "reservation": "k1", "plan_id": "web:1:p1", "units": units}


async def test_a_commitment_that_takes_the_place_of_another_releases_it_first(fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 5, "B": 5})
    await subscribed(fresh_store, Topic.COMMITMENTS)
    assert await reserved(fresh_store, "k1", "web:1")
    assert await reserved(fresh_store, "k2", "web:1", units=3)
    assert [(event.type, event.data["reservation"]) for event in await sequenced(fresh_store)] == [
        ("commitment.made", "k1"),
        ("commitment.released", "k1"),
        ("commitment.made", "k2"),
    ]


async def test_money_is_told_when_it_has_moved_and_when_that_is_undone(fresh_store: Store) -> None:
    draft = a_draft()
    order_id = order_id_of(draft)
    await accept(fresh_store, draft)
    await subscribed(fresh_store, Topic.FINANCE)
    operation = PaymentOperation(
        key=f"{order_workflow_id(order_id)}:authorise:1",
        order_id=order_id,
        kind=PaymentKind.AUTHORISE,
        amount=gbp(1395),
    )
    for _ in range(2):
        async with fresh_store.transaction() as session:
            await operations.intend(session, operation)
        async with fresh_store.transaction() as session:
            await operations.answer(
                session, operation, state=OperationState.CONFIRMED, content={}, provider_ref="auth-1"
            )
    async with fresh_store.transaction() as session:
        await operations.call_off(session, operation)
    events = await sequenced(fresh_store)
    assert told(events) == [(order_id, "ledger.authorise"), (order_id, "ledger.lapse")]
    assert events[0].event_id == f"ledger:{operation.key}"
    assert [event.data["amount_minor"] for event in events] == [1395, 1395]
    assert [(entry["account"], entry["amount_minor"]) for entry in events[0].data["entries"]] == [
        ("held.authorised", 1395),
        ("held.contra", -1395),
    ]


async def test_what_the_books_refuse_is_told_to_nobody(fresh_store: Store) -> None:
    await subscribed(fresh_store, Topic.FINANCE)
    with pytest.raises(DBAPIError):
        await run(
            fresh_store,
            "INSERT INTO ledger_transactions (id, kind, source, at, recorded_at, written_in) "
            "VALUES ('t1', 'fee', 'test', now(), now(), 0)",
        )
    assert await sequenced(fresh_store) == []


async def test_the_warehouse_is_told_what_to_pick_and_when_it_is_called_off(fresh_store: Store) -> None:
    draft = a_draft()
    order_id = order_id_of(draft)
    await stocked(fresh_store, north={"A": 5, "B": 5})
    await accept(fresh_store, draft)
    assert await reserved(fresh_store, "k1", order_id)
    await write_down(fresh_store, order_id, Carried(shipment=a_shipment(order_id)))
    await subscribed(fresh_store, Topic.FULFILMENT)
    pick = ShippingOperation(
        key=f"shipment:{order_id}:1:pick:1",
        order_id=order_id,
        shipment_id=f"{order_id}:1",
        kind=ShippingKind.PICK,
    )
    async with fresh_store.transaction() as session:
        await operations.intend(session, pick)
    async with fresh_store.transaction() as session:
        await operations.call_off(session, pick)
    events = await sequenced(fresh_store)
    assert told(events) == [(order_id, "pick.intended"), (order_id, "pick.called_off")]
    assert events[0].data["node"] == "north"
    assert events[0].data["lines"] == [{"sku": "A", "quantity": 2}, {"sku": "B", "quantity": 1}]


async def test_what_everybody_was_told_goes_after_a_while_and_nothing_else(fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 50})
    await subscribed(fresh_store, Topic.AVAILABILITY)
    for _ in range(6):
        await run(fresh_store, TAKE, sku="A")
    events = await sequenced(fresh_store)

    async def forget(age: timedelta) -> int:
        async with fresh_store.transaction() as session:
            return await outbox.forget(session, age, 1_000)

    assert await forget(timedelta(0)) == 0
    await run(fresh_store, "UPDATE subscribers SET position = :told", told=events[3].position)
    assert await forget(timedelta(hours=1)) == 0
    assert await forget(timedelta(0)) == 4
    # A key that waits for a person keeps all that lies behind it.
    await run(fresh_store, "UPDATE subscribers SET position = :told", told=events[5].position)
    await run(
        fresh_store,
        "INSERT INTO outbox_held (subscriber_id, key, position, attempts, try_at, failed_at, failure, dead_at) "
        "VALUES ('erp', 'north/A', :at, 20, now(), now(), 'HTTP 500', now())",
        at=events[4].position,
    )
    assert await forget(timedelta(0)) == 0
    await run(fresh_store, "DELETE FROM outbox_held")
    # The last one stays, so that the feed knows where it stands.
    assert await forget(timedelta(0)) == 1
    assert [event.position for event in await sequenced(fresh_store)] == [events[5].position]


async def test_a_replay_starts_at_what_is_kept_and_leaves_nothing_out(fresh_store: Store) -> None:
    await stocked(fresh_store, north={"A": 50})
    await subscribed(fresh_store, Topic.AVAILABILITY)
    for _ in range(4):
        await run(fresh_store, TAKE, sku="A")
    first, second, third, _last = (event.position for event in await sequenced(fresh_store))
    await run(fresh_store, "UPDATE subscribers SET position = :told", told=third)
    await run(fresh_store, "DELETE FROM outbox WHERE position = :at", at=first)

    async def replay(start: int) -> None:
        async with fresh_store.transaction() as session:
            await subscribers.replay(session, "erp", start)

    with pytest.raises(Refused, match=f"from {second} at the earliest"):
        await replay(first)
    with pytest.raises(Refused, match=f"from {third + 1} at the latest"):
        await replay(third + 2)
    with pytest.raises(NotFound):
        async with fresh_store.transaction() as session:
            await subscribers.replay(session, "nobody", second)
    await replay(second)
    async with fresh_store.transaction() as session:
        assert (await subscribers.subscriber(session, "erp")).position == second - 1


async def test_who_streams_has_events_written_and_knows_when_all_that_began_before_has_ended(
    fresh_store: Store,
) -> None:
    await stocked(fresh_store, north={"A": 50, "B": 50})
    async with left_open(fresh_store, TAKE, sku="A"):
        async with fresh_store.transaction() as session:
            assert await outbox.want(session, Topic.AVAILABILITY, timedelta(hours=1))
        async with fresh_store.transaction() as session:
            assert not await outbox.want(session, Topic.AVAILABILITY, timedelta(hours=1))
            began = await outbox.next_transaction(session)
        async with fresh_store.transaction() as session:
            assert not await outbox.settled(session, began)
    async with fresh_store.transaction() as session:
        assert await outbox.settled(session, began)
    await run(fresh_store, TAKE, sku="B")
    assert [event.key for event in await sequenced(fresh_store)] == ["north/B"]
    await run(fresh_store, "UPDATE outbox_streams SET wanted_until = now()")
    await run(fresh_store, TAKE, sku="B")
    assert len(await sequenced(fresh_store)) == 1


async def test_a_subscriber_is_served_by_one_dispatcher_until_its_lease_ends(fresh_store: Store) -> None:
    await subscribed(fresh_store, Topic.ORDERS)

    async def leased(owner: str, seconds: float = 60) -> list[str]:
        async with fresh_store.transaction() as session:
            taken = await subscribers.take_leases(session, owner, timedelta(seconds=seconds))
        return [lease.subscriber_id for lease in taken]

    assert await leased("one") == ["erp"]
    assert await leased("two") == []
    assert await leased("one", seconds=0) == ["erp"]
    assert await leased("two") == ["erp"]
    async with fresh_store.transaction() as session:
        await subscribers.give_up_leases(session, "two")
    assert await leased("one") == ["erp"]


async def test_a_dispatcher_that_lost_its_lease_or_missed_a_change_writes_nothing(fresh_store: Store) -> None:
    await subscribed(fresh_store, Topic.ORDERS)
    async with fresh_store.transaction() as session:
        (lease,) = await subscribers.take_leases(session, "one", timedelta(0))

    async def notes(lease: subscribers.Lease) -> bool:
        async with fresh_store.transaction() as session:
            return await subscribers.write_progress(session, lease, subscribers.Progress(position=7))

    assert await notes(lease)
    async with fresh_store.transaction() as session:
        await subscribers.set_active(session, "erp", active=False)
        await subscribers.set_active(session, "erp", active=True)
    assert not await notes(lease)
    async with fresh_store.transaction() as session:
        (again,) = await subscribers.take_leases(session, "two", timedelta(seconds=60))
    assert again.position == 7
    assert await notes(again)
    assert not await notes(again.model_copy(update={"owner": "one"}))
