"""Lots with expiry: the first to expire that is good for the customer for long enough, and always as many as there are.

Days are real ones, counted from today: what has expired is decided by the database's own clock.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from activities.store import lots, outbox, stock, warehouse
from activities.store.availability import availability
from activities.store.lots import today
from activities.store.migrate import alembic_config, migrate
from activities.store.reserving import Reserver
from activities.store.stock import Claim, Wanted
from activities.store.stock_books import StockTrouble, reconcile
from activities.store.stock_views import stock_view
from activities.store.store import Store
from models.effects import Reservation
from models.errors import InvalidDocument, Refused
from models.journal import Carried
from models.outbox import Topic
from models.states import OrderState, ShipmentState
from models.stock import (
    Adjustment,
    ChangedUnits,
    Count,
    CountedUnits,
    Damage,
    Receipt,
    ReceivedUnits,
    ShortPick,
    SkuUnits,
    Transfer,
)
from tests.activities.store.test_stock import a_sku, differences, level
from tests.activities.store.test_warehouse import refused, said, tell
from tests.builders import a_draft, a_shipment, accepted, carrying, new_number, stocked, write_down
from workers.embedded.postgres import EmbeddedPostgres

SOON, LATER, LAST = (today() + timedelta(days=days) for days in (10, 40, 400))
GONE = today() - timedelta(days=1)
TOMORROW = datetime.now(UTC) + timedelta(days=1)


def received(sku: str, *of_lots: tuple[str | None, date | None, int], **changes: Any) -> Receipt:
    lines = tuple(
        ReceivedUnits(sku=sku, lot=lot, expires_on=expires_on, quantity=units)
        for lot, expires_on, units in of_lots
    )
    return Receipt(**said(lines=lines, **changes))


def counted(sku: str, *of_lots: tuple[str | None, int], **changes: Any) -> Count:
    lines = tuple(CountedUnits(sku=sku, lot=lot, quantity=units) for lot, units in of_lots)
    return Count(**said(lines=lines, **changes))


def damaged(sku: str, units: int, lot: str | None = None) -> Damage:
    return Damage(**said(lines=(SkuUnits(sku=sku, lot=lot, quantity=units),), reason="wet"))


def adjusted(sku: str, change: int, lot: str | None = None) -> Adjustment:
    return Adjustment(**said(lines=(ChangedUnits(sku=sku, lot=lot, change=change),), reason="typed wrongly"))


def sent(sku: str, *of_lots: tuple[str | None, int]) -> Transfer:
    return Transfer(
        document_id=f"TO-{new_number()}",
        actor="wms",
        from_node="north",
        to_node="south",
        lines=tuple(SkuUnits(sku=sku, lot=lot, quantity=units) for lot, units in of_lots),
    )


async def in_lots(store: Store, **of_lots: tuple[date | None, int]) -> str:
    """A SKU that lies at north in these lots; ``unknown`` is the one that nobody knows."""
    sku = a_sku()
    await stocked(store, north={sku: 0}, south={sku: 0})
    lines = [
        (None, None, units) if lot == "unknown" else (lot, expires_on, units)
        for lot, (expires_on, units) in of_lots.items()
    ]
    goods = [line for line in lines if line[1] is None or line[1] >= today()]
    if goods:
        await tell(store, warehouse.receive, received(sku, *goods))
    for lot, expires_on, units in lines:
        if expires_on is not None and expires_on < today():
            # Nobody receives what has expired: it has become so on the shelf.
            await tell(store, warehouse.receive, received(sku, (lot, today(), units)))
            await sql(
                store, "UPDATE stock_lots SET expires_on = :day WHERE sku = :sku AND lot = :lot",
                sku=sku, lot=lot, day=expires_on,
            )  # fmt: skip
    return sku


async def sql(store: Store, statement: str, **values: Any) -> list[Any]:
    async with store.transaction() as session:
        result: Any = await session.execute(text(statement), values)
        return list(result.all()) if result.returns_rows else []


async def an_order(
    store: Store, *, days: int | None = None, shelf_life: int | None = None, order_id: str | None = None
) -> str:
    """The id of an order that is promised in so many days and asks for that much shelf life."""
    order_id = order_id or await accepted(store, a_draft(min_shelf_life_days=shelf_life))
    if days is not None:
        promised_at = datetime.now(UTC) + timedelta(days=days)
        await write_down(
            store, order_id, carrying(order_id, OrderState.RESERVING, 1, promised_at=promised_at)
        )
    return order_id


def a_claim(order_id: str, sku: str, units: int, attempt: int = 1, *, shipment: int = 1) -> Claim:
    return Claim(
        key=f"order:{order_id}:reserve:{attempt}",
        order_id=order_id,
        plan_id=f"{order_id}:p{attempt}",
        expires_at=TOMORROW,
        wanted=(Wanted(shipment_id=f"{order_id}:{shipment}", node="north", sku=sku, quantity=units),),
    )


async def reserve(store: Store, claim: Claim) -> Reservation:
    async with store.transaction() as session:
        return await stock.reserve(session, **{name: getattr(claim, name) for name in Claim.model_fields})


async def promised(store: Store, sku: str, units: int, **order: Any) -> str:
    """The id of an order that has reserved ``units``."""
    order_id = await an_order(store, **order)
    assert (await reserve(store, a_claim(order_id, sku, units))).reserved
    return order_id


async def held(store: Store, order_id: str) -> dict[str, int]:
    """The lots that an order's reservation has or had, and how many units of each."""
    rows = await sql(
        store,
        "SELECT lot, sum(quantity)::bigint AS units FROM reserved_lots WHERE key LIKE :key GROUP BY lot",
        key=f"order:{order_id}:%",
    )
    return {row.lot: row.units for row in rows}


