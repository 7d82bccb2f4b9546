"""Reservations at the store: many at once, under pressure from many connections, and through any sequence of events."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import text

from activities.store import stock
from activities.store.network import stock_of
from activities.store.reserving import Reserver
from activities.store.stock import Claim, Wanted
from activities.store.stock_books import StockDifference, StockTrouble, reconcile
from activities.store.store import Store
from models.effects import Reservation, Shortage
from models.errors import Refused
from models.states import OrderState
from tests.builders import a_draft, accepted, carrying, new_number, stocked, write_down

TOMORROW = datetime.now(UTC) + timedelta(days=1)


def a_sku() -> str:
    return f"SKU-{new_number()}"


def a_claim(*rows: tuple[str, str, int], order_id: str | None = None, attempt: int = 1) -> Claim:
    """A claim of one shipment for (node, SKU, units) each, by an order that nobody has heard of."""
    order_id = order_id or f"web:{new_number()}"
    return Claim(
        key=f"order:{order_id}:reserve:{attempt}",
        order_id=order_id,
        plan_id=f"{order_id}:p{attempt}",
        expires_at=TOMORROW,
        wanted=tuple(
            Wanted(shipment_id=f"{order_id}:1", node=node, sku=sku, quantity=units)
            for node, sku, units in rows
        ),
    )


async def reserve(store: Store, claim: Claim) -> Reservation:
    async with store.transaction() as session:
        return await stock.reserve(
            session,
            key=claim.key,
            order_id=claim.order_id,
            plan_id=claim.plan_id,
            wanted=claim.wanted,
            expires_at=claim.expires_at,
        )


async def level(store: Store, sku: str, node: str = "north") -> tuple[int, int]:
    """On hand and reserved."""
    async with store.transaction() as session:
        found = next(found for found in await stock_of(session, [sku], "web:1") if found.node == node)
    return found.on_hand, found.reserved


async def movements(store: Store, sku: str) -> list[Any]:
    async with store.transaction() as session:
        rows = await session.execute(
            text("SELECT * FROM stock_movements WHERE sku = :sku ORDER BY movement_id"), {"sku": sku}
        )
        return list(rows.all())


async def differences(store: Store, *skus: str, strangers: bool = False) -> list[StockDifference]:
    """What does not agree. The orders here are ``strangers`` to the intake, which is no news."""
    async with store.transaction() as session:
        account = await reconcile(session)
    return [
        found
        for found in account.differences
        if found.sku in skus and (strangers or found.trouble is not StockTrouble.HELD_FOR_NOBODY)
    ]


async def keep_back(store: Store, sku: str, units: int) -> None:
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE stock SET safety_stock = :units WHERE sku = :sku"), {"units": units, "sku": sku}
        )


# --- what is written down ---
async def test_each_change_is_written_down_with_who_why_and_for_what(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    kept, freed = a_claim(("north", sku, 3)), a_claim(("north", sku, 2))
    await reserve(store, kept)
    await reserve(store, freed)
    async with store.transaction() as session:
        await stock.release(session, key=freed.key, order_id=freed.order_id, reason="called off")
        await stock.consume(session, kept.wanted[0].shipment_id)
    assert [
        (row.kind, row.on_hand, row.reserved, row.source, row.reason) for row in await movements(store, sku)
    ] == [
        ("seed", 10, 0, "", None),
        ("reserve", 0, 3, kept.key, None),
        ("reserve", 0, 2, freed.key, None),
        ("release", 0, -2, freed.key, "called off"),
        ("ship", -3, -3, kept.wanted[0].shipment_id, None),
    ]
    assert {row.actor for row in await movements(store, sku)} == {"orderwright"}
    assert [(row.on_hand_after, row.reserved_after) for row in await movements(store, sku)][-1] == (7, 0)


async def test_what_is_changed_by_hand_is_written_down_as_unexplained(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    claim = a_claim(("north", sku, 1))
    async with store.transaction() as session:
        await stock.release(session, key=claim.key, order_id=claim.order_id)
        # In the same transaction as what was explained, and of several rows at once.
        await session.execute(text("UPDATE stock SET on_hand = on_hand + 5 WHERE sku = :sku"), {"sku": sku})
    last = (await movements(store, sku))[-1]
    assert (last.kind, last.on_hand, last.actor) == ("unexplained", 5, "postgres")
    assert await differences(store, sku) == []


# --- safety stock ---
async def test_safety_stock_is_not_promised(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    await keep_back(store, sku, 4)
    assert (await reserve(store, a_claim(("north", sku, 6)))).reserved
    assert await reserve(store, a_claim(("north", sku, 1))) == Reservation(
        reserved=False, shortages=(Shortage(node="north", sku=sku, requested=1, available=0),)
    )


async def test_safety_stock_that_was_raised_takes_nothing_from_who_reserved_before(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 3})
    first = a_claim(("north", sku, 3))
    await reserve(store, first)
    await keep_back(store, sku, 2)
    # The same order plans anew; what it holds itself is still its own.
    again = a_claim(("north", sku, 3), order_id=first.order_id, attempt=2)
    assert (await reserve(store, again)).reserved
    assert await level(store, sku) == (3, 3)


async def test_rows_whose_safety_stock_is_short_are_named_with_nothing_available(store: Store) -> None:
    plenty, scarce = a_sku(), a_sku()
    await stocked(store, north={plenty: 9, scarce: 1})
    await keep_back(store, scarce, 5)
    answer = await reserve(store, a_claim(("north", plenty, 2), ("north", scarce, 1)))
    assert answer.shortages == (Shortage(node="north", sku=scarce, requested=1, available=0),)
    assert await level(store, plenty) == (9, 0)


# --- many at once ---
async def reserve_together(store: Store, claims: Sequence[Claim]) -> list[Reservation | BaseException]:
    reserver = Reserver(store)
    return await asyncio.gather(*(reserver.reserve(claim) for claim in claims), return_exceptions=True)


async def test_orders_that_come_together_are_each_all_or_nothing(store: Store) -> None:
    plenty, scarce = a_sku(), a_sku()
    await stocked(store, north={plenty: 100, scarce: 5}, south={plenty: 3})
    claims = [a_claim(("north", plenty, 1), ("north", scarce, 1), ("south", plenty, 0)) for _ in range(30)]
    answers = await reserve_together(store, claims)
    assert sum(isinstance(answer, Reservation) and answer.reserved for answer in answers) == 5
    assert await level(store, plenty) == (100, 5)
    assert await level(store, scarce) == (5, 5)
    assert await differences(store, plenty, scarce) == []


async def test_an_order_that_comes_twice_at_once_reserves_once(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 100})
    claims = [a_claim(("north", sku, 2)) for _ in range(10)]
    answers = await reserve_together(store, claims * 3)
    assert answers == [Reservation(reserved=True)] * 30
    assert await level(store, sku) == (100, 20)


async def test_a_refusal_among_many_is_its_own_alone(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 100})
    released, ended = a_claim(("north", sku, 1)), await accepted(store, a_draft())
    await write_down(store, ended, carrying(ended, OrderState.CANCELLED, 5))
    async with store.transaction() as session:
        await stock.release(session, key=released.key, order_id=released.order_id)
    good = [a_claim(("north", sku, 1)) for _ in range(3)]
    bad = [released, a_claim(("north", sku, 1), order_id=ended)]
    answers = await reserve_together(store, [good[0], *bad, *good[1:]])
    assert [str(answer) for answer in answers if isinstance(answer, Refused)] == [
        f"reservation {released.key} was released",
        f"order {ended} is cancelled: nothing new is begun for it",
    ]
    assert sum(isinstance(answer, Reservation) for answer in answers) == 3
    assert await level(store, sku) == (100, 3)


async def test_a_fault_in_one_of_many_is_told_to_it_alone(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 100})
    # More than a bigint holds: the whole statement fails.
    impossible = a_claim(("north", sku, 2**70))
    good = [a_claim(("north", sku, 1)) for _ in range(5)]
    answers = await reserve_together(store, [good[0], impossible, *good[1:]])
    assert [isinstance(answer, Exception) for answer in answers] == [False, True, False, False, False, False]
    assert await level(store, sku) == (100, 5)


async def test_who_stops_waiting_takes_no_one_elses_answer(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 100})
    reserver = Reserver(store)
    waiting = [asyncio.create_task(reserver.reserve(a_claim(("north", sku, 1)))) for _ in range(6)]
    await asyncio.sleep(0)
    waiting[2].cancel()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[2], asyncio.CancelledError)
    assert [answer for answer in answers if answer == Reservation(reserved=True)] == [
        Reservation(reserved=True)
    ] * 5
    assert (await reserver.reserve(a_claim(("north", sku, 1)))).reserved


@pytest.mark.parametrize("processes", [1, 8])
async def test_many_connections_that_fight_for_few_units_sell_exactly_those(
    store: Store, database_url: str, processes: int
) -> None:
    hot, cold = a_sku(), a_sku()
    await stocked(store, north={hot: 70, cold: 1_000})
    shops = [Store.at(database_url, pool_size=4, max_overflow=4) for _ in range(processes)]
    reservers = [Reserver(shop) for shop in shops]
    claims = [
        a_claim(("north", hot, 1 + number % 3), ("north", cold, 1))
        if number % 2
        else a_claim(("north", cold, 1), ("north", hot, 1 + number % 3))
        for number in range(160)
    ]
    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(reservers[number % processes].reserve(claim))
            for number, claim in enumerate(claims)
        ]
    sold = sum(
        claim.wanted[0].quantity if claim.wanted[0].sku == hot else claim.wanted[1].quantity
        for claim, answer in zip(claims, asked, strict=True)
        if answer.result().reserved
    )
    # One unit may be left that only those wanted who want more.
    on_hand, reserved = await level(store, hot)
    assert (on_hand, reserved) == (70, sold)
    assert sold >= 68
    assert await level(store, cold) == (1_000, sum(answer.result().reserved for answer in asked))
    assert await differences(store, hot, cold) == []
    for shop in shops:
        await shop.close()


async def test_release_consume_and_reserve_at_once_neither_block_each_other_nor_lose_a_unit(
    store: Store,
) -> None:
    skus = [a_sku() for _ in range(4)]
    await stocked(store, north=dict.fromkeys(skus, 60))
    reserver = Reserver(store)

    async def live(number: int) -> str:
        ordered = skus if number % 2 else skus[::-1]
        claim = a_claim(*(("north", sku, 1) for sku in ordered))
        if not (await reserver.reserve(claim)).reserved:
            return "short"
        async with store.transaction() as session:
            if number % 3:
                await stock.release(session, key=claim.key, order_id=claim.order_id)
                return "released"
            await stock.consume(session, claim.wanted[0].shipment_id)
            return "shipped"

    came_to = Counter(await asyncio.gather(*(live(number) for number in range(60))))
    assert came_to == {"released": 40, "shipped": 20}
    for sku in skus:
        assert await level(store, sku) == (40, 0)
    assert await differences(store, *skus) == []


# --- the books ---
async def test_books_that_somebody_bent_are_reported(store: Store) -> None:
    sku = a_sku()
    await stocked(store, north={sku: 10})
    claim = a_claim(("north", sku, 2))
    await reserve(store, claim)
    async with store.transaction() as session:
        await session.execute(text("UPDATE stock SET reserved = 5 WHERE sku = :sku"), {"sku": sku})
        await session.execute(text("SET LOCAL session_replication_role = replica"))
        await session.execute(text("UPDATE stock SET on_hand = 12 WHERE sku = :sku"), {"sku": sku})
    found = await differences(store, sku, strangers=True)
    assert [(one.trouble, one.found, one.expected) for one in found] == [
        (StockTrouble.MOVEMENTS_DIFFER, 12, 10),
        (StockTrouble.RESERVATIONS_DIFFER, 5, 2),
        (StockTrouble.HELD_FOR_NOBODY, 2, 0),
    ]
    assert found[2].source == claim.key


NODES = ("north", "south")


class StockLife(RuleBasedStateMachine):
    """Whatever happens in whatever order: rows are the sum of their movements, and somebody holds what is reserved."""

    store: Store
    runner: asyncio.Runner

    def __init__(self) -> None:
        super().__init__()
        self.skus = [a_sku(), a_sku()]
        self.on_hand = {(node, sku): 12 for node in NODES for sku in self.skus}
        self.orders: list[Claim] = []
        self.run(stocked(self.store, **{node: dict.fromkeys(self.skus, 12) for node in NODES}))

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    async def _in_transaction(self, work: Any) -> Any:
        async with self.store.transaction() as session:
            return await work(session)

    @rule(
        rows=st.lists(
            st.tuples(st.sampled_from(NODES), st.integers(0, 1), st.integers(1, 5)), min_size=1, max_size=4
        )
    )
    def a_new_order_comes(self, rows: list[tuple[str, int, int]]) -> None:
        claim = a_claim(*((node, self.skus[which], units) for node, which, units in rows))
        before = self.free()
        demand = Counter[tuple[str, str]]()
        for want in claim.wanted:
            demand[(want.node, want.sku)] += want.quantity
        answer = self.run(reserve(self.store, claim))
        assert answer.reserved == all(before[row] >= units for row, units in demand.items())
        if answer.reserved:
            self.orders.append(claim)

    @precondition(lambda self: self.orders)
    @rule(which=st.integers(0, 99), attempt=st.integers(1, 3), node=st.sampled_from(NODES))
    def an_order_reserves_again(self, which: int, attempt: int, node: str) -> None:
        known = self.orders[which % len(self.orders)]
        claim = a_claim((node, self.skus[0], 2), order_id=known.order_id, attempt=attempt)
        try:
            self.run(reserve(self.store, claim))
        except Refused:
            return
        self.orders.append(claim)

    @precondition(lambda self: self.orders)
    @rule(which=st.integers(0, 99), whole=st.booleans())
    def an_order_is_released(self, which: int, whole: bool) -> None:
        claim = self.orders[which % len(self.orders)]
        shipment = None if whole else claim.wanted[0].shipment_id
        self.run(
            self._in_transaction(
                lambda session: stock.release(
                    session, key=claim.key, order_id=claim.order_id, shipment_id=shipment
                )
            )
        )

    @precondition(lambda self: self.orders)
    @rule(which=st.integers(0, 99))
    def a_shipment_leaves(self, which: int) -> None:
        claim = self.orders[which % len(self.orders)]
        self.run(self._in_transaction(lambda session: stock.consume(session, claim.wanted[0].shipment_id)))

    @rule(node=st.sampled_from(NODES), units=st.integers(-3, 6))
    def somebody_changes_the_row_by_hand(self, node: str, units: int) -> None:
        async def change(session: Any) -> None:
            await session.execute(
                text(
                    "UPDATE stock SET on_hand = greatest(on_hand + :units, reserved) "
                    "WHERE node = :node AND sku = ANY (:skus)"
                ),
                {"units": units, "node": node, "skus": self.skus},
            )

        self.run(self._in_transaction(change))

    @invariant()
    def the_books_agree(self) -> None:
        assert self.run(differences(self.store, *self.skus)) == []

    def free(self) -> dict[tuple[str, str], int]:
        async def look(session: Any) -> dict[tuple[str, str], int]:
            return {(row.node, row.sku): row.available for row in await stock_of(session, self.skus, "web:1")}

        return dict(self.run(self._in_transaction(look)))


def test_the_books_agree_after_any_sequence_of_events(database_url: str) -> None:
    with asyncio.Runner() as runner:
        StockLife.runner, StockLife.store = runner, Store.at(database_url)
        try:
            StockLife.TestCase.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
            machine = StockLife.TestCase()
            machine.runTest()
        finally:
            runner.run(StockLife.store.close())
