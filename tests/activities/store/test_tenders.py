"""Tenders that are offered later: numbered once, whoever offers them at the same time, and never two for one link."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from activities.store import tenders
from activities.store.operations import PaymentOperation, answer, intend
from activities.store.store import Store
from activities.store.tenders import Offered
from models.errors import Conflict, NotAwaited, NotFound, OrderwrightError, PayLinkUsed
from models.journal import Carried
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.order import TenderKind
from models.review import Flag
from models.states import OrderState, ReviewState
from models.tender import CUSTOMER, PayLink, TenderState
from tests.builders import a_draft, a_review, accepted, carrying, gbp, write_down
from workflows import paying

TOMORROW = datetime.now(UTC) + timedelta(days=1)


async def awaiting(store: Store, state: OrderState = OrderState.AWAITING_CUSTOMER) -> str:
    order_id = await accepted(store, a_draft())
    await write_down(store, order_id, carrying(order_id, state, 3))
    return order_id


async def offered(store: Store, order_id: str, request_id: str = "r1", token: str = "tok_a") -> Offered:
    async with store.transaction() as session:
        return await tenders.offer(
            session, order_id, kind=TenderKind.CARD, token=token, request_id=request_id, actor="dana"
        )


async def paid(store: Store, order_id: str, version: int = 0, token: str = "tok_a") -> Offered:
    async with store.transaction() as session:
        link = PayLink(order_id, version, TOMORROW)
        return await tenders.offer_by_link(session, link, kind=TenderKind.CARD, token=token)


async def settle(store: Store, one: Offered, state: TenderState) -> None:
    async with store.transaction() as session:
        await tenders.settle_offer(session, one, state)


async def asked_by(store: Store, order_id: str, version: int = 0) -> Money:
    async with store.transaction() as session:
        return (await tenders.asked_by(session, PayLink(order_id, version, TOMORROW))).amount


async def test_tenders_are_numbered_from_one_and_a_repeat_is_the_same_one(store: Store) -> None:
    order_id = await awaiting(store)
    first = await offered(store, order_id, "r1", "tok_a")
    assert first.number == 1
    assert first.message.model_dump() == {"request_id": "r1", "actor": "dana", "tender": 1}
    assert await offered(store, order_id, "r1", "tok_a") == first
    assert (await offered(store, order_id, "r2", "tok_b")).number == 2
    async with store.transaction() as session:
        assert [part.token for part in await tenders.paying(session, order_id, 1)] == ["tok_a"]
        assert [part.token for part in await tenders.paying(session, order_id, 2)] == ["tok_b"]
        assert await tenders.tenders_of(session, order_id) == 2


async def test_a_request_id_is_used_for_one_tender(store: Store) -> None:
    order_id = await awaiting(store)
    await offered(store, order_id, "r1", "tok_a")
    with pytest.raises(Conflict, match="r1"):
        await offered(store, order_id, "r1", "tok_b")


async def test_many_at_once_get_a_number_each(store: Store) -> None:
    order_id = await awaiting(store)
    got = await asyncio.gather(*(offered(store, order_id, f"r{n}", f"tok_{n}") for n in range(8)))
    assert sorted(one.number for one in got) == list(range(1, 9))


async def test_of_many_clicks_on_one_link_one_card_is_taken(store: Store) -> None:
    order_id = await awaiting(store)
    outcomes = await asyncio.gather(
        *(paid(store, order_id, token=f"tok_{n % 2}") for n in range(8)), return_exceptions=True
    )
    taken = [one for one in outcomes if isinstance(one, Offered)]
    assert {one.number for one in taken} == {1}
    assert len(taken) == 4, "the same card again is answered like the first time"
    assert sum(isinstance(one, PayLinkUsed) for one in outcomes) == 4
    assert taken[0].offered_by == CUSTOMER


async def test_a_link_is_used_up_by_a_tender_that_came_another_way(store: Store) -> None:
    order_id = await awaiting(store)
    await offered(store, order_id)
    for refused in (paid(store, order_id), asked_by(store, order_id)):
        with pytest.raises(PayLinkUsed):
            await refused
    assert (await paid(store, order_id, version=1, token="tok_b")).number == 2


async def test_a_tender_that_the_run_did_not_want_uses_no_link_up(store: Store) -> None:
    order_id = await awaiting(store)
    unwanted = await paid(store, order_id)
    await settle(store, unwanted, TenderState.REFUSED)
    assert (await asked_by(store, order_id)).minor > 0
    again = await paid(store, order_id)
    assert (again.number, again.state) == (2, TenderState.OFFERED)
    assert again.request_id != unwanted.request_id


async def test_what_the_run_has_taken_stays_taken(store: Store) -> None:
    order_id = await awaiting(store)
    one = await offered(store, order_id)
    await settle(store, one, TenderState.TAKEN)
    await settle(store, one, TenderState.REFUSED)
    assert (await offered(store, order_id)).state is TenderState.TAKEN


@pytest.mark.parametrize("state", sorted(set(OrderState) - {OrderState.AWAITING_CUSTOMER}))
async def test_an_order_that_waits_for_nothing_takes_nothing(store: Store, state: OrderState) -> None:
    order_id = await awaiting(store, state)
    for refused in (offered(store, order_id), paid(store, order_id), asked_by(store, order_id)):
        with pytest.raises(NotAwaited, match=state):
            await refused
    async with store.transaction() as session:
        assert await tenders.tenders_of(session, order_id) == 0


async def test_a_hold_that_could_not_be_renewed_takes_another_tender_while_a_person_is_asked(
    store: Store,
) -> None:
    order_id = await awaiting(store, OrderState.IN_REVIEW)
    flag = Flag(code=tenders.RENEWAL_DECLINED, reason="declined: insufficient_funds")
    asked = a_review(order_id, 1, why_flagged=(flag,))
    other = a_review(order_id, 2, why_flagged=(Flag(code="high_value", reason="declined by nobody"),))
    await write_down(store, order_id, Carried(reviews=(other,)))
    with pytest.raises(NotAwaited):
        await offered(store, order_id)
    await write_down(store, order_id, Carried(reviews=(asked,)))
    assert (await offered(store, order_id)).number == 1
    await write_down(
        store, order_id, Carried(reviews=(asked.model_copy(update={"state": ReviewState.DECIDED}),))
    )
    with pytest.raises(NotAwaited):
        await offered(store, order_id, "r2", "tok_b")


def test_the_flag_is_the_one_that_the_run_raises() -> None:
    assert f'code="{tenders.RENEWAL_DECLINED}"' in Path(paying.__file__).read_text(encoding="utf-8")


async def test_a_repeat_is_answered_also_when_the_order_has_gone_on(store: Store) -> None:
    order_id = await awaiting(store)
    by_shop, by_link = await offered(store, order_id), await paid(store, order_id, version=1)
    await write_down(store, order_id, carrying(order_id, OrderState.CLOSED, 9))
    assert await offered(store, order_id) == by_shop
    assert await paid(store, order_id, version=1) == by_link


async def test_an_order_that_nobody_knows_has_no_tenders(store: Store) -> None:
    for refused in (offered(store, "web:nobody"), paid(store, "web:nobody"), asked_by(store, "web:nobody")):
        with pytest.raises(NotFound):
            await refused


async def test_what_was_declined_last_is_what_is_asked_for(store: Store) -> None:
    order_id = await awaiting(store)
    whole = await asked_by(store, order_id)
    for attempt, amount in ((1, whole), (2, gbp(77))):
        operation = PaymentOperation(
            key=f"order:{order_id}:authorise:{attempt}",
            order_id=order_id,
            kind=PaymentKind.AUTHORISE,
            amount=amount,
        )
        async with store.transaction() as session:
            await intend(session, operation)
            await answer(session, operation, state=OperationState.DECLINED, content={})
    assert await asked_by(store, order_id) == gbp(77)


async def test_only_what_no_run_has_heard_of_for_a_while_is_told_again(fresh_store: Store) -> None:
    order_id = await awaiting(fresh_store)
    first = await offered(fresh_store, order_id, "r1")
    taken = await offered(fresh_store, order_id, "r2")
    await settle(fresh_store, taken, TenderState.TAKEN)
    async with fresh_store.transaction() as session:
        assert await tenders.untold(session, timedelta(minutes=1), 10) == []
        assert await tenders.untold(session, timedelta(0), 10) == [first]


@pytest.mark.parametrize(
    "values",
    [
        "0, 'card', 'tok', 'offered'",
        "1, 'cash', 'tok', 'offered'",
        "1, 'card', '', 'offered'",
        "1, 'card', 't', 'no'",
    ],
)
async def test_the_database_refuses_what_is_no_tender(store: Store, values: str) -> None:
    order_id = await awaiting(store)
    number, kind, token, state = values.split(", ")
    statement = text(
        "INSERT INTO order_tenders (order_id, number, kind, token, request_id, state, offered_at, offered_by)"
        f" VALUES (:order_id, {number}, {kind}, {token}, 'r', {state}, now(), 'x')"
    )
    with pytest.raises((IntegrityError, OrderwrightError)):
        async with store.transaction() as session:
            await session.execute(statement, {"order_id": order_id})