async def levels(store: Store, sku: str, node: str = "north") -> dict[str, tuple[int, int]]:
    """On hand and reserved of each lot with units; they are always those of the row."""
    async with store.transaction() as session:
        found = await lots.lots_at(session, (node, sku))
    return {lot: (one.on_hand, one.reserved) for lot, one in found.items() if one.on_hand}


async def lots_differ(store: Store, *skus: str) -> list[Any]:
    return [found for found in await differences(store, *skus) if found.trouble is not StockTrouble.EXPIRED]


# --- which lots an order gets ---
async def test_the_first_to_expire_is_given_first_and_what_nobody_knows_last(store: Store) -> None:
    sku = await in_lots(store, unknown=(None, 5), B=(LATER, 5), A=(SOON, 5), C=(LAST, 5))
    order_id = await promised(store, sku, 12)
    assert await held(store, order_id) == {"A": 5, "B": 5, "C": 2}
    assert await levels(store, sku) == {"A": (5, 5), "B": (5, 5), "C": (5, 2), "": (5, 0)}
    assert await held(store, await promised(store, sku, 8)) == {"C": 3, "": 5}
    assert await lots_differ(store, sku) == []


async def test_goods_keep_as_long_as_the_customer_asks_from_the_promised_day_on(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 5), B=(LATER, 5), C=(LAST, 5))
    # B is good for 40 days: 5 until it is there, 35 after that, and not one more.
    assert await held(store, await promised(store, sku, 2, days=5, shelf_life=35)) == {"B": 2}
    assert await held(store, await promised(store, sku, 2, days=5, shelf_life=36)) == {"C": 2}
    assert await held(store, await promised(store, sku, 2, days=5, shelf_life=0)) == {"A": 2}
    # Nobody asked, but it would have expired when it comes.
    assert await held(store, await promised(store, sku, 1, days=11)) == {"B": 1}


async def test_only_short_dated_goods_are_a_shortage_for_who_asks_for_more(store: Store) -> None:
    sku = await in_lots(store, unknown=(None, 7), A=(SOON, 5), C=(LAST, 2))
    order_id = await an_order(store, days=1, shelf_life=90)
    answer = await reserve(store, a_claim(order_id, sku, 3))
    assert [(short.requested, short.available) for short in answer.shortages] == [(3, 2)]
    assert await held(store, order_id) == {}
    assert await level(store, sku) == (14, 0)
    assert await held(store, await promised(store, sku, 13)) == {"A": 5, "C": 2, "": 6}


async def test_what_has_expired_is_never_promised_shown_as_available_or_planned_with(store: Store) -> None:
    sku = await in_lots(store, OLD=(GONE, 5), A=(today(), 3))
    answer = await reserve(store, a_claim(await an_order(store), sku, 4))
    assert [(short.requested, short.available) for short in answer.shortages] == [(4, 3)]
    found = await availability(store, [sku], None, today())
    assert found.skus[0].available == 3
    async with store.transaction() as session:
        view = await stock_view(session, sku, movements=50)
    async with store.transaction() as session:
        account = await reconcile(session)
    assert (view.on_hand, view.available) == (8, 3)
    shown = next(node.lots for node in view.nodes if node.node == "north")
    assert [(lot.lot, lot.expires_on, lot.available, lot.expired) for lot in shown] == [
        ("OLD", GONE, 0, True),
        ("A", today(), 3, False),
    ]
    assert [
        (one.trouble, one.source, one.found, one.what) for one in account.differences if one.sku == sku
    ] == [(StockTrouble.EXPIRED, "OLD", 5, f"expired on {GONE}: write them off")]
    await tell(store, warehouse.damage, damaged(sku, 5, "OLD"))
    assert await levels(store, sku) == {"A": (3, 0)}


async def test_a_row_without_lots_is_reserved_as_ever(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 5})
    order_id = await promised(store, sku, 5, days=1, shelf_life=3000)
    assert await held(store, order_id) == {}
    assert await levels(store, sku) == {}
    assert await level(store, sku) == (5, 5)


async def test_the_shelf_life_that_is_asked_for_is_kept_with_the_order(store: Store) -> None:
    order_id = await accepted(store, a_draft(min_shelf_life_days=21))
    assert await sql(store, "SELECT min_shelf_life_days FROM orders WHERE order_id = :id", id=order_id) == [
        (21,)
    ]


