"""Every movement of money: once, whatever is retried, repeated, lost on the way or called off meanwhile."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import select
from sqlmodel import col

from activities.adapters import http
from activities.adapters.neighbours import open_neighbours
from activities.payments import PaymentActivities
from activities.ports import PaymentProvider
from activities.routing import _summary
from activities.store import ledger, reads, tenders, warehouse
from activities.store.plans import keep_plan, plan_id, split_of
from activities.store.stock import Wanted, reserve
from activities.store.store import Store
from activities.store.views import MoneyTotals
from models.effects import (
    Authorisation,
    AuthorisePayment,
    Captured,
    CapturePayment,
    RefundPayment,
    SettleOrder,
    VoidAuthorisation,
)
from models.errors import NeighbourRefused, NeighbourUnavailable, OutcomeUnknown
from models.journal import Carried
from models.ledger import TransactionKind
from models.money import Money
from models.order import OrderDraft, TenderKind
from models.states import OrderState, ShipmentState
from models.stock import Count, CountedUnits, ShortPick, SkuUnits
from models.tables.journal import OutcomeRow
from models.tables.stock import ReservedUnitsRow, UnitState
from policies.money import Parts, by_shipment, whole_of
from tests.activities.conftest import Street
from tests.activities.running import failure_of, losing, run
from tests.apps.simulators.running import Simulator, answer, ask, listening, running, say_nothing
from tests.builders import (
    NOON,
    a_draft,
    a_shipment,
    accepted,
    carrying,
    gbp,
    new_number,
    paying_with,
    skus_of,
    stocked,
    write_down,
)
from tests.policies.test_money import plan_of

TOTAL = gbp(1395)


@pytest.fixture
def payments(store: Store, street: Street) -> PaymentActivities:
    return PaymentActivities(store, street.near.payments)


def authorise(order_id: str, attempt: int = 1) -> AuthorisePayment:
    return AuthorisePayment(order_id=order_id, amount=TOTAL, key=f"order:{order_id}:authorise:{attempt}")


def void(order_id: str, attempt: int = 1) -> VoidAuthorisation:
    return VoidAuthorisation(
        order_id=order_id,
        authorisation_key=authorise(order_id).key,
        key=f"order:{order_id}:void:{attempt}",
    )


def capture(order_id: str, held: Authorisation, amount: Money = TOTAL, number: int = 1) -> CapturePayment:
    assert held.authorisation_id is not None
    return CapturePayment(
        order_id=order_id,
        shipment_id=f"{order_id}:{number}",
        authorisation_id=held.authorisation_id,
        amount=amount,
        key=f"shipment:{order_id}:{number}:capture:1",
    )


def settle(order_id: str, final: OrderState = OrderState.CLOSED, attempt: int = 1) -> SettleOrder:
    return SettleOrder(
        order_id=order_id,
        total=TOTAL,
        authorisation_key=authorise(order_id).key,
        key=f"order:{order_id}:settle:{attempt}",
        closing=carrying(order_id, final, 90, closed_at=NOON),
    )


async def money_of(store: Store, order_id: str) -> MoneyTotals:
    async with store.transaction() as session:
        return await reads.money(session, order_id, "GBP")


async def state_of(store: Store, order_id: str) -> OrderState:
    async with store.transaction() as session:
        order = await reads.order(session, order_id)
    assert order is not None
    return order.state


def declined_draft(token: str) -> OrderDraft:
    draft = a_draft()
    return OrderDraft.model_validate(draft.model_dump() | paying_with(token, draft))


async def operations_of(store: Store, order_id: str) -> dict[str, str]:
    async with store.transaction() as session:
        return {one.kind: one.state for one in await reads.payments(session, order_id)}


async def reserved_for(store: Store, order_id: str) -> None:
    """Goods of the order's first shipment are held."""
    sku = f"SKU-{order_id}"
    await stocked(store, north={sku: 2})
    wanted = Wanted(shipment_id=f"{order_id}:1", node="north", sku=sku, quantity=2)
    async with store.transaction() as session:
        held = await reserve(
            session,
            key=f"order:{order_id}:reserve:1",
            order_id=order_id,
            plan_id="none",
            wanted=[wanted],
            expires_at=datetime.now(UTC) + timedelta(days=1),
        )
    assert held.reserved


async def units_of(store: Store, order_id: str) -> set[str]:
    """How the units of the order's first shipment stand."""
    async with store.transaction() as session:
        return set(
            await session.scalars(
                select(col(ReservedUnitsRow.state)).where(
                    col(ReservedUnitsRow.shipment_id) == f"{order_id}:1"
                )
            )
        )


class Without:
    """A provider that does, and whose named methods then fail."""

    def __init__(self, port: object, **failures: Exception | None) -> None:
        self._port = port
        self._failures = failures

    def __getattr__(self, name: str) -> Any:
        if name not in self._failures:
            return getattr(self._port, name)

        async def call(**_: Any) -> Any:
            failure = self._failures[name]
            if failure is not None:
                raise failure
            return None

        return call


