"""Warehouses are right about what they hold: documents once, counts never refused, the earliest promises kept."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from activities.store import stock, warehouse
from activities.store.departing import leave
from activities.store.lost import untold_losses
from activities.store.stock import Wanted
from activities.store.store import Store
from models.errors import Conflict, InvalidDocument, NotFound, Refused
from models.journal import Carried
from models.states import ShipmentState
from models.stock import (
    Adjustment,
    ChangedUnits,
    Count,
    CountedUnits,
    Damage,
    Receipt,
    ReceivedUnits,
    SafetyStock,
    ShortPick,
    SkuUnits,
    StockAnswer,
    Transfer,
)
from tests.activities.store.test_stock import a_sku, differences, level, movements
from tests.builders import NOON, a_draft, a_shipment, accepted, new_number, stocked, write_down

TOMORROW = datetime.now(UTC) + timedelta(days=1)


def said(**changes: Any) -> dict[str, Any]:
    return {"document_id": f"WMS-{new_number()}", "actor": "wms", "node": "north"} | changes


def received(sku: str, units: int, **changes: Any) -> Receipt:
    return Receipt(**said(lines=(ReceivedUnits(sku=sku, quantity=units),), **changes))


def counted(sku: str, units: int, **changes: Any) -> Count:
    return Count(**said(lines=(CountedUnits(sku=sku, quantity=units),), **changes))


def damaged(sku: str, units: int, **changes: Any) -> Damage:
    return Damage(**said(lines=(SkuUnits(sku=sku, quantity=units),), reason="wet", **changes))


def adjusted(sku: str, change: int, **changes: Any) -> Adjustment:
    return Adjustment(
        **said(lines=(ChangedUnits(sku=sku, change=change),), reason="typed wrongly", **changes)
    )


def sent(sku: str, units: int, **changes: Any) -> Transfer:
    return Transfer(
        document_id=f"TO-{new_number()}",
        actor="wms",
        from_node="north",
        to_node="south",
        lines=(SkuUnits(sku=sku, quantity=units),),
        **changes,
    )


async def tell(
    store: Store, do: Callable[[AsyncSession, Any], Awaitable[StockAnswer]], document: Any
) -> StockAnswer:
    async with store.transaction() as session:
        return await do(session, document)


async def refused(
    store: Store, do: Callable[[AsyncSession, Any], Awaitable[StockAnswer]], document: Any
) -> list[tuple[str, str]]:
    """Path and code of each problem."""
    with pytest.raises(InvalidDocument) as caught:
        await tell(store, do, document)
    return [(problem.path, problem.code) for problem in caught.value.problems]


async def promised(store: Store, sku: str, units: int, days: int, order_id: str | None = None) -> str:
    """The id of an order that has reserved ``units`` at north for a shipment promised in so many days."""
    order_id = order_id or await accepted(store, a_draft())
    assert await reserved(store, sku, units, order_id, days=days)
    return order_id


async def reserved(store: Store, sku: str, units: int, order_id: str, *, days: int = 1) -> bool:
    """Whether an order could reserve ``units`` at north."""
    async with store.transaction() as session:
        answer = await stock.reserve(
            session,
            key=f"order:{order_id}:reserve:1",
            order_id=order_id,
            plan_id=f"{order_id}:p1",
            wanted=[
                Wanted(
                    shipment_id=f"{order_id}:1",
                    node="north",
                    sku=sku,
                    quantity=units,
                    promised_at=NOON + timedelta(days=days),
                )
            ],
            expires_at=TOMORROW,
        )
    return answer.reserved


async def kinds(store: Store, sku: str) -> list[tuple[str, str, int, int]]:
    return [(row.node, row.kind, row.on_hand, row.reserved) for row in await movements(store, sku)]


# --- documents ---
async def test_a_receipt_that_is_sent_twice_arrives_once_and_is_answered_the_same(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 5})
    receipt = received(sku, 7)
    first = await tell(store, warehouse.receive, receipt)
    again = await tell(store, warehouse.receive, receipt)
    assert again == first.model_copy(update={"repeated": True})
    assert [(row.on_hand, row.available) for row in first.stock] == [(12, 12)]
    assert await kinds(store, sku) == [("north", "seed", 5, 0), ("north", "receipt", 7, 0)]
    last = (await movements(store, sku))[-1]
    assert (last.actor, last.document_id) == ("wms", receipt.document_id)


async def test_a_document_that_comes_ten_times_at_once_counts_once(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 5})
    receipt = received(sku, 7)
    answers = await asyncio.gather(*(tell(store, warehouse.receive, receipt) for _ in range(10)))
    assert sorted(answer.repeated for answer in answers) == [False] + [True] * 9
    assert await level(store, sku) == (12, 0)


async def test_a_document_id_that_says_something_else_is_a_conflict(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 5})
    receipt = received(sku, 7)
    await tell(store, warehouse.receive, receipt)
    for other in (
        received(sku, 8, document_id=receipt.document_id),
        damaged(sku, 7, document_id=receipt.document_id),
    ):
        do = warehouse.receive if isinstance(other, Receipt) else warehouse.damage
        with pytest.raises(Conflict, match="said something else"):
            await tell(store, do, other)
    assert await level(store, sku) == (12, 0)


async def test_a_document_that_is_refused_leaves_nothing_behind_and_may_come_again_mended(
    store: Store,
) -> None:
    known, typo = a_sku(), a_sku()
    await stocked(store, north={known: 5})
    lines = (ReceivedUnits(sku=known, quantity=1), ReceivedUnits(sku=typo, quantity=1))
    document = Receipt(**said(lines=lines))
    assert await refused(store, warehouse.receive, document) == [("lines[1].sku", "unknown_sku")]
    assert await level(store, known) == (5, 0)
    mended = document.model_copy(update={"lines": lines[:1]})
    assert (await tell(store, warehouse.receive, mended)).repeated is False


async def test_what_cannot_be_is_refused_with_its_place_and_a_code(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 5}, south={})
    await promised(store, sku, 3, days=1)
    assert await refused(store, warehouse.count, counted(sku, 1, node="nowhere")) == [
        ("node", "unknown_node")
    ]
    assert await refused(store, warehouse.adjust, adjusted(sku, -6)) == [("lines[0]", "more_than_on_hand")]
    assert await refused(store, warehouse.damage, damaged(sku, 6)) == [("lines[0]", "more_than_on_hand")]
    assert await refused(store, warehouse.transfer, sent(sku, 3)) == [("lines[0].quantity", "not_available")]
    assert await refused(store, warehouse.transfer, sent(sku, 1).model_copy(update={"to_node": "north"})) == [
        ("to_node", "same_node")
    ]
    twice = (ReceivedUnits(sku=sku, quantity=1), ReceivedUnits(sku=sku, quantity=2))
    assert await refused(store, warehouse.receive, Receipt(**said(lines=twice))) == [
        ("lines[1].sku", "repeated_sku")
    ]
    assert await level(store, sku) == (5, 3)


@pytest.mark.parametrize("quantity", [-1, 0, 1.5, 2.0, "3", True, 10**12, None])
def test_units_are_whole_numbers_of_pieces(quantity: object) -> None:
    with pytest.raises(ValidationError):
        SkuUnits.model_validate({"sku": "A", "quantity": quantity})


async def test_goods_that_are_new_are_stocked_when_that_is_said(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={})
    await tell(store, warehouse.receive, received(sku, 4, new=True))
    assert await level(store, sku) == (4, 0)
    # From then on it is known, at every node.
    await stocked(store, north={}, south={})
    await tell(store, warehouse.count, counted(sku, 2, node="south"))
    assert await level(store, sku, "south") == (2, 0)


# --- counts ---
async def test_a_count_below_what_is_promised_keeps_the_earliest_promises(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    late = await promised(store, sku, 2, days=9)
    early = await promised(store, sku, 2, days=1)
    middle = await promised(store, sku, 3, days=5)
    answer = await tell(store, warehouse.count, counted(sku, 6, reason="yearly count"))
    assert [(one.order_id, one.shipment_id, one.quantity) for one in answer.released] == [
        (late, f"{late}:1", 2)
    ]
    assert await level(store, sku) == (6, 5)
    answer = await tell(store, warehouse.count, counted(sku, 2))
    assert [one.order_id for one in answer.released] == [middle]
    assert await level(store, sku) == (2, 2)
    assert await differences(store, sku) == []
    async with store.transaction() as session:
        waiting = await session.execute(
            text(
                "SELECT order_id, quantity FROM stock_released WHERE sku = :sku AND handled_at IS NULL "
                "ORDER BY released_id"
            ),
            {"sku": sku},
        )
        told = await session.execute(
            text("SELECT actor, what, why FROM timeline WHERE order_id = :order_id AND kind = 'stock.lost'"),
            {"order_id": late},
        )
        assert waiting.all() == [(late, 2), (middle, 3)]
        assert told.all() == [("wms", f"2 of {sku} reserved at north are not there", "yearly count")]
    assert early not in [one.order_id for one in answer.released]


async def test_a_promise_that_fits_is_kept_though_an_earlier_one_does_not(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    large = await promised(store, sku, 5, days=1)
    await promised(store, sku, 2, days=3)
    answer = await tell(store, warehouse.count, counted(sku, 4))
    assert [one.order_id for one in answer.released] == [large]
    assert await level(store, sku) == (4, 2)


async def test_units_that_a_pick_has_begun_for_are_the_last_to_be_released(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    waits = await promised(store, sku, 2, days=1)
    picked = await promised(store, sku, 2, days=9)
    begun = a_shipment(picked, 1, state=ShipmentState.PICK_REQUESTED)
    await write_down(store, picked, Carried(shipment=begun))
    answer = await tell(store, warehouse.count, counted(sku, 2))
    assert [one.order_id for one in answer.released] == [waits]
    answer = await tell(store, warehouse.count, counted(sku, 0))
    assert [one.order_id for one in answer.released] == [picked]
    assert await level(store, sku) == (0, 0)


@pytest.mark.parametrize(
    "state", [ShipmentState.PICK_REQUESTED, ShipmentState.PICKED, ShipmentState.LABELLED]
)
async def test_what_is_in_somebodys_hands_loses_what_is_missing_and_is_not_promised_again(
    store: Store, state: ShipmentState
) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 3})
    order_id = await promised(store, sku, 3, days=1)
    await write_down(store, order_id, Carried(shipment=a_shipment(order_id, 1, state=state)))
    answer = await tell(store, warehouse.damage, damaged(sku, 1))
    assert [(one.order_id, one.quantity) for one in answer.released] == [(order_id, 1)]
    assert (answer.stock[0].on_hand, answer.stock[0].reserved, answer.stock[0].available) == (2, 2, 0)
    assert not await reserved(store, sku, 1, await accepted(store, a_draft()))
    async with store.transaction() as session:
        await leave(session, f"{order_id}:1")
    assert await level(store, sku) == (0, 0)
    assert await differences(store, sku) == []


async def test_what_leaves_though_it_was_freed_is_taken_from_who_was_promised_it_since(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 3})
    order_id = await promised(store, sku, 2, days=1)
    async with store.transaction() as session:
        await stock.release(session, key=f"order:{order_id}:reserve:1", order_id=order_id)
    first, last = await promised(store, sku, 1, days=1), await promised(store, sku, 2, days=2)
    for _ in range(2):
        async with store.transaction() as session:
            await leave(session, f"{order_id}:1")
    # Three were there and two have left: one is kept for whom it was promised to first.
    assert await level(store, sku) == (1, 1)
    assert await differences(store, sku) == []
    async with store.transaction() as session:
        losses = {loss.order_id: loss.shipments for loss in await untold_losses(session, 1_000)}
    assert losses.get(last) == (f"{last}:1",) and first not in losses and order_id not in losses


async def test_what_leaves_though_it_was_freed_harms_nobody_where_there_is_enough(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 5})
    order_id = await promised(store, sku, 2, days=1)
    async with store.transaction() as session:
        await stock.release(session, key=f"order:{order_id}:reserve:1", order_id=order_id)
    await promised(store, sku, 3, days=1)
    async with store.transaction() as session:
        await leave(session, f"{order_id}:1")
    assert await level(store, sku) == (3, 3)


async def test_a_count_does_not_count_parcels_that_have_left(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    order_id = await promised(store, sku, 3, days=1)
    gone = a_shipment(order_id, 1, state=ShipmentState.HANDED_OVER, handed_over_at=NOON)
    await write_down(store, order_id, Carried(shipment=gone))
    # Seven lie there, as they should; the money for the three is not taken yet.
    answer = await tell(store, warehouse.count, counted(sku, 7))
    assert (answer.released, answer.stock[0].available) == ((), 7)
    async with store.transaction() as session:
        await stock.consume(session, f"{order_id}:1")
    assert await level(store, sku) == (7, 0)


async def test_what_was_taken_from_a_parcel_is_not_taken_again_when_it_leaves_without(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    order_id = await promised(store, sku, 3, days=1)
    await tell(store, warehouse.count, counted(sku, 2))
    async with store.transaction() as session:
        await stock.consume(session, f"{order_id}:1")
    assert await level(store, sku) == (2, 0)


async def test_a_count_mends_what_was_reserved_for_nobody(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    keeps = await promised(store, sku, 2, days=1)
    async with store.transaction() as session:
        await session.execute(text("UPDATE stock SET reserved = 9 WHERE sku = :sku"), {"sku": sku})
    answer = await tell(store, warehouse.count, counted(sku, 4))
    assert (answer.released, await level(store, sku)) == ((), (4, 4))
    answer = await tell(store, warehouse.count, counted(sku, 2))
    assert (answer.released, await level(store, sku)) == ((), (2, 2))
    assert await differences(store, sku) == []
    assert keeps


async def test_a_count_while_others_reserve_and_release_never_fails_and_never_promises_twice(
    store: Store,
) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 30})

    async def buy(number: int) -> None:
        try:
            order_id = await promised(store, sku, 2, days=number, order_id=f"web:{new_number()}")
        except AssertionError:
            return
        if number % 3 == 0:
            async with store.transaction() as session:
                await stock.release(session, key=f"order:{order_id}:reserve:1", order_id=order_id)

    counts = [counted(sku, units) for units in (25, 9, 14, 3, 11)]
    await asyncio.gather(
        *(buy(number) for number in range(20)), *(tell(store, warehouse.count, count) for count in counts)
    )
    assert await differences(store, sku) == []
    on_hand, reserved = await level(store, sku)
    assert on_hand in {25, 9, 14, 3, 11}
    assert reserved <= on_hand


@given(
    promises=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30)), max_size=6),
    found=st.integers(0, 15),
)
@settings(max_examples=30)
def test_of_any_promises_those_are_kept_that_fit_in_the_order_of_their_dates(
    database_url: str, promises: list[tuple[int, int]], found: int
) -> None:
    async def play() -> None:
        store = Store.at(database_url)
        sku = a_sku()
        await stocked(store, north={sku: 30})
        orders = [
            (days, number, units, await promised(store, sku, units, days, order_id=f"web:{new_number()}"))
            for number, (units, days) in enumerate(promises)
        ]
        answer = await tell(store, warehouse.count, counted(sku, found))
        room, lost = found, set()
        for _days, _number, units, order_id in sorted(orders):
            if units <= room:
                room -= units
            else:
                lost.add(order_id)
        if sum(units for units, _ in promises) <= found:
            lost = set()
        assert {one.order_id for one in answer.released} == lost
        assert (await level(store, sku))[0] == found
        await store.close()

    asyncio.run(play())


# --- damage, corrections, short picks ---
async def test_damage_and_corrections_release_what_no_longer_fits(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 5})
    first, second = await promised(store, sku, 2, days=1), await promised(store, sku, 2, days=2)
    answer = await tell(store, warehouse.damage, damaged(sku, 2))
    assert [one.order_id for one in answer.released] == [second]
    answer = await tell(store, warehouse.adjust, adjusted(sku, -2))
    assert [one.order_id for one in answer.released] == [first]
    await tell(store, warehouse.adjust, adjusted(sku, +4))
    assert await level(store, sku) == (5, 0)
    assert [kind for _, kind, _, _ in await kinds(store, sku)] == [
        "seed", "reserve", "reserve", "release", "damage", "release", "adjustment", "adjustment",
    ]  # fmt: skip


async def test_a_short_pick_takes_from_its_own_shipment_what_was_not_there(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    order_id, other = await promised(store, sku, 3, days=9), await promised(store, sku, 3, days=10)
    short = ShortPick(
        document_id=f"WMS-{new_number()}",
        actor="wms",
        shipment_id=f"{order_id}:1",
        lines=(SkuUnits(sku=sku, quantity=2),),
    )
    answer = await tell(store, warehouse.short_pick, short)
    assert [(one.order_id, one.quantity) for one in answer.released] == [(order_id, 2)]
    assert await level(store, sku) == (8, 4)
    async with store.transaction() as session:
        await stock.consume(session, f"{order_id}:1")
    assert await level(store, sku) == (7, 3)
    with pytest.raises(Refused, match="has left"):
        again = short.model_copy(update={"document_id": f"WMS-{new_number()}"})
        await tell(store, warehouse.short_pick, again)
    assert await differences(store, sku) == []
    assert other


async def test_no_more_can_be_missing_than_the_shipment_was_to_have(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 20})
    order_id, _ = await promised(store, sku, 3, days=9), await promised(store, sku, 3, days=10)
    short = ShortPick(
        document_id=f"S-{new_number()}",
        actor="dana",
        shipment_id=f"{order_id}:1",
        lines=(SkuUnits(sku=sku, quantity=20),),
    )
    assert await refused(store, warehouse.short_pick, short) == [("lines[0].quantity", "more_than_reserved")]
    assert await level(store, sku) == (20, 6)


async def test_a_receipt_of_what_nobody_announced_is_refused(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 20})
    receipt = Receipt(
        document_id=f"R-{new_number()}",
        actor="dana",
        node="north",
        lines=(ReceivedUnits(sku=sku, quantity=5),),
        supply_id=f"PO-{new_number()}",
    )
    assert await refused(store, warehouse.receive, receipt) == [("supply_id", "unknown_supply")]
    last = receipt.model_copy(update={"supply_id": None, "last": True})
    assert await refused(store, warehouse.receive, last) == [("last", "last_without_transfer")]
    assert await level(store, sku) == (20, 0)


async def test_a_short_pick_of_what_is_not_in_the_shipment_is_refused(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    order_id = await promised(store, sku, 3, days=9)
    short = ShortPick(
        document_id=f"WMS-{new_number()}",
        actor="wms",
        shipment_id=f"{order_id}:1",
        lines=(SkuUnits(sku="else", quantity=2),),
    )
    assert await refused(store, warehouse.short_pick, short) == [("lines[0].sku", "not_in_shipment")]
    with pytest.raises(NotFound):
        await tell(store, warehouse.short_pick, short.model_copy(update={"shipment_id": "web:none:1"}))


# --- safety stock ---
def kept_back(sku: str, units: int, **changes: Any) -> SafetyStock:
    return SafetyStock(**said(lines=(CountedUnits(sku=sku, quantity=units),), **changes))


async def test_units_that_are_kept_back_are_promised_to_nobody_new(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    await promised(store, sku, 4, days=1)
    answer = await tell(store, warehouse.keep_back, kept_back(sku, 5))
    assert [(row.on_hand, row.reserved, row.available) for row in answer.stock] == [(10, 4, 1)]
    order_id = await accepted(store, a_draft())
    assert await reserved(store, sku, 2, order_id) is False
    assert await reserved(store, sku, 1, order_id) is True
    answer = await tell(store, warehouse.keep_back, kept_back(sku, 0))
    assert [row.available for row in answer.stock] == [5]
    assert await differences(store, sku) == []


async def test_keeping_back_more_than_there_is_breaks_no_promise(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    await promised(store, sku, 4, days=1)
    answer = await tell(store, warehouse.keep_back, kept_back(sku, 1_000))
    assert [(row.reserved, row.available) for row in answer.stock] == [(4, 0)]
    assert answer.released == ()


async def test_keeping_back_is_said_once_and_of_what_is_known(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    first = kept_back(sku, 5)
    await tell(store, warehouse.keep_back, first)
    await tell(store, warehouse.keep_back, kept_back(sku, 2))
    # Late, and again: what was said since counts.
    assert (await tell(store, warehouse.keep_back, first)).repeated
    assert [row.available for row in (await tell(store, warehouse.count, counted(sku, 10))).stock] == [8]
    assert await refused(store, warehouse.keep_back, kept_back(a_sku(), 1)) == [
        ("lines[0].sku", "unknown_sku")
    ]
    assert await refused(store, warehouse.keep_back, kept_back(sku, 1, node="nowhere")) == [
        ("node", "unknown_node")
    ]


# --- transfers ---
async def test_units_on_their_way_are_at_neither_node_until_they_arrive(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10}, south={})
    way = sent(sku, 6)
    await tell(store, warehouse.transfer, way)
    assert await level(store, sku) == (4, 0)
    arrived = received(sku, 4, node="south", transfer_id=way.document_id)
    await tell(store, warehouse.receive, arrived)
    assert await level(store, sku, "south") == (4, 0)
    over = received(sku, 3, node="south", transfer_id=way.document_id)
    assert await refused(store, warehouse.receive, over) == [("lines[0].quantity", "more_than_sent")]
    rest = received(sku, 1, node="south", transfer_id=way.document_id, last=True)
    await tell(store, warehouse.receive, rest)
    async with store.transaction() as session:
        row = (
            await session.execute(
                text("SELECT quantity, received, lost, closed_at FROM stock_transfers WHERE sku = :sku"),
                {"sku": sku},
            )
        ).one()
    assert (row.quantity, row.received, row.lost) == (6, 5, 1)
    assert row.closed_at is not None
    assert await kinds(store, sku) == [
        ("north", "seed", 10, 0),
        ("north", "transfer_out", -6, 0),
        ("south", "transfer_in", 4, 0),
        ("south", "transfer_in", 1, 0),
    ]


async def test_a_transfer_arrives_where_it_was_sent_and_was_sent_at_all(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10}, south={}, west={})
    way = sent(sku, 6)
    await tell(store, warehouse.transfer, way)
    stray = received(sku, 6, node="west", transfer_id=way.document_id)
    assert await refused(store, warehouse.receive, stray) == [("node", "other_node")]
    unknown = received(sku, 6, node="south", transfer_id="TO-none")
    assert await refused(store, warehouse.receive, unknown) == [("transfer_id", "unknown_transfer")]


@pytest.mark.parametrize(
    "statement", ["UPDATE stock_documents SET answer = NULL", "DELETE FROM stock_documents"]
)
async def test_what_a_warehouse_told_is_kept_as_it_was_answered(store: Store, statement: str) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 1})
    answer = await tell(store, warehouse.count, counted(sku, 2))
    with pytest.raises(DBAPIError, match="is kept as it was answered"):
        async with store.transaction() as session:
            await session.execute(text(f"{statement} WHERE document_id = :id"), {"id": answer.document_id})