# --- many at once ---
async def test_many_connections_never_reserve_more_of_a_lot_than_it_has(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 9), B=(LAST, 6), unknown=(None, 4))
    picky = [await an_order(store, days=1, shelf_life=100) for _ in range(10)]
    others = [await an_order(store) for _ in range(20)]
    orders = [order for three in zip(picky, others[:10], others[10:], strict=True) for order in three]
    answers = await asyncio.gather(*(reserve(store, a_claim(order_id, sku, 1)) for order_id in orders))
    assert sum(answer.reserved for answer in answers) == 19
    assert await levels(store, sku) == {"A": (9, 9), "B": (6, 6), "": (4, 4)}
    for order_id in picky:
        assert set(await held(store, order_id)) <= {"B"}
    assert await lots_differ(store, sku) == []


async def test_orders_that_are_served_together_get_what_each_may_have(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 10), B=(LAST, 10))
    picky = [await an_order(store, days=1, shelf_life=100) for _ in range(10)]
    others = [await an_order(store) for _ in range(10)]
    reserver = Reserver(store)
    # The first goes alone; the rest are one batch, in which the undemanding are asked for first.
    answers = await asyncio.gather(
        *(reserver.reserve(a_claim(order_id, sku, 1)) for order_id in [*others, *picky])
    )
    assert all(answer.reserved for answer in answers)
    assert await levels(store, sku) == {"A": (10, 10), "B": (10, 10)}
    for order_id in picky:
        assert await held(store, order_id) == {"B": 1}


# --- what becomes of what is held ---
async def test_what_is_released_is_free_in_its_lot_again(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 3), B=(LATER, 3))
    order_id = await promised(store, sku, 5)
    async with store.transaction() as session:
        await stock.release(session, key=f"order:{order_id}:reserve:1", order_id=order_id)
    assert await levels(store, sku) == {"A": (3, 0), "B": (3, 0)}
    assert await lots_differ(store, sku) == []


async def test_what_ships_leaves_its_lot_and_says_which_it_was(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 3), B=(LATER, 3))
    order_id = await promised(store, sku, 5)
    async with store.transaction() as session:
        await stock.consume(session, f"{order_id}:1")
    assert await levels(store, sku) == {"B": (1, 0)}
    assert await level(store, sku) == (1, 0)
    # Who got lot A, should it be called back.
    assert await held(store, order_id) == {"A": 3, "B": 2}
    assert await lots_differ(store, sku) == []


async def test_a_parcel_that_leaves_though_its_units_were_freed_takes_them_from_its_lot(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 3), B=(LATER, 3))
    order_id = await promised(store, sku, 2)
    async with store.transaction() as session:
        await stock.release(session, key=f"order:{order_id}:reserve:1", order_id=order_id)
        await stock.consume(session, f"{order_id}:1")
    assert await levels(store, sku) == {"A": (1, 0), "B": (3, 0)}
    assert await level(store, sku) == (4, 0)
    assert await lots_differ(store, sku) == []


async def test_an_order_that_reserves_anew_is_given_lots_anew(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 5), C=(LAST, 5))
    order_id = await promised(store, sku, 4)
    assert await held(store, order_id) == {"A": 4}
    await sql(store, "UPDATE orders SET min_shelf_life_days = 100 WHERE order_id = :id", id=order_id)
    assert (await reserve(store, a_claim(order_id, sku, 5, 2, shipment=2))).reserved
    assert await levels(store, sku) == {"A": (5, 0), "C": (5, 5)}
    # What it holds itself does not count where it may not have it any more.
    await sql(store, "UPDATE orders SET min_shelf_life_days = 1000 WHERE order_id = :id", id=order_id)
    answer = await reserve(store, a_claim(order_id, sku, 1, 3, shipment=3))
    assert [(short.requested, short.available) for short in answer.shortages] == [(1, 0)]
    assert await levels(store, sku) == {"A": (5, 0), "C": (5, 5)}
    assert await lots_differ(store, sku) == []


async def test_each_change_of_a_lot_is_written_down_with_who_why_and_for_what(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 3))
    order_id = await promised(store, sku, 2)
    key = f"order:{order_id}:reserve:1"
    document = damaged(sku, 1, "A")
    await tell(store, warehouse.damage, document)
    async with store.transaction() as session:
        await stock.consume(session, f"{order_id}:1")
        view = await stock_view(session, sku, movements=50)
    assert [
        (one.lot, one.kind, one.on_hand, one.reserved, one.actor, one.source) for one in view.lot_movements
    ][:3] == [
        ("A", "ship", -2, -2, "orderwright", f"{order_id}:1"),
        ("A", "damage", -1, 0, "wms", ""),
        ("A", "reserve", 0, 2, "orderwright", key),
    ]
    assert view.lot_movements[1].document_id == document.document_id
    assert {one.kind for one in view.lot_movements} == {"ship", "damage", "reserve", "receipt"}