# --- authorise ---
async def test_money_is_held_once_however_often_the_step_runs(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    first = await run(payments.authorise_payment, authorise(order_id))
    again = await run(payments.authorise_payment, authorise(order_id))
    assert first.approved
    assert again == first
    assert len(street.effects("payment", kind="authorisation", reference=order_id)) == 1
    assert (await money_of(store, order_id)).held == TOTAL


async def test_what_is_carried_is_written_with_the_intention(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    carried = carrying(order_id, OrderState.AUTHORISING, 4)
    await run(payments.authorise_payment, authorise(order_id).model_copy(update={"carried": carried}))
    assert await state_of(store, order_id) is OrderState.AUTHORISING


@pytest.mark.parametrize("token", ["tok_declined_x", "tok_insufficient_x"])
async def test_a_decline_is_an_answer_and_stays_one(
    payments: PaymentActivities, store: Store, token: str
) -> None:
    order_id = await accepted(store, declined_draft(token))
    first = await run(payments.authorise_payment, authorise(order_id))
    assert not first.approved
    assert await run(payments.authorise_payment, authorise(order_id)) == first
    assert (await money_of(store, order_id)).held == gbp(0)
    assert (await run(payments.void_authorisation, void(order_id))).amount is None


async def test_a_tender_that_was_offered_later_is_tried_with_its_own_token(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await accepted(store, declined_draft("tok_insufficient_x"))
    assert not (await run(payments.authorise_payment, authorise(order_id))).approved
    await write_down(store, order_id, carrying(order_id, OrderState.AWAITING_CUSTOMER, 5))
    async with store.transaction() as session:
        offered = await tenders.offer(
            session, order_id, kind=TenderKind.CARD, token="tok_other", request_id="r1", actor="dana"
        )
    again = authorise(order_id, attempt=2).model_copy(update={"tender": offered.number})
    assert (await run(payments.authorise_payment, again)).approved
    assert (await money_of(store, order_id)).held == TOTAL


async def test_a_tender_that_nobody_offered_is_a_failure_for_good(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    nobodys = authorise(order_id).model_copy(update={"tender": 3})
    failure = await failure_of(payments.authorise_payment, nobodys)
    assert (failure.type, failure.non_retryable) == ("not_found", True)
    assert "has no tender 3" in failure.message
    assert street.effects("payment", kind="authorisation", reference=order_id) == []


async def test_an_answer_lost_after_the_effect_is_looked_up_at_once(street: Street, store: Store) -> None:
    order_id = await accepted(store, a_draft())
    forgetful = PaymentActivities(store, losing(street.near.payments, "authorise"))
    assert (await run(forgetful.authorise_payment, authorise(order_id))).approved
    assert len(street.effects("payment", kind="authorisation", reference=order_id)) == 1


async def test_a_process_that_died_after_the_effect_finds_it_again(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    dying = PaymentActivities(store, losing(street.near.payments, "authorise", "find_authorisation", times=2))
    failure = await failure_of(dying.authorise_payment, authorise(order_id))
    assert (failure.type, failure.non_retryable) == ("outcome_unknown", False)
    assert (await money_of(store, order_id)).unclear == 1

    assert (await run(payments.authorise_payment, authorise(order_id))).approved
    assert len(street.effects("payment", kind="authorisation", reference=order_id)) == 1
    assert (await money_of(store, order_id)).unclear == 0


async def test_a_busy_provider_is_asked_again_when_it_said(street: Street, store: Store) -> None:
    order_id = await accepted(store, a_draft())
    async with listening() as post:
        post.behaviour = answer(503, Retry_After="7")
        async with open_neighbours(*[post.url] * 4) as busy:
            asking = PaymentActivities(store, busy.payments)
            failure = await failure_of(asking.authorise_payment, authorise(order_id))
    assert (failure.type, failure.non_retryable) == ("neighbour_unavailable", False)
    assert failure.next_retry_delay == timedelta(seconds=7)


async def test_an_hour_between_two_attempts_is_no_half_hour_of_trying(street: Street, store: Store) -> None:
    order_id = await accepted(store, a_draft())
    async with listening() as post:
        post.behaviour = answer(503, Retry_After="3600")
        async with open_neighbours(*[post.url] * 4) as busy:
            asking = PaymentActivities(store, busy.payments)
            failure = await failure_of(asking.authorise_payment, authorise(order_id))
    assert failure.next_retry_delay == timedelta(seconds=30)


async def test_an_attempt_with_all_its_exchanges_ends_before_its_time_out(
    payments: PaymentActivities, street: Street, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = await accepted(store, a_draft())
    # Each exchange alone is in time; asking and looking up together would not be.
    monkeypatch.setattr(http, "WHOLE_EXCHANGE_SECONDS", 3.0)
    start_to_close = timedelta(seconds=5)
    async with listening() as post:
        post.behaviour = say_nothing
        async with open_neighbours(*[post.url] * 4) as silent:
            asking = PaymentActivities(store, silent.payments)
            failure = await failure_of(asking.authorise_payment, authorise(order_id), start_to_close)
    assert (failure.type, failure.non_retryable) == ("outcome_unknown", False)
    assert "authorise_payment: the attempt took too long and was broken off" in failure.message
    assert (await run(payments.authorise_payment, authorise(order_id))).approved


async def test_a_refusal_for_good_is_not_retried_and_may_be_tried_again_by_a_person(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    async with listening() as post:
        post.behaviour = answer(400, b"{}")
        async with open_neighbours(*[post.url] * 4) as strict:
            asking = PaymentActivities(store, strict.payments)
            failure = await failure_of(asking.authorise_payment, authorise(order_id))
    assert (failure.type, failure.non_retryable) == ("neighbour_refused", True)
    assert (await money_of(store, order_id)).unclear == 0
    assert (await run(payments.authorise_payment, authorise(order_id))).approved


async def test_no_document_is_a_failure_for_good(payments: PaymentActivities) -> None:
    failure = await failure_of(payments.authorise_payment, authorise("web:none"))
    assert (failure.type, failure.non_retryable) == ("not_found", True)


# --- void ---
async def test_a_void_gives_back_what_is_held_once(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    await run(payments.authorise_payment, authorise(order_id))
    assert (await run(payments.void_authorisation, void(order_id))).amount == TOTAL
    assert (await run(payments.void_authorisation, void(order_id))).amount == TOTAL
    assert (await run(payments.void_authorisation, void(order_id, attempt=2))).amount == gbp(0)
    money = await money_of(store, order_id)
    assert (money.held, money.voided, money.unclear) == (gbp(0), TOTAL, 0)
    states = [e["state"] for e in street.effects("payment", kind="authorisation", reference=order_id)]
    assert states == ["voided"]


async def test_a_void_before_the_authorisation_refuses_it_when_it_comes_late(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    assert (await run(payments.void_authorisation, void(order_id))).amount is None
    failure = await failure_of(payments.authorise_payment, authorise(order_id))
    assert (failure.type, failure.non_retryable) == ("refused", True)
    assert street.effects("payment", kind="authorisation", reference=order_id) == []


async def test_a_void_finds_an_authorisation_whose_answer_never_came(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    dying = PaymentActivities(store, losing(street.near.payments, "authorise", "find_authorisation", times=2))
    await failure_of(dying.authorise_payment, authorise(order_id))

    assert (await run(payments.void_authorisation, void(order_id))).amount == TOTAL
    money = await money_of(store, order_id)
    assert (money.authorised, money.voided, money.held, money.unclear) == (TOTAL, TOTAL, gbp(0), 0)


class VoidedMeanwhile:
    """The void runs while the request is on its way: before it arrives, or before its answer is back."""

    def __init__(self, street: Street, store: Store, order_id: str, *, before_it_arrives: bool) -> None:
        self._provider = street.near.payments
        self._void = PaymentActivities(store, self._provider).void_authorisation
        self._order_id = order_id
        self._before = before_it_arrives

    async def authorise(self, **arguments: Any) -> Authorisation:
        if self._before:
            await run(self._void, void(self._order_id))
            return await self._provider.authorise(**arguments)
        held = await self._provider.authorise(**arguments)
        await run(self._void, void(self._order_id))
        return held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)


@pytest.mark.parametrize(
    ("before_it_arrives", "failure_type", "states"),
    [(True, "neighbour_refused", []), (False, "refused", ["voided"])],
)
async def test_an_authorisation_voided_while_under_way_leaves_nothing_held(
    street: Street, store: Store, before_it_arrives: bool, failure_type: str, states: list[str]
) -> None:
    order_id = await accepted(store, a_draft())
    meanwhile = VoidedMeanwhile(street, store, order_id, before_it_arrives=before_it_arrives)
    overtaken = PaymentActivities(store, cast(PaymentProvider, meanwhile))
    failure = await failure_of(overtaken.authorise_payment, authorise(order_id))

    assert (failure.type, failure.non_retryable) == (failure_type, True)
    effects = street.effects("payment", kind="authorisation", reference=order_id)
    assert [effect["state"] for effect in effects] == states
    money = await money_of(store, order_id)
    assert (money.held, money.unclear) == (gbp(0), 0)


async def test_a_request_that_was_lost_on_its_way_holds_nothing_when_it_arrives_after_the_void(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())

    class Stuck:
        """The request is somewhere on the network, and the process that sent it is gone."""

        async def authorise(self, **_: Any) -> Authorisation:
            raise OutcomeUnknown("no answer")

        async def find_authorisation(self, **_: Any) -> None:
            return None

    stuck = PaymentActivities(store, cast(PaymentProvider, Stuck()))
    await failure_of(stuck.authorise_payment, authorise(order_id))
    assert (await run(payments.void_authorisation, void(order_id))).amount is None

    with pytest.raises(NeighbourRefused, match="called_off"):
        await street.near.payments.authorise(
            key=authorise(order_id).key, reference=order_id, token="tok_visa", amount=TOTAL
        )
    money = await money_of(store, order_id)
    assert (money.authorised, money.held, money.unclear) == (gbp(0), gbp(0), 0)
    assert (await run(payments.settle_order, settle(order_id, OrderState.CANCELLED))).balanced


async def test_a_void_that_died_before_its_books_were_written_is_repeated_with_the_same_result(
    street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    dying = losing(street.near.payments, "authorise", "find_authorisation", times=3)
    forgetful = PaymentActivities(store, dying)
    await failure_of(forgetful.authorise_payment, authorise(order_id))
    # The void is done at the provider, and the look-up behind it gets no answer.
    await failure_of(forgetful.void_authorisation, void(order_id))
    assert (await money_of(store, order_id)).unclear == 1

    assert (await run(forgetful.void_authorisation, void(order_id))).amount == TOTAL
    money = await money_of(store, order_id)
    assert (money.authorised, money.voided, money.held, money.unclear) == (TOTAL, TOTAL, gbp(0), 0)


async def test_a_void_whose_answer_is_lost_is_safely_repeated(street: Street, store: Store) -> None:
    order_id = await accepted(store, a_draft())
    forgetful = PaymentActivities(store, losing(street.near.payments, "void_by_key"))
    await run(forgetful.authorise_payment, authorise(order_id))
    failure = await failure_of(forgetful.void_authorisation, void(order_id))
    assert (failure.type, failure.non_retryable) == ("outcome_unknown", False)
    assert (await run(forgetful.void_authorisation, void(order_id))).amount == TOTAL


# --- capture and refund ---
async def test_a_capture_happens_once_also_when_its_answer_is_lost(street: Street, store: Store) -> None:
    order_id = await accepted(store, a_draft())
    forgetful = PaymentActivities(store, losing(street.near.payments, "capture"))
    held = await run(forgetful.authorise_payment, authorise(order_id))
    first = await run(forgetful.capture_payment, capture(order_id, held))
    assert await run(forgetful.capture_payment, capture(order_id, held)) == first
    assert [e["amount_minor"] for e in street.effects("payment", kind="capture", reference=order_id)] == [
        1395
    ]


async def test_more_than_was_held_is_refused_before_the_provider_hears_of_it(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    held = await run(payments.authorise_payment, authorise(order_id))
    await run(payments.capture_payment, capture(order_id, held, gbp(1000), number=1))
    failure = await failure_of(payments.capture_payment, capture(order_id, held, gbp(396), number=2))
    assert (failure.type, failure.non_retryable) == ("capture_above_authorised", True)
    assert "beyond bounds" in failure.message
    assert "have the difference authorised first" in failure.message
    assert len(street.effects("payment", kind="capture", reference=order_id)) == 1


async def test_a_parcel_of_free_goods_moves_no_money(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    held = await run(payments.authorise_payment, authorise(order_id))
    taken = await run(payments.capture_payment, capture(order_id, held, gbp(0)))
    assert taken.amount == gbp(0)
    assert street.effects("payment", kind="capture", reference=order_id) == []


async def test_a_capture_says_what_it_was_for_as_the_shipment_is_planned(
    payments: PaymentActivities, store: Store
) -> None:
    draft = a_draft(lines=2)
    order_id = await accepted(store, draft)
    held = await run(
        payments.authorise_payment,
        authorise(order_id).model_copy(update={"amount": gbp(draft.totals.total_minor)}),
    )
    plan = plan_of({"1": 2, "2": 1}, {"2": 1})
    shares = by_shipment(draft, plan)
    amounts = [gbp(shares[number].parts.total) for number in (1, 2)]
    async with store.transaction() as session:
        summary = _summary(plan_id(order_id, 1), plan, draft, gbp(draft.totals.total_minor))
        await keep_plan(session, order_id, 1, plan, summary)
    await write_down(store, order_id, carrying(order_id, OrderState.RESERVING, 5, plan_id=summary.plan_id))
    for number, amount in enumerate(amounts, start=1):
        await run(payments.capture_payment, capture(order_id, held, amount, number))
    async with store.transaction() as session:
        books = await ledger.of_order(session, order_id)
    for number, wrote in enumerate(books.transactions[1:], start=1):
        posted = {entry.account: -entry.amount.minor for entry in wrote.entries}
        assert posted["sales.goods"] == shares[number].parts.goods
        assert posted["sales.freight"] == shares[number].parts.freight


async def test_a_plan_made_anew_has_what_the_shipments_that_go_on_leave(store: Store) -> None:
    draft = a_draft(lines=2)
    order_id = await accepted(store, draft)
    total = draft.totals.total_minor
    first, anew = plan_of({"1": 2}, {"2": 2}), plan_of({"2": 1}, {"2": 1})
    anew = anew.model_copy(
        update={
            "shipments": tuple(
                shipment.model_copy(update={"number": number})
                for number, shipment in enumerate(anew.shipments, start=3)
            )
        }
    )
    kept = by_shipment(draft, first)[1].parts
    async with store.transaction() as session:
        for attempt, (plan, shared) in enumerate(((first, total), (anew, total - kept.total)), start=1):
            summary = _summary(plan_id(order_id, attempt), plan, draft, gbp(shared))
            await keep_plan(session, order_id, attempt, plan, summary)
    for number, state in (
        (1, ShipmentState.HANDED_OVER),
        (2, ShipmentState.CANCELLED),
        (3, ShipmentState.PICKED),
        (4, ShipmentState.PICKED),
    ):
        await write_down(store, order_id, Carried(shipment=a_shipment(order_id, number, state=state)))
    async with store.transaction() as session:
        parts = [
            Parts(**(await split_of(session, order_id, f"{order_id}:{number}", amount) or {}))
            for number, amount in [
                (1, gbp(kept.total)),
                *((ref.number, ref.amount) for ref in summary.shipments),
            ]
        ]
        assert await split_of(session, order_id, f"{order_id}:4", gbp(1)) is None
    assert sum(parts, start=Parts()) == whole_of(draft)
    assert parts[0] == kept


async def test_a_refund_happens_once_and_never_exceeds_the_capture(street: Street, store: Store) -> None:
    order_id = await accepted(store, a_draft())
    forgetful = PaymentActivities(store, losing(street.near.payments, "refund"))
    held = await run(forgetful.authorise_payment, authorise(order_id))
    taken = await run(forgetful.capture_payment, capture(order_id, held))
    refund = RefundPayment(
        order_id=order_id,
        shipment_id=f"{order_id}:1",
        capture_id=taken.capture_id,
        amount=gbp(1000),
        cause="lost",
        key=f"shipment:{order_id}:1:refund:1",
    )
    first = await run(forgetful.refund_payment, refund)
    assert await run(forgetful.refund_payment, refund) == first
    again = refund.model_copy(update={"key": f"shipment:{order_id}:1:refund:2"})
    assert (await failure_of(forgetful.refund_payment, again)).type == "refund_above_captured"
    euros = again.model_copy(update={"amount": Money(minor=1, currency="EUR")})
    failure = await failure_of(forgetful.refund_payment, euros)
    assert (failure.type, failure.non_retryable) == ("currency_mismatch", True)
    assert "say the amount in GBP" in failure.message
    assert [e["amount_minor"] for e in street.effects("payment", kind="refund", reference=order_id)] == [1000]
    assert (await money_of(store, order_id)).refunded == gbp(1000)


# --- settle ---
async def shipped(
    payments: PaymentActivities,
    store: Store,
    amount: Money = TOTAL,
    state: ShipmentState = ShipmentState.DELIVERED,
) -> str:
    """An order with one shipment on its way, of which ``amount`` was captured."""
    order_id = await accepted(store, a_draft())
    held = await run(payments.authorise_payment, authorise(order_id))
    await run(payments.capture_payment, capture(order_id, held, amount))
    shipment = a_shipment(order_id, version=9, state=state, handed_over_at=NOON, delivered_at=NOON)
    await write_down(store, order_id, Carried(shipment=shipment))
    return order_id


async def test_a_delivered_order_settles_and_closes(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await shipped(payments, store)
    settled = await run(payments.settle_order, settle(order_id))
    assert settled.balanced, settled.explanation
    assert (settled.captured, settled.refunded, settled.voided) == (TOTAL, gbp(0), gbp(0))
    assert await run(payments.settle_order, settle(order_id)) == settled
    assert await state_of(store, order_id) is OrderState.CLOSED
    assert street.effects("payment", kind="void", reference=order_id) == []


async def test_settling_gives_back_the_rest_of_the_hold(payments: PaymentActivities, store: Store) -> None:
    order_id = await shipped(payments, store, amount=gbp(1000))
    shipment = a_shipment(
        order_id, version=10, state=ShipmentState.DELIVERED, handed_over_at=NOON, amount=gbp(1000)
    )
    await write_down(store, order_id, Carried(shipment=shipment))
    settled = await run(payments.settle_order, settle(order_id))
    assert settled.balanced, settled.explanation
    assert settled.voided == gbp(395)


async def test_a_shipment_in_review_that_left_with_the_carrier_still_balances(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await shipped(payments, store, state=ShipmentState.IN_REVIEW)
    assert (await run(payments.settle_order, settle(order_id, OrderState.COMPENSATED))).balanced


async def test_an_order_is_not_closed_before_its_shipments_had_their_last_word(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await shipped(payments, store, state=ShipmentState.OUT_FOR_DELIVERY)
    failure = await failure_of(payments.settle_order, settle(order_id))
    assert (failure.type, failure.non_retryable) == ("shipment_still_reporting", False)
    last = a_shipment(
        order_id, version=10, state=ShipmentState.DELIVERED, handed_over_at=NOON, delivered_at=NOON
    )
    await write_down(store, order_id, Carried(shipment=last))
    assert (await run(payments.settle_order, settle(order_id))).balanced
    async with store.transaction() as session:
        outcome = await session.get(OutcomeRow, order_id)
    assert outcome is not None
    assert outcome.actual_at == NOON


async def test_money_that_does_not_add_up_closes_nothing_and_says_why(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await shipped(payments, store, amount=gbp(1000))
    settled = await run(payments.settle_order, settle(order_id))
    assert not settled.balanced
    assert "10.00 GBP captured, 13.95 GBP due" in settled.explanation
    assert await state_of(store, order_id) is OrderState.RECEIVED


async def test_money_taken_for_a_cancelled_shipment_does_not_balance(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    held = await run(payments.authorise_payment, authorise(order_id))
    await run(payments.capture_payment, capture(order_id, held))
    cancelled = a_shipment(order_id, version=9, state=ShipmentState.CANCELLED)
    await write_down(store, order_id, Carried(shipment=cancelled))
    settled = await run(payments.settle_order, settle(order_id, OrderState.CANCELLED))
    assert not settled.balanced
    assert "is cancelled" in settled.explanation


async def test_a_cancelled_order_gives_everything_back_and_closes(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    await run(payments.authorise_payment, authorise(order_id))
    settled = await run(payments.settle_order, settle(order_id, OrderState.CANCELLED))
    assert settled.balanced, settled.explanation
    assert (settled.captured, settled.voided) == (gbp(0), TOTAL)
    assert await state_of(store, order_id) is OrderState.CANCELLED


# --- a hold that goods depend on ---
async def left_unpaid(payments: PaymentActivities, store: Store, **changes: Any) -> str:
    """An order whose parcel left, and nothing was captured for it yet: its run is still trying."""
    order_id = await accepted(store, a_draft())
    await run(payments.authorise_payment, authorise(order_id))
    values: dict[str, Any] = {"version": 9, "state": ShipmentState.HANDED_OVER, "handed_over_at": NOON}
    values |= changes
    await write_down(store, order_id, Carried(shipment=a_shipment(order_id, **values)))
    return order_id


@pytest.mark.parametrize(
    ("state", "handed_over_at"),
    [
        (ShipmentState.HANDED_OVER, None),
        (ShipmentState.IN_TRANSIT, NOON),
        (ShipmentState.IN_REVIEW, NOON),
        (ShipmentState.NEEDS_OPERATOR, NOON),
        (ShipmentState.RETURNING, NOON),
        (ShipmentState.DELIVERED, NOON),
    ],
)
async def test_the_hold_under_a_parcel_that_left_unpaid_is_not_given_back(
    payments: PaymentActivities, store: Store, state: ShipmentState, handed_over_at: datetime | None
) -> None:
    order_id = await left_unpaid(payments, store, state=state, handed_over_at=handed_over_at)
    failure = await failure_of(payments.void_authorisation, void(order_id))
    assert (failure.type, failure.non_retryable) == ("refused", True)
    assert f"shipment {order_id}:1 has left" in failure.message
    assert "finish its capture by hand" in failure.message
    settled = await run(payments.settle_order, settle(order_id, OrderState.CANCELLED))
    assert not settled.balanced
    assert f"shipment {order_id}:1 has left" in settled.explanation
    assert (await money_of(store, order_id)).held == TOTAL
    assert await state_of(store, order_id) is OrderState.RECEIVED


async def test_a_parcel_that_was_paid_in_part_keeps_the_rest_of_the_hold(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await shipped(payments, store, amount=gbp(1000), state=ShipmentState.IN_TRANSIT)
    settled = await run(payments.settle_order, settle(order_id, OrderState.CANCELLED))
    assert not settled.balanced
    assert "10.00 GBP captured, 13.95 GBP due" in settled.explanation
    assert (await money_of(store, order_id)).held == gbp(395)


async def test_an_order_that_thinks_all_has_arrived_keeps_the_hold_of_a_parcel_it_does_not_know_of(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await left_unpaid(payments, store, state=ShipmentState.IN_TRANSIT)
    failure = await failure_of(payments.settle_order, settle(order_id))
    assert failure.type == "shipment_still_reporting"
    assert (await money_of(store, order_id)).held == TOTAL


async def test_once_the_parcel_is_paid_for_the_rest_of_the_hold_is_given_back(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await left_unpaid(payments, store, amount=gbp(1000))
    await failure_of(payments.void_authorisation, void(order_id))
    held = await run(payments.authorise_payment, authorise(order_id))
    assert held.authorisation_id is not None
    taken = await street.near.payments.capture(
        key=f"by hand {order_id}", authorisation_id=held.authorisation_id, amount=gbp(1000)
    )
    finished = capture(order_id, held, gbp(1000)).model_copy(
        update={"by_hand": taken.model_dump(mode="json")}
    )
    await run(payments.capture_payment, finished)
    assert (await run(payments.void_authorisation, void(order_id))).amount == gbp(395)
    settled = await run(payments.settle_order, settle(order_id, OrderState.CANCELLED))
    assert settled.balanced, settled.explanation


@pytest.mark.parametrize("state", [ShipmentState.CANCELLED, ShipmentState.LOST, ShipmentState.RETURNED])
async def test_a_parcel_that_the_customer_never_got_keeps_no_hold(
    payments: PaymentActivities, store: Store, state: ShipmentState
) -> None:
    order_id = await left_unpaid(payments, store, state=state)
    assert (await run(payments.void_authorisation, void(order_id))).amount == TOTAL


async def test_one_parcel_on_the_shelf_beside_one_that_was_paid_for_keeps_no_hold(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    held = await run(payments.authorise_payment, authorise(order_id))
    await run(payments.capture_payment, capture(order_id, held, gbp(1000)))
    gone = a_shipment(
        order_id, version=9, state=ShipmentState.DELIVERED, handed_over_at=NOON, amount=gbp(1000)
    )
    await write_down(store, order_id, Carried(shipment=gone))
    called_off = a_shipment(order_id, 2, version=9, state=ShipmentState.CANCELLED, amount=gbp(395))
    await write_down(store, order_id, Carried(shipment=called_off))
    settled = await run(payments.settle_order, settle(order_id))
    assert settled.balanced, settled.explanation
    assert settled.voided == gbp(395)


async def test_a_hold_that_was_given_back_by_hand_is_written_down_whatever_left(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await left_unpaid(payments, store)
    await run(payments.void_authorisation, void(order_id).model_copy(update={"by_hand": True}))
    assert (await money_of(store, order_id)).held == gbp(0)


async def test_a_hold_that_was_given_back_before_the_parcel_left_stays_given_back(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    await run(payments.authorise_payment, authorise(order_id))
    first = await run(payments.void_authorisation, void(order_id))
    gone = a_shipment(order_id, version=9, state=ShipmentState.HANDED_OVER, handed_over_at=NOON)
    await write_down(store, order_id, Carried(shipment=gone))
    assert await run(payments.void_authorisation, void(order_id)) == first


# --- holds that end in another way than by our own void ---
async def test_a_hold_that_expired_gives_back_nothing_and_settles(store: Store, tmp_path: Path) -> None:
    short_lived = Simulator("payment", tmp_path, "--hold-days", "0.00001")
    with running(short_lived):
        async with open_neighbours(short_lived.url, "http://x", "http://x", "http://x") as near:
            payments = PaymentActivities(store, near.payments)
            order_id = await accepted(store, a_draft())
            await run(payments.authorise_payment, authorise(order_id))
            assert (await money_of(store, order_id)).held == TOTAL
            await asyncio.sleep(1)
            answer = await run(payments.void_authorisation, void(order_id))
            assert answer.amount == gbp(0)
            settled = await run(payments.settle_order, settle(order_id, OrderState.CANCELLED))
    assert settled.balanced, settled.explanation
    assert (await money_of(store, order_id)).held == gbp(0)
    assert await state_of(store, order_id) is OrderState.CANCELLED


async def test_a_capture_of_a_hold_that_expired_is_an_answer_and_the_next_one_out_of_a_new_hold_takes_the_money(
    store: Store, tmp_path: Path
) -> None:
    order_id = await accepted(store, a_draft())
    gone = a_shipment(order_id, version=9, state=ShipmentState.HANDED_OVER, handed_over_at=NOON, amount=TOTAL)
    short_lived = Simulator("payment", tmp_path, "--hold-days", "1e-9")
    with running(short_lived):
        async with open_neighbours(short_lived.url, "http://x", "http://x", "http://x") as near:
            payments = PaymentActivities(store, near.payments)
            await reserved_for(store, order_id)
            held = await run(payments.authorise_payment, authorise(order_id))
            expired = await run(payments.capture_payment, capture(order_id, held))
            again = await run(payments.capture_payment, capture(order_id, held))
            statement = ask(short_lived, "GET", "/statement").body
    assert (expired.expired, expired.capture_id, expired.amount) == (True, "", gbp(0))
    assert again == expired
    money = await money_of(store, order_id)
    assert (money.held, money.captured, money.unclear) == (gbp(0), gbp(0), 0)
    assert await operations_of(store, order_id) == {"authorise": "called_off", "capture": "declined"}
    assert await units_of(store, order_id) == {UnitState.HELD}, "the goods wait for the capture that follows"
    assert [effect["state"] for effect in statement["effects"]] == ["expired"]
    async with store.transaction() as session:
        books = await ledger.of_order(session, order_id)
    assert [entry.kind for entry in books.transactions] == [TransactionKind.AUTHORISE, TransactionKind.LAPSE]

    lasting = Simulator("payment", tmp_path)
    with running(lasting):
        async with open_neighbours(lasting.url, "http://x", "http://x", "http://x") as near:
            payments = PaymentActivities(store, near.payments)
            await write_down(store, order_id, Carried(shipment=gone))
            renewed = await run(payments.authorise_payment, authorise(order_id, attempt=2))
            next_key = f"shipment:{order_id}:1:capture:2"
            taken = await run(
                payments.capture_payment,
                capture(order_id, renewed).model_copy(update={"key": next_key}),
            )
            done = a_shipment(
                order_id, version=10, state=ShipmentState.DELIVERED, handed_over_at=NOON, amount=TOTAL
            )
            await write_down(store, order_id, Carried(shipment=done))
            second = settle(order_id).model_copy(
                update={"authorisation_key": authorise(order_id, attempt=2).key}
            )
            settled = await run(payments.settle_order, second)
    assert (taken.expired, taken.amount) == (False, TOTAL)
    assert await units_of(store, order_id) == {UnitState.CONSUMED}
    assert settled.balanced, settled.explanation
    money = await money_of(store, order_id)
    assert (money.authorised, money.captured, money.held) == (TOTAL + TOTAL, TOTAL, gbp(0))


async def test_a_process_that_died_before_it_wrote_that_the_hold_had_expired_hears_it_again(
    store: Store, tmp_path: Path
) -> None:
    order_id = await accepted(store, a_draft())
    short_lived = Simulator("payment", tmp_path, "--hold-days", "1e-9")
    with running(short_lived):
        async with open_neighbours(short_lived.url, "http://x", "http://x", "http://x") as near:
            dying = PaymentActivities(store, losing(near.payments, "capture"))
            held = await run(dying.authorise_payment, authorise(order_id))
            failure = await failure_of(dying.capture_payment, capture(order_id, held))
            assert (failure.type, failure.non_retryable) == ("outcome_unknown", False)
            assert (await money_of(store, order_id)).unclear == 1
            answer = await run(dying.capture_payment, capture(order_id, held))
    assert answer.expired
    assert (await money_of(store, order_id)).unclear == 0


async def test_a_capture_that_was_in_time_counts_although_its_repeat_finds_the_hold_expired(
    street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())

    class InTimeAtFirst:
        """The first request is taken, slowly: its look-up still finds nothing, and the repeat comes too late."""

        def __init__(self) -> None:
            self.tries = 0

        async def authorise(self, **asked: Any) -> Authorisation:
            return await street.near.payments.authorise(**asked)

        async def capture(self, **asked: Any) -> Captured:
            self.tries += 1
            if self.tries == 1:
                raise OutcomeUnknown("no answer")
            await street.near.payments.capture(**asked)
            return Captured(capture_id="", amount=gbp(0), expired=True)

        async def find_capture(self, *, key: str) -> Captured | None:
            return None if self.tries < 2 else await street.near.payments.find_capture(key=key)

    payments = PaymentActivities(store, cast(PaymentProvider, InTimeAtFirst()))
    held = await run(payments.authorise_payment, authorise(order_id))
    await failure_of(payments.capture_payment, capture(order_id, held))
    taken = await run(payments.capture_payment, capture(order_id, held))
    assert (taken.expired, taken.amount) == (False, TOTAL)
    assert (await money_of(store, order_id)).captured == TOTAL


async def test_a_hold_that_expired_under_one_shipment_leaves_what_another_one_took(
    street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    payments = PaymentActivities(store, street.near.payments)
    held = await run(payments.authorise_payment, authorise(order_id))
    await run(payments.capture_payment, capture(order_id, held, gbp(1000), number=1))
    expired = Without(street.near.payments)

    async def too_late(**_: Any) -> Captured:
        return Captured(capture_id="", amount=gbp(0), expired=True)

    expired.capture = too_late  # type: ignore[attr-defined]
    late = PaymentActivities(store, cast(PaymentProvider, expired))
    assert (await run(late.capture_payment, capture(order_id, held, gbp(395), number=2))).expired
    money = await money_of(store, order_id)
    assert (money.authorised, money.captured, money.held) == (TOTAL, gbp(1000), gbp(0))
    assert (await run(payments.void_authorisation, void(order_id))).amount == gbp(395)


async def test_a_hold_that_a_person_gave_back_is_written_down_and_the_provider_not_asked(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    await run(payments.authorise_payment, authorise(order_id))
    undone = void(order_id).model_copy(update={"by_hand": True})
    for _ in range(2):
        assert (await run(payments.void_authorisation, undone)).amount == TOTAL
    money = await money_of(store, order_id)
    assert (money.held, money.voided, money.unclear) == (gbp(0), TOTAL, 0)
    states = [e["state"] for e in street.effects("payment", kind="authorisation", reference=order_id)]
    assert states == ["open"], "the provider was not asked"


async def test_a_void_that_a_person_finished_by_hand_does_not_keep_the_books_open(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    held = await run(payments.authorise_payment, authorise(order_id))
    broken = PaymentActivities(
        store, cast(PaymentProvider, Without(street.near.payments, void_by_key=OutcomeUnknown("no answer")))
    )
    await failure_of(broken.void_authorisation, void(order_id))
    by_hand = await street.near.payments.void_by_key(key="by hand", authorisation_key=authorise(order_id).key)
    assert by_hand.amount == held.amount
    settled = await run(payments.settle_order, settle(order_id, OrderState.CANCELLED))
    assert settled.balanced, settled.explanation


async def test_a_refusal_after_an_answer_was_lost_does_not_hide_what_is_held(
    street: Street, store: Store, payments: PaymentActivities
) -> None:
    order_id = await accepted(store, a_draft())
    # The first try is taken, its answer and the look-up are lost; a gateway then refuses the second.
    lost = losing(street.near.payments, "authorise", "find_authorisation", times=2)
    await failure_of(PaymentActivities(store, lost).authorise_payment, authorise(order_id))
    refusing = Without(
        street.near.payments, authorise=NeighbourRefused("409 in progress"), find_authorisation=None
    )
    failure = await failure_of(
        PaymentActivities(store, cast(PaymentProvider, refusing)).authorise_payment, authorise(order_id)
    )
    assert failure.non_retryable
    await run(payments.void_authorisation, void(order_id))
    [held] = street.effects("payment", kind="authorisation", reference=order_id)
    assert held["state"] == "voided"


async def test_a_refused_repeat_of_what_was_done_is_looked_up(
    street: Street, store: Store, payments: PaymentActivities
) -> None:
    order_id = await accepted(store, a_draft())
    await street.near.payments.authorise(
        key=authorise(order_id).key, reference=order_id, token="tok_visa", amount=TOTAL
    )
    refusing = Without(street.near.payments, authorise=NeighbourRefused("409 in progress"))
    answer = await run(
        PaymentActivities(store, cast(PaymentProvider, refusing)).authorise_payment, authorise(order_id)
    )
    assert answer.approved


# --- done by hand ---
async def test_what_was_captured_by_hand_is_written_down_and_not_asked_for(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    held = await run(payments.authorise_payment, authorise(order_id))
    by_hand = {"capture_id": "by-phone", "amount": {"minor": TOTAL.minor, "currency": "GBP"}}
    wrong = by_hand | {"amount": {"minor": 1, "currency": "GBP"}}
    failure = await failure_of(
        payments.capture_payment, capture(order_id, held).model_copy(update={"by_hand": wrong})
    )
    assert "are due" in failure.message
    done = await run(
        payments.capture_payment, capture(order_id, held).model_copy(update={"by_hand": by_hand})
    )
    again = await run(payments.capture_payment, capture(order_id, held))
    assert done == again
    assert done.capture_id == "by-phone"
    assert street.effects("payment", kind="capture", reference=order_id) == []
    assert (await money_of(store, order_id)).captured == TOTAL


async def test_books_that_a_person_accepts_are_closed_without_the_provider(
    street: Street, payments: PaymentActivities, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    await run(payments.authorise_payment, authorise(order_id))
    gone = PaymentActivities(
        store, cast(PaymentProvider, Without(street.near.payments, void_by_key=NeighbourRefused("gone")))
    )
    closing = settle(order_id, OrderState.CANCELLED)
    await failure_of(gone.settle_order, closing)
    settled = await run(gone.settle_order, closing.model_copy(update={"accepted": True}))
    assert settled.balanced
    assert "still held" in settled.explanation
    assert await state_of(store, order_id) is OrderState.CANCELLED


async def test_what_the_provider_did_after_all_is_not_done_by_hand_as_well(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    lost = losing(street.near.payments, "authorise", "find_authorisation", times=2)
    await failure_of(PaymentActivities(store, lost).authorise_payment, authorise(order_id))
    by_hand = {
        "approved": True,
        "authorisation_id": "by-phone",
        "amount": {"minor": TOTAL.minor, "currency": "GBP"},
    }
    failure = await failure_of(
        payments.authorise_payment, authorise(order_id).model_copy(update={"by_hand": by_hand})
    )
    assert "under our own key" in failure.message
    answer = await run(payments.authorise_payment, authorise(order_id))
    assert answer.approved and answer.authorisation_id != "by-phone"


async def test_what_is_said_to_be_done_by_hand_is_not_believed_while_the_provider_cannot_say(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    held = await run(payments.authorise_payment, authorise(order_id))
    # It is taken, and neither the answer nor the look-up comes back.
    lost = losing(street.near.payments, "capture", "find_capture", times=2)
    await failure_of(PaymentActivities(store, lost).capture_payment, capture(order_id, held))
    by_hand = {"capture_id": f"by-phone {order_id}", "amount": {"minor": TOTAL.minor, "currency": "GBP"}}
    finishing = capture(order_id, held).model_copy(update={"by_hand": by_hand})
    for failure in (NeighbourUnavailable("it is away"), OutcomeUnknown("it was cut off")):
        away = Without(street.near.payments, find_capture=failure)
        refusal = await failure_of(
            PaymentActivities(store, cast(PaymentProvider, away)).capture_payment, finishing
        )
        assert (refusal.type, refusal.non_retryable) == ("refused", True)
        assert "finish again once it answers" in refusal.message
    assert (await money_of(store, order_id)).captured == gbp(0)
    assert "under our own key" in (await failure_of(payments.capture_payment, finishing)).message
    taken = await run(payments.capture_payment, capture(order_id, held))
    assert len(street.effects("payment", kind="capture", reference=order_id)) == 1
    assert taken.capture_id != by_hand["capture_id"]


async def test_a_provider_that_never_tells_leaves_it_to_the_word_of_a_person(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await accepted(store, a_draft())
    held = await run(payments.authorise_payment, authorise(order_id))
    refusing = Without(
        street.near.payments, capture=NeighbourRefused("401"), find_capture=NeighbourRefused("401")
    )
    locked_out = PaymentActivities(store, cast(PaymentProvider, refusing))
    await failure_of(locked_out.capture_payment, capture(order_id, held))
    by_hand = {"capture_id": f"by-phone {order_id}", "amount": {"minor": TOTAL.minor, "currency": "GBP"}}
    finishing = capture(order_id, held).model_copy(update={"by_hand": by_hand})
    assert (await run(locked_out.capture_payment, finishing)).capture_id == by_hand["capture_id"]


# --- parcels that left short ---
async def short_of_one(
    payments: PaymentActivities, store: Store, *, document: bool = True, planned: bool = True
) -> str:
    """An order of 2 units at 5.00 and 3.95 postage, paid in full; the picker did not find one of them."""
    draft = a_draft()
    order_id, sku = await accepted(store, draft), skus_of(draft)[0]
    await stocked(store, north={sku: 5})
    plan = plan_of({"1": 2})
    (line,) = plan.shipments[0].lines
    (shipment,) = plan.shipments
    shipment = shipment.model_copy(update={"lines": (line.model_copy(update={"sku": sku}),)})
    plan = plan.model_copy(update={"shipments": (shipment,)})
    async with store.transaction() as session:
        if planned:
            await keep_plan(
                session,
                order_id,
                1,
                plan,
                _summary(plan_id(order_id, 1), plan, draft, gbp(draft.totals.total_minor)),
            )
        wanted = [Wanted(shipment_id=f"{order_id}:1", node="north", sku=sku, quantity=2, promised_at=NOON)]
        await reserve(
            session,
            key=f"order:{order_id}:reserve:1",
            order_id=order_id,
            plan_id=plan_id(order_id, 1),
            wanted=wanted,
            expires_at=NOON + timedelta(days=10_000),
        )
    await write_down(store, order_id, Carried(shipment=a_shipment(order_id, state=ShipmentState.PICKED)))
    said: dict[str, Any] = {"document_id": f"D-{new_number()}", "actor": "wms", "reason": "not found"}
    async with store.transaction() as session:
        if document:
            lines = (SkuUnits(sku=sku, quantity=1),)
            await warehouse.short_pick(session, ShortPick(shipment_id=f"{order_id}:1", lines=lines, **said))
        else:
            counted = (CountedUnits(sku=sku, quantity=1),)
            await warehouse.count(session, Count(node="north", lines=counted, **said))
    held = await run(payments.authorise_payment, authorise(order_id))
    await run(payments.capture_payment, capture(order_id, held))
    gone = a_shipment(
        order_id, version=9, state=ShipmentState.DELIVERED, handed_over_at=NOON, delivered_at=NOON
    )
    await write_down(store, order_id, Carried(shipment=gone))
    return order_id


async def test_what_a_picker_did_not_find_is_paid_back_before_the_order_closes(
    payments: PaymentActivities, street: Street, store: Store
) -> None:
    order_id = await short_of_one(payments, store)
    settled = await run(payments.settle_order, settle(order_id))
    assert not settled.balanced and "left without 1 units" in settled.explanation
    (parcel,) = settled.short
    # Half of the goods and of their postage, rounded down as for any unit.
    assert (parcel.number, parcel.units, parcel.amount) == (1, 1, gbp(697))
    assert await state_of(store, order_id) is not OrderState.CLOSED
    pays = RefundPayment(
        order_id=order_id,
        shipment_id=parcel.shipment_id,
        capture_id=parcel.capture_id,
        amount=parcel.amount,
        cause="short_parcel",
        key=f"order:{order_id}:refund-short:1",
    )
    for _ in range(2):
        await run(payments.refund_payment, pays)
    settled = await run(payments.settle_order, settle(order_id, attempt=2))
    assert settled.balanced, settled.explanation
    assert (settled.captured, settled.refunded, settled.short) == (TOTAL, gbp(697), ())
    assert len(street.effects("payment", kind="refund", reference=order_id)) == 1


async def test_what_a_count_took_from_a_parcel_that_left_may_be_in_it(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await short_of_one(payments, store, document=False)
    settled = await run(payments.settle_order, settle(order_id))
    assert settled.balanced and settled.refunded == gbp(0)


async def test_missing_units_of_which_nobody_knows_what_they_cost_come_before_a_person(
    payments: PaymentActivities, store: Store
) -> None:
    order_id = await short_of_one(payments, store, planned=False)
    settled = await run(payments.settle_order, settle(order_id))
    assert not settled.balanced and settled.short == ()
    assert "left without 1 units, and what they cost is not known" in settled.explanation
