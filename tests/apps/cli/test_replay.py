"""Which orders a demo waits for, and how it accounts for those that rest with their customers."""

import httpx

from activities.store import tenders
from activities.store.store import Store
from apps.cli.accounts import _account
from apps.cli.replay import Replay, Standing, standings
from models.order import TenderKind
from models.states import OrderState
from tests.builders import a_draft, accepted, carrying, write_down


async def awaiting(store: Store) -> str:
    order_id = await accepted(store, a_draft())
    await write_down(store, order_id, carrying(order_id, OrderState.AWAITING_CUSTOMER, 3))
    return order_id


async def pay(store: Store, order_id: str, request_id: str = "r") -> None:
    async with store.transaction() as session:
        await tenders.offer(
            session, order_id, kind=TenderKind.CARD, token="tok_b", request_id=request_id, actor="customer"
        )


async def standing_of(store: Store, order_id: str) -> Standing:
    return (await standings(store, [order_id]))[order_id]


async def test_an_order_rests_with_its_customer_until_it_is_paid_and_again_when_that_was_declined(
    store: Store,
) -> None:
    order_id = await awaiting(store)
    waits = await standing_of(store, order_id)
    assert (waits.parked, waits.in_flight) == (True, False)
    assert _account(waits, None) == "awaiting_customer"
    await pay(store, order_id)
    paid = await standing_of(store, order_id)
    assert (paid.parked, paid.in_flight) == (False, True)
    assert _account(paid, None) == "still_open"
    await write_down(store, order_id, carrying(order_id, OrderState.AUTHORISING, 4))
    await write_down(store, order_id, carrying(order_id, OrderState.AWAITING_CUSTOMER, 5))
    declined = await standing_of(store, order_id)
    assert (declined.parked, declined.in_flight) == (True, False)


async def test_an_order_whose_run_is_gone_is_accounted_for_as_that(store: Store) -> None:
    waits = await standing_of(store, await awaiting(store))
    assert _account(waits, "orphaned") == "orphaned"


async def replayed(store: Store, order_id: str, steps: list[int], patience: float = 600) -> Replay:
    """A demo at whose end ``order_id`` waits; ``steps`` is what it hears of customers who are about to pay."""

    async def customers() -> int:
        if len(steps) > 1:
            return steps.pop(0)
        if steps.pop() == 0:
            await pay(store, order_id)
        await write_down(store, order_id, carrying(order_id, OrderState.CLOSED, 9))
        steps.append(0)
        return 0

    async with httpx.AsyncClient(base_url="http://127.0.0.1:9") as nobody:
        replay = Replay(nobody, store, limit=0, in_flight=1, patience=patience, customers=customers)
        replay.tally.standings[order_id] = Standing()
        await replay.run(iter(()))
    return replay


async def test_a_demo_waits_for_customers_who_are_about_to_pay(store: Store) -> None:
    order_id = await awaiting(store)
    tally = (await replayed(store, order_id, [1, 1, 0])).tally
    assert tally.standings[order_id].state is OrderState.CLOSED
    assert not tally.gave_up


async def test_a_demo_does_not_wait_for_ever_for_a_customer_on_a_slow_clock(store: Store) -> None:
    order_id = await awaiting(store)
    tally = (await replayed(store, order_id, [1] * 1_000, patience=1)).tally
    assert tally.standings[order_id].state is OrderState.AWAITING_CUSTOMER
    assert not tally.gave_up