# --- what warehouses tell ---
async def test_goods_that_lay_there_before_are_of_no_lot_that_anybody_knows(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    before = await promised(store, sku, 4)
    await tell(store, warehouse.receive, received(sku, ("A", SOON, 5)))
    assert await levels(store, sku) == {"A": (5, 0), "": (10, 4)}
    assert await held(store, before) == {"": 4}
    async with store.transaction() as session:
        await stock.consume(session, f"{before}:1")
    assert await levels(store, sku) == {"A": (5, 0), "": (6, 0)}
    assert await lots_differ(store, sku) == []


async def test_a_receipt_has_a_line_for_each_lot_and_may_have_one_without(store: Store) -> None:
    sku = await in_lots(store)
    answer = await tell(
        store, warehouse.receive, received(sku, ("A", SOON, 3), ("B", LATER, 4), (None, None, 2))
    )
    assert [(row.on_hand, row.available) for row in answer.stock] == [(9, 9)]
    assert await levels(store, sku) == {"A": (3, 0), "B": (4, 0), "": (2, 0)}
    # Its date is known by now.
    await tell(store, warehouse.receive, received(sku, ("A", None, 1)))
    assert (await levels(store, sku))["A"] == (4, 0)


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        ([("A", LATER, 1)], [("lines[0].expires_on", "other_expiry")]),
        ([("N", None, 1)], [("lines[0].expires_on", "expiry_missing")]),
        ([("N", GONE, 1)], [("lines[0].expires_on", "expired")]),
        ([(None, SOON, 1)], [("lines[0].lot", "expiry_without_lot")]),
        ([("A", SOON, 1), ("A", SOON, 2)], [("lines[1].sku", "repeated_sku")]),
        ([(None, None, 1), (None, None, 2)], [("lines[1].sku", "repeated_sku")]),
    ],
)
async def test_a_receipt_whose_lots_cannot_be_is_refused(
    store: Store, lines: list[tuple[str | None, date | None, int]], problems: list[tuple[str, str]]
) -> None:
    sku = await in_lots(store, A=(SOON, 3))
    assert await refused(store, warehouse.receive, received(sku, *lines)) == problems
    assert await levels(store, sku) == {"A": (3, 0)}


async def test_a_lot_has_one_date_at_every_node_also_when_two_hear_of_it_at_once(store: Store) -> None:
    sku = await in_lots(store)

    async def hear(node: str, day: date) -> bool:
        try:
            await tell(store, warehouse.receive, received(sku, ("N", day, 1), node=node))
        except InvalidDocument:
            return False
        return True

    assert sorted(await asyncio.gather(hear("north", SOON), hear("south", LATER))) == [False, True]
    with pytest.raises(DBAPIError, match="one date everywhere"):
        await sql(
            store,
            "INSERT INTO stock_lots (node, sku, lot, expires_on, on_hand, reserved) "
            "SELECT node, sku, 'N', :day, 0, 0 FROM stock WHERE sku = :sku "
            "AND NOT EXISTS (SELECT FROM stock_lots l WHERE l.sku = :sku AND l.node = stock.node)",
            sku=sku,
            day=LAST,
        )


@pytest.mark.parametrize("units", [1, 9])
async def test_a_lot_that_is_not_there_cannot_break_or_be_sent(store: Store, units: int) -> None:
    sku = await in_lots(store, A=(SOON, 3), B=(LATER, 30))
    code = [("lines[0].lot", "unknown_lot")]
    assert await refused(store, warehouse.damage, damaged(sku, units, "Z")) == code
    assert await refused(store, warehouse.transfer, sent(sku, ("Z", units))) == code
    assert await refused(store, warehouse.adjust, adjusted(sku, units, "Z")) == code
    if units > 3:
        assert await refused(store, warehouse.damage, damaged(sku, units, "A")) == [
            ("lines[0]", "more_than_on_hand")
        ]
        assert await refused(store, warehouse.transfer, sent(sku, ("A", units))) == [
            ("lines[0].quantity", "not_available")
        ]


async def test_units_without_a_lot_are_taken_from_unknown_ones_then_from_the_last_to_expire(
    store: Store,
) -> None:
    sku = await in_lots(store, A=(SOON, 5), C=(LAST, 5), unknown=(None, 2))
    await tell(store, warehouse.damage, damaged(sku, 3))
    assert await levels(store, sku) == {"A": (5, 0), "C": (4, 0)}
    await tell(store, warehouse.adjust, adjusted(sku, 2))
    assert await levels(store, sku) == {"A": (5, 0), "C": (4, 0), "": (2, 0)}
    await tell(store, warehouse.count, counted(sku, (None, 7)))
    assert await levels(store, sku) == {"A": (5, 0), "C": (2, 0)}
    assert await lots_differ(store, sku) == []


async def test_a_count_of_lots_finds_what_nobody_knew_the_lot_of(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 2), C=(LAST, 5), unknown=(None, 10))
    order_id = await promised(store, sku, 9, days=1)
    assert await held(store, order_id) == {"A": 2, "C": 5, "": 2}
    # Six more of A than in the books were of those ten; C was not counted, and what is left of the ten was not found.
    answer = await tell(store, warehouse.count, counted(sku, ("A", 8), (None, 0)))
    assert answer.released == ()
    assert await levels(store, sku) == {"A": (8, 4), "C": (5, 5)}
    assert await level(store, sku) == (13, 9)
    await tell(store, warehouse.count, counted(sku, ("A", 9)))
    assert await level(store, sku) == (14, 9)
    assert await lots_differ(store, sku) == []


async def test_a_count_of_lots_takes_from_the_unknown_only_what_it_finds(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 2), unknown=(None, 10))
    await tell(store, warehouse.count, counted(sku, ("A", 8)))
    assert await levels(store, sku) == {"A": (8, 0), "": (4, 0)}


async def test_a_lot_that_is_counted_down_gives_its_promises_to_other_lots_then_the_latest_go(
    store: Store,
) -> None:
    sku = await in_lots(store, A=(SOON, 6), C=(LAST, 3))
    early = await promised(store, sku, 3, days=1)
    middle = await promised(store, sku, 2, days=2)
    picky = await promised(store, sku, 1, days=2, shelf_life=100)
    late = await promised(store, sku, 1, days=3)
    assert await levels(store, sku) == {"A": (6, 6), "C": (3, 1)}
    answer = await tell(store, warehouse.count, counted(sku, ("A", 1)))
    # Four units are left for seven: the latest promises go, as they fit. Two units of the earliest are in C now.
    assert sorted(gone.order_id for gone in answer.released) == sorted([middle, late])
    assert await held(store, early) == {"A": 1, "C": 2}
    assert await held(store, picky) == {"C": 1}
    assert await levels(store, sku) == {"A": (1, 1), "C": (3, 3)}
    assert await lots_differ(store, sku) == []


async def test_a_count_without_lots_releases_the_latest_promises_and_lots_add_up(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 6), C=(LAST, 4))
    early, late = await promised(store, sku, 5, days=1), await promised(store, sku, 5, days=3)
    await write_down_promises(store, {early: 1, late: 3})
    answer = await tell(store, warehouse.count, counted(sku, (None, 7)))
    assert [(gone.order_id, gone.quantity) for gone in answer.released] == [(late, 5)]
    assert await levels(store, sku) == {"A": (6, 5), "C": (1, 0)}
    assert await lots_differ(store, sku) == []


async def write_down_promises(store: Store, days: Mapping[str, int]) -> None:
    for order_id, day in days.items():
        await sql(
            store, "UPDATE reserved_units SET promised_at = :at WHERE shipment_id = :id",
            at=datetime.now(UTC) + timedelta(days=day), id=f"{order_id}:1",
        )  # fmt: skip


async def test_parcels_that_left_are_not_counted_in_their_lot(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 6))
    order_id = await promised(store, sku, 2)
    await write_down(
        store,
        order_id,
        Carried(
            shipment=a_shipment(order_id, state=ShipmentState.HANDED_OVER, handed_over_at=datetime.now(UTC))
        ),
    )
    await tell(store, warehouse.count, counted(sku, ("A", 4)))
    assert await levels(store, sku) == {"A": (6, 2)}


async def test_what_expired_and_was_promised_is_written_off_and_its_order_served_by_another_lot(
    store: Store,
) -> None:
    sku = await in_lots(store, A=(SOON, 5), C=(LAST, 3))
    first, second = await promised(store, sku, 3), await promised(store, sku, 2)
    await sql(
        store, "UPDATE stock_lots SET expires_on = :day WHERE sku = :sku AND lot = 'A'", sku=sku, day=GONE
    )
    answer = await tell(store, warehouse.damage, damaged(sku, 5, "A"))
    assert len(answer.released) == 1
    assert await level(store, sku) == (3, (await levels(store, sku))["C"][1])
    kept = first if answer.released[0].order_id == second else second
    assert set(await held(store, kept)) == {"C"}
    assert await lots_differ(store, sku) == []


# --- transfers ---
async def test_a_transfer_takes_its_lots_along(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 5), B=(LATER, 5), C=(LAST, 5), OLD=(GONE, 1))
    document = sent(sku, ("C", 2), (None, 7))
    await tell(store, warehouse.transfer, document)
    assert await levels(store, sku) == {"B": (3, 0), "C": (3, 0), "OLD": (1, 0)}
    arrival = received(sku, ("C", None, 1), node="south", transfer_id=document.document_id)
    await tell(store, warehouse.receive, arrival)
    arrival = received(sku, (None, None, 6), node="south", transfer_id=document.document_id)
    await tell(store, warehouse.receive, arrival)
    assert await levels(store, sku, "south") == {"A": (5, 0), "B": (1, 0), "C": (1, 0)}
    wrong = received(sku, ("OLD", None, 1), node="south", transfer_id=document.document_id)
    assert await refused(store, warehouse.receive, wrong) == [("lines[0].lot", "lot_not_sent")]
    rest = received(sku, ("B", None, 1), node="south", transfer_id=document.document_id, last=True)
    await tell(store, warehouse.receive, rest)
    assert await levels(store, sku, "south") == {"A": (5, 0), "B": (2, 0), "C": (1, 0)}
    assert await level(store, sku, "south") == (8, 0)
    assert await lots_differ(store, sku) == []


async def test_what_nobody_knew_the_lot_of_may_arrive_with_one(store: Store) -> None:
    sku = await in_lots(store, unknown=(None, 5), A=(SOON, 1))
    document = sent(sku, (None, 6))
    await tell(store, warehouse.transfer, document)
    arrival = received(sku, ("Z", LATER, 4), (None, None, 2), node="south", transfer_id=document.document_id)
    await tell(store, warehouse.receive, arrival)
    assert await levels(store, sku, "south") == {"A": (1, 0), "Z": (4, 0), "": (1, 0)}
    assert await levels(store, sku) == {}


async def test_goods_that_expired_on_the_way_arrive_all_the_same(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 5))
    document = sent(sku, ("A", 5))
    await tell(store, warehouse.transfer, document)
    await sql(
        store, "UPDATE stock_lots SET expires_on = :day WHERE sku = :sku AND lot = 'A'", sku=sku, day=GONE
    )
    await tell(
        store,
        warehouse.receive,
        received(sku, ("A", None, 5), node="south", transfer_id=document.document_id),
    )
    assert await levels(store, sku, "south") == {"A": (5, 0)}


# --- short picks ---
async def test_a_short_pick_of_a_lot_takes_it_from_the_shipment_and_the_lot(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 3), B=(LATER, 9))
    order_id = await promised(store, sku, 5)
    other = await promised(store, sku, 2)

    def short(*of_lots: tuple[str | None, int]) -> ShortPick:
        return ShortPick(
            document_id=f"SP-{new_number()}",
            actor="wms",
            shipment_id=f"{order_id}:1",
            lines=tuple(SkuUnits(sku=sku, lot=lot, quantity=units) for lot, units in of_lots),
        )

    assert await refused(store, warehouse.short_pick, short(("Z", 1))) == [
        ("lines[0].lot", "lot_not_in_shipment")
    ]
    answer = await tell(store, warehouse.short_pick, short(("A", 1)))
    assert [(gone.order_id, gone.quantity) for gone in answer.released] == [(order_id, 1)]
    assert await held(store, order_id) == {"A": 2, "B": 2}
    assert await levels(store, sku) == {"A": (2, 2), "B": (9, 4)}
    # Without a name: what it has of the last to expire.
    await tell(store, warehouse.short_pick, short((None, 3)))
    assert await held(store, order_id) == {"A": 1}
    assert await levels(store, sku) == {"A": (1, 1), "B": (7, 2)}
    assert await held(store, other) == {"B": 2}
    assert await lots_differ(store, sku) == []


# --- what SQL by hand cannot break ---
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stock SET on_hand = on_hand + 4 WHERE sku = :sku AND node = 'north'",
        "UPDATE stock SET on_hand = on_hand - 4 WHERE sku = :sku AND node = 'north'",
        "UPDATE stock_lots SET on_hand = 9 WHERE sku = :sku AND lot = 'A'",
        "UPDATE stock_lots SET on_hand = 2 WHERE sku = :sku AND lot = 'A'",
        "UPDATE stock_lots SET reserved = reserved + 1 WHERE sku = :sku AND lot = 'C'",
        "INSERT INTO stock_lots (node, sku, lot, expires_on, on_hand, reserved) "
        "VALUES ('north', :sku, 'N', '2099-01-01', 3, 0)",
    ],
)
async def test_lots_come_to_what_their_row_says_whatever_is_done_by_hand(
    store: Store, statement: str
) -> None:
    sku = await in_lots(store, A=(SOON, 5), C=(LAST, 5), unknown=(None, 1))
    await promised(store, sku, 2)
    await sql(store, statement, sku=sku)
    found = await levels(store, sku)
    assert await level(store, sku) == (
        sum(on_hand for on_hand, _ in found.values()),
        sum(reserved for _, reserved in found.values()),
    )
    assert await lots_differ(store, sku) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stock SET reserved = reserved + 1 WHERE sku = :sku AND node = 'north'",
        "UPDATE stock_lots SET on_hand = 1 WHERE sku = :sku AND lot = 'A'",
        "UPDATE stock_lots SET expires_on = NULL WHERE sku = :sku AND lot = 'A'",
        "UPDATE stock_lots SET lot = 'other' WHERE sku = :sku AND lot = 'C'",
        "DELETE FROM stock_lots WHERE sku = :sku AND lot = 'C'",
        "UPDATE reserved_units SET quantity = 100 WHERE sku = :sku",
        "TRUNCATE reserved_lots",
        "UPDATE stock_lot_movements SET on_hand = 1 WHERE sku = :sku",
        "INSERT INTO stock_lot_movements (node, sku, lot, kind, on_hand, reserved, on_hand_after, reserved_after, "
        "actor) VALUES ('north', :sku, 'A', 'receipt', 1, 0, 6, 0, 'somebody')",
    ],
)
async def test_what_would_reserve_a_lot_for_nobody_or_hide_a_change_is_refused(
    store: Store, statement: str
) -> None:
    sku = await in_lots(store, A=(SOON, 5), C=(LAST, 5))
    await promised(store, sku, 2)
    before = await levels(store, sku)
    with pytest.raises((IntegrityError, DBAPIError)):
        await sql(store, statement, sku=sku)
    assert await levels(store, sku) == before


async def test_units_reserved_by_hand_get_lots_as_well(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 5), C=(LAST, 5))
    order_id = await an_order(store, shelf_life=100)
    async with store.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO reservations (key, order_id, state, created_at) VALUES (:key, :id, 'held', now())"
            ),
            {"key": f"order:{order_id}:hand", "id": order_id},
        )
        await session.execute(
            text("UPDATE stock SET reserved = reserved + 2 WHERE sku = :sku AND node = 'north'"), {"sku": sku}
        )
        await session.execute(
            text(
                "INSERT INTO reserved_units (key, shipment_id, node, sku, quantity, state) "
                "VALUES (:key, :ship, 'north', :sku, 2, 'held')"
            ),
            {"key": f"order:{order_id}:hand", "ship": f"{order_id}:1", "sku": sku},
        )
    assert await held(store, order_id) == {"C": 2}
    async with store.transaction() as session:
        await session.execute(
            text("DELETE FROM reserved_units WHERE key = :key"), {"key": f"order:{order_id}:hand"}
        )
        await session.execute(
            text("UPDATE stock SET reserved = reserved - 2 WHERE sku = :sku AND node = 'north'"), {"sku": sku}
        )
    assert await levels(store, sku) == {"A": (5, 0), "C": (5, 0)}
    assert await lots_differ(store, sku) == []


# --- what others are told ---
async def test_subscribers_hear_what_is_available_of_lots_and_that_it_expired(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 5), unknown=(None, 2))

    async def available() -> list[int]:
        async with store.transaction() as session:
            before = await outbox.head(session)
            while await outbox.sequence(session):
                pass
            upto = await outbox.head(session)
            events = await outbox.feed(session, [Topic.AVAILABILITY], before, upto=upto, most=1000)
        return [event.data["available"] for event in events if event.key == f"north/{sku}"]

    async with store.transaction() as session:
        await outbox.want(session, Topic.AVAILABILITY, timedelta(hours=1))
    await available()
    await promised(store, sku, 2)
    await tell(store, warehouse.receive, received(sku, ("B", LATER, 4), (None, None, 1)))
    await tell(store, warehouse.damage, damaged(sku, 2))
    assert await available() == [5, 10, 8]
    await sql(
        store, "UPDATE stock_lots SET expires_on = :day WHERE sku = :sku AND lot = 'A'", sku=sku, day=GONE
    )
    assert await available() == [5]
    async with store.transaction() as session:
        assert await lots.tell_of_time(session) >= 1
    assert await available() == [5]
    async with store.transaction() as session:
        assert await lots.tell_of_time(session) == 0
        assert [row["available"] for row in await outbox.availability(session, sku, "north")] == [5]


# --- before it is picked ---
async def test_a_shipment_that_waited_too_long_is_served_by_lots_that_are_still_good(store: Store) -> None:
    sku = await in_lots(store, A=(SOON, 2), C=(LAST, 3))
    first, second = await promised(store, sku, 2), await promised(store, sku, 2)
    await sql(
        store, "UPDATE stock_lots SET expires_on = :day WHERE sku = :sku AND lot = 'A'", sku=sku, day=GONE
    )
    async with store.transaction() as session:
        await lots.keep_good(session, f"{first}:1")
        assert (await lots.no_longer_good(session, f"{second}:1")) is None
        spoiled = await lots.no_longer_good(session, f"{first}:1")
    # One unit of C was free; for the other there is nothing.
    assert await held(store, first) == {"A": 1, "C": 1}
    assert spoiled is not None
    assert f"1 of {sku} in lot A, which expires on {GONE}" in spoiled
    assert await lots_differ(store, sku) == []


# --- whatever comes ---
class LotsLife(RuleBasedStateMachine):
    """Documents, reservations, releases and parcels in any order: lots always are what their rows say."""

    store: Store
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.sku: str = self.run(in_lots(self.store, A=(SOON, 6), C=(LAST, 4), unknown=(None, 2)))
        self.orders: list[str] = []
        self.transfers: list[str] = []

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(what)

    def said(self, do: Any, document: Any) -> None:
        try:
            self.run(tell(self.store, do, document))
        except InvalidDocument:
            return

    @rule(
        units=st.integers(1, 5),
        lot=st.sampled_from([(None, None), ("A", SOON), ("B", LATER), ("C", LAST)]),
        node=st.sampled_from(["north", "south"]),
    )
    def receive(self, units: int, lot: tuple[str | None, date | None], node: str) -> None:
        self.said(warehouse.receive, received(self.sku, (*lot, units), node=node))

    @rule(
        found=st.dictionaries(
            st.sampled_from([None, "A", "B", "C"]), st.integers(0, 8), min_size=1, max_size=3
        )
    )
    def count(self, found: dict[str | None, int]) -> None:
        self.said(warehouse.count, counted(self.sku, *found.items()))

    @rule(change=st.integers(-4, 4).filter(bool), lot=st.sampled_from([None, "A", "B", "C"]))
    def adjust(self, change: int, lot: str | None) -> None:
        self.said(warehouse.adjust, adjusted(self.sku, change, lot))

    @rule(units=st.integers(1, 4), lot=st.sampled_from([None, "A", "B", "C"]))
    def damage(self, units: int, lot: str | None) -> None:
        self.said(warehouse.damage, damaged(self.sku, units, lot))

    @rule(units=st.integers(1, 4), lot=st.sampled_from([None, "A", "C"]))
    def transfer(self, units: int, lot: str | None) -> None:
        document = sent(self.sku, (lot, units))
        self.said(warehouse.transfer, document)
        self.transfers.append(document.document_id)

    @rule(units=st.integers(1, 4), lot=st.sampled_from([None, "A", "C"]), last=st.booleans())
    def arrive(self, units: int, lot: str | None, last: bool) -> None:
        if self.transfers:
            self.said(
                warehouse.receive,
                received(
                    self.sku, (lot, None, units), node="south", transfer_id=self.transfers[-1], last=last
                ),
            )

    @rule(units=st.integers(1, 5), shelf_life=st.sampled_from([None, 0, 20, 100]), days=st.integers(0, 12))
    def order(self, units: int, shelf_life: int | None, days: int) -> None:
        async def come() -> None:
            order_id = await an_order(self.store, days=days, shelf_life=shelf_life)
            answer = await reserve(self.store, a_claim(order_id, self.sku, units))
            if answer.reserved:
                self.orders.append(order_id)
                needed = today() + timedelta(days=days + (shelf_life or 0))
                dates = {"A": SOON, "B": LATER, "C": LAST}
                for lot in await held(self.store, order_id):
                    assert dates[lot] >= needed if lot else shelf_life is None

        self.run(come())

    @rule(
        which=st.integers(0, 50), how=st.sampled_from(["release", "ship", "short"]), units=st.integers(1, 3)
    )
    def end(self, which: int, how: str, units: int) -> None:
        if not self.orders:
            return
        order_id = self.orders[which % len(self.orders)]

        async def come() -> None:
            async with self.store.transaction() as session:
                if how == "release":
                    await stock.release(session, key=f"order:{order_id}:reserve:1", order_id=order_id)
                else:
                    await stock.consume(session, f"{order_id}:1")

        if how == "short":
            document = ShortPick(
                document_id=f"SP-{new_number()}",
                actor="wms",
                shipment_id=f"{order_id}:1",
                lines=(SkuUnits(sku=self.sku, quantity=units),),
            )
            with suppress(Refused):
                self.said(warehouse.short_pick, document)
        else:
            self.run(come())

    @invariant()
    def lots_are_what_their_rows_say(self) -> None:
        assert self.run(lots_differ(self.store, self.sku)) == []


def test_lots_add_up_whatever_documents_come(database_url: str) -> None:
    with asyncio.Runner() as runner:
        LotsLife.runner, LotsLife.store = runner, Store.at(database_url)
        try:
            LotsLife.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
            LotsLife.TestCase().runTest()
        finally:
            runner.run(LotsLife.store.close())


async def test_the_migration_goes_back_and_forth_with_lots_in_the_database(
    database_server: EmbeddedPostgres,
) -> None:
    url = database_server.url("ow_lots_there_and_back")
    await asyncio.to_thread(migrate, url)
    store = Store.at(url)
    try:
        sku = await in_lots(store, A=(SOON, 5), unknown=(None, 2))
        order_id = await promised(store, sku, 6)
        await tell(store, warehouse.transfer, sent(sku, (None, 1)))
    finally:
        await store.close()

    def there_and_back() -> None:
        engine = create_engine(url)
        with engine.begin() as connection:
            command.downgrade(alembic_config(connection), "0018_channels")
        engine.dispose()
        migrate(url)

    await asyncio.to_thread(there_and_back)
    store = Store.at(url)
    try:
        assert await level(store, sku) == (6, 6)
        assert await levels(store, sku) == {}
        await tell(store, warehouse.receive, received(sku, ("B", LATER, 3)))
        assert await levels(store, sku) == {"B": (3, 0), "": (6, 6)}
        assert await held(store, order_id) == {"": 6}
        assert await lots_differ(store, sku) == []
    finally:
        await store.close()
