"""Orders paid by several tenders: each part once, whatever dies in between, and none beyond what it has."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy.exc import DBAPIError

from activities.adapters.neighbours import open_neighbours
from activities.payments import PaymentActivities
from activities.ports import PaymentProvider
from activities.store import accounts, ledger, reads, tenders
from activities.store.ledger import NewEntry, NewTransaction
from activities.store.store import Store
from models.effects import (
    Authorisation,
    AuthorisePayment,
    Captured,
    CapturePayment,
    RefundPayment,
    SettleOrder,
    VoidAuthorisation,
)
from models.errors import CurrencyMismatch, LedgerRefused, NotFound, Refused
from models.journal import Carried
from models.ledger import CLEARING, GIFT_CARDS, ON_ACCOUNT, TransactionKind
from models.money import Money
from models.order import OrderDraft, TenderKind
from models.states import OrderState, ShipmentState
from models.tender import PayLink
from tests.activities.conftest import Street
from tests.activities.running import failure_of, losing, run
from tests.activities.test_payments import Without
from tests.apps.simulators.running import Simulator, ask, running
from tests.builders import NOON, a_draft, a_shipment, accepted, carrying, gbp, new_number, write_down

GIFT, CREDIT, ACCOUNT, CARD = (
    TenderKind.GIFT_CARD,
    TenderKind.STORE_CREDIT,
    TenderKind.ON_ACCOUNT,
    TenderKind.CARD,
)
TOTAL = gbp(1395)
TOMORROW = datetime.now(UTC) + timedelta(days=1)


@pytest.fixture
def payments(store: Store, street: Street) -> PaymentActivities:
    return PaymentActivities(store, street.near.payments)


async def a_gift_card(store: Store, minor: int) -> str:
    code = f"GIFT-{new_number()}"
    async with store.transaction() as session:
        await accounts.issue(session, GIFT, code, gbp(minor), key=f"issue:{code}")
    return code


async def an_account(store: Store, limit: int) -> str:
    name = f"acme-{new_number()}"
    async with store.transaction() as session:
        await accounts.open_account(session, name, gbp(limit))
    return name


async def left(store: Store, kind: TenderKind, token: str) -> int:
    async with store.transaction() as session:
        return (await accounts.left(session, kind, token)).minor


def paid_by(*tenders: tuple[TenderKind, str, int]) -> OrderDraft:
    given = [{"kind": kind, "token": token, "amount_minor": minor} for kind, token, minor in tenders]
    return OrderDraft.model_validate(a_draft().model_dump() | {"tenders": given})


def authorise(order_id: str, attempt: int = 1, *, tender: int = 0, amount: Money = TOTAL) -> AuthorisePayment:
    key = f"order:{order_id}:authorise:{attempt}"
    return AuthorisePayment(order_id=order_id, amount=amount, key=key, tender=tender)


def void(order_id: str, attempt: int = 1) -> VoidAuthorisation:
    return VoidAuthorisation(
        order_id=order_id,
        authorisation_key=authorise(order_id, attempt).key,
        key=f"order:{order_id}:void:{attempt}",
    )


def capture(
    order_id: str, held: Authorisation, minor: int, number: int = 1, attempt: int = 1
) -> CapturePayment:
    return CapturePayment(
        order_id=order_id,
        shipment_id=f"{order_id}:{number}",
        authorisation_id=str(held.authorisation_id),
        amount=gbp(minor),
        key=f"shipment:{order_id}:{number}:capture:{attempt}",
    )


def refund(order_id: str, capture_id: str, minor: int, attempt: int = 1) -> RefundPayment:
    return RefundPayment(
        order_id=order_id,
        shipment_id=f"{order_id}:1",
        capture_id=capture_id,
        amount=gbp(minor),
        cause="returned",
        key=f"shipment:{order_id}:1:refund:{attempt}",
    )


async def balances(store: Store, order_id: str) -> dict[str, int]:
    async with store.transaction() as session:
        return {one.account: one.balance.minor for one in (await ledger.of_order(session, order_id)).balances}


async def money(store: Store, order_id: str) -> dict[str, int]:
    async with store.transaction() as session:
        found = await reads.money(session, order_id, "GBP")
    return {
        name: getattr(found, name).minor for name in ("authorised", "held", "captured", "refunded", "voided")
    }


def at_provider(street: Street, kind: str, order_id: str) -> list[tuple[str, int]]:
    return [
        (one["state"], one["amount_minor"])
        for one in street.effects("payment", kind=kind, reference=order_id)
    ]


async def test_each_tender_holds_its_part_once(
    payments: PaymentActivities, store: Store, street: Street
) -> None:
    code, account = await a_gift_card(store, 500), await an_account(store, 300)
    order_id = await accepted(
        store, paid_by((CARD, "tok_visa", 595), (GIFT, code, 500), (ACCOUNT, account, 300))
    )
    first = await run(payments.authorise_payment, authorise(order_id))
    assert first.approved
    assert await run(payments.authorise_payment, authorise(order_id)) == first
    assert (await money(store, order_id))["held"] == TOTAL.minor
    assert at_provider(street, "authorisation", order_id) == [("open", 595)]
    assert (await left(store, GIFT, code), await left(store, ACCOUNT, account)) == (0, 0)


async def test_captures_draw_on_the_card_last_and_refunds_pay_it_back_first(
    payments: PaymentActivities, store: Store, street: Street
) -> None:
    code = await a_gift_card(store, 800)
    order_id = await accepted(store, paid_by((CARD, "tok_visa", 595), (GIFT, code, 800)))
    held = await run(payments.authorise_payment, authorise(order_id))
    taken = await run(payments.capture_payment, capture(order_id, held, 1000))
    assert await run(payments.capture_payment, capture(order_id, held, 1000)) == taken
    assert at_provider(street, "capture", order_id) == [("captured", 200)]
    amounts = await balances(store, order_id)
    assert (amounts[GIFT_CARDS], amounts[CLEARING]) == (800, 200)

    back = await run(payments.refund_payment, refund(order_id, taken.capture_id, 300))
    assert await run(payments.refund_payment, refund(order_id, taken.capture_id, 300)) == back
    assert at_provider(street, "refund", order_id) == [("refunded", 200)]
    assert await left(store, GIFT, code) == 100
    failure = await failure_of(payments.refund_payment, refund(order_id, taken.capture_id, 701, attempt=2))
    assert (failure.type, failure.non_retryable) == ("refund_above_captured", True)
    assert "7.00 GBP of what was captured are left" in failure.message
    await run(payments.refund_payment, refund(order_id, taken.capture_id, 700, attempt=3))
    assert await left(store, GIFT, code) == 800


@pytest.mark.parametrize(
    ("limit", "pays", "code"), [(299, 300, "over_credit_limit"), (None, 300, "unknown_tender")]
)
async def test_over_the_credit_limit_is_a_decline_that_leaves_nothing_held(
    payments: PaymentActivities, store: Store, limit: int | None, pays: int, code: str
) -> None:
    card = await a_gift_card(store, 1095)
    account = "nobody" if limit is None else await an_account(store, limit)
    order_id = await accepted(store, paid_by((GIFT, card, 1095), (ACCOUNT, account, pays)))
    answer = await run(payments.authorise_payment, authorise(order_id))
    assert (answer.approved, answer.decline_code, answer.decline_is_final) == (False, code, False)
    assert await run(payments.authorise_payment, authorise(order_id)) == answer
    assert await left(store, GIFT, card) == 1095
    assert (await money(store, order_id))["held"] == 0


async def test_a_card_that_is_declined_gives_the_gift_card_back(
    payments: PaymentActivities, store: Store
) -> None:
    code = await a_gift_card(store, 500)
    order_id = await accepted(store, paid_by((CARD, "tok_declined_x", 895), (GIFT, code, 500)))
    answer = await run(payments.authorise_payment, authorise(order_id))
    assert not answer.approved
    assert await left(store, GIFT, code) == 500


async def test_a_gift_card_in_another_currency_is_declined(payments: PaymentActivities, store: Store) -> None:
    code = f"GIFT-{new_number()}"
    async with store.transaction() as session:
        await accounts.issue(session, GIFT, code, Money(minor=5_000, currency="EUR"), key=f"issue:{code}")
    order_id = await accepted(store, paid_by((GIFT, code, 1395)))
    assert (await run(payments.authorise_payment, authorise(order_id))).decline_code == "currency_mismatch"


async def test_two_orders_at_once_cannot_both_spend_the_last_of_a_gift_card(
    payments: PaymentActivities, store: Store
) -> None:
    code = await a_gift_card(store, 1395)
    orders = [await accepted(store, paid_by((GIFT, code, 1395))) for _ in range(4)]
    answers = await asyncio.gather(*(run(payments.authorise_payment, authorise(one)) for one in orders))
    assert sorted(answer.approved for answer in answers) == [False, False, False, True]
    assert await left(store, GIFT, code) == 0


async def test_a_void_gives_every_part_back_and_refuses_those_that_come_late(
    payments: PaymentActivities, store: Store, street: Street
) -> None:
    code = await a_gift_card(store, 800)
    order_id = await accepted(store, paid_by((CARD, "tok_visa", 595), (GIFT, code, 800)))
    await run(payments.authorise_payment, authorise(order_id))
    for _ in range(2):
        assert (await run(payments.void_authorisation, void(order_id))).amount == TOTAL
    assert await left(store, GIFT, code) == 800
    assert at_provider(street, "authorisation", order_id) == [("voided", 595)]
    assert (await failure_of(payments.authorise_payment, authorise(order_id))).type == "refused"


async def test_a_process_that_dies_between_two_parts_goes_on_where_it_stood(
    payments: PaymentActivities, store: Store, street: Street
) -> None:
    code = await a_gift_card(store, 800)
    order_id = await accepted(store, paid_by((CARD, "tok_visa", 595), (GIFT, code, 800)))
    # The gift card's part is done, and the answer to the card's is lost with the process.
    lost = losing(
        street.near.payments, "authorise", "find_authorisation", "capture", "find_capture", "refund", "find_refund",
        times=2,
    )  # fmt: skip
    dying = PaymentActivities(store, lost)
    assert (await failure_of(dying.authorise_payment, authorise(order_id))).type == "outcome_unknown"
    held = await run(payments.authorise_payment, authorise(order_id))

    dying = PaymentActivities(store, losing(street.near.payments, "capture", "find_capture", times=2))
    assert (await failure_of(dying.capture_payment, capture(order_id, held, 1395))).type == "outcome_unknown"
    taken = await run(payments.capture_payment, capture(order_id, held, 1395))

    dying = PaymentActivities(store, losing(street.near.payments, "refund", "find_refund", times=2))
    assert (
        await failure_of(dying.refund_payment, refund(order_id, taken.capture_id, 1395))
    ).type == "outcome_unknown"
    await run(payments.refund_payment, refund(order_id, taken.capture_id, 1395))

    assert at_provider(street, "authorisation", order_id) == [("used", 595)]
    assert at_provider(street, "capture", order_id) == [("captured", 595)]
    assert at_provider(street, "refund", order_id) == [("refunded", 595)]
    assert await left(store, GIFT, code) == 800
    found = await money(store, order_id)
    assert (found["captured"], found["refunded"], found["held"]) == (1395, 1395, 0)


async def test_an_order_in_parts_settles_gives_the_rest_back_and_closes(
    payments: PaymentActivities, store: Store, street: Street
) -> None:
    account = await an_account(store, 2_000)
    order_id = await accepted(store, paid_by((CARD, "tok_visa", 595), (ACCOUNT, account, 800)))
    held = await run(payments.authorise_payment, authorise(order_id))
    await run(payments.capture_payment, capture(order_id, held, 500))
    shipment = a_shipment(
        order_id,
        version=9,
        state=ShipmentState.DELIVERED,
        handed_over_at=NOON,
        delivered_at=NOON,
        amount=gbp(500),
    )
    await write_down(store, order_id, Carried(shipment=shipment))
    settling = SettleOrder(
        order_id=order_id,
        total=TOTAL,
        authorisation_key=authorise(order_id).key,
        key=f"order:{order_id}:settle:1",
        closing=carrying(order_id, OrderState.CLOSED, 90, closed_at=NOON),
    )
    settled = await run(payments.settle_order, settling)
    assert settled.balanced, settled.explanation
    assert (settled.captured, settled.voided) == (gbp(500), gbp(895))
    assert at_provider(street, "authorisation", order_id) == [("voided", 595)]
    assert (await balances(store, order_id))[ON_ACCOUNT] == 500
    assert await left(store, ACCOUNT, account) == 1_500
    async with store.transaction() as session:
        await accounts.paid(session, account, gbp(500), key=f"paid:{account}")
        # What the provider is to have a statement of.
        assert await ledger.captured_and_refunded(session, [order_id]) == {}
    assert await left(store, ACCOUNT, account) == 2_000


# --- another tender for the part that was declined ---
async def asked_by_link(store: Store, order_id: str) -> Money:
    async with store.transaction() as session:
        version = await tenders.tenders_of(session, order_id)
        return (await tenders.asked_by(session, PayLink(order_id, version, TOMORROW))).amount


async def paid_by_link(store: Store, order_id: str, token: str = "tok_other") -> int:
    async with store.transaction() as session:
        version = await tenders.tenders_of(session, order_id)
        link = PayLink(order_id, version, TOMORROW)
        return (await tenders.offer_by_link(session, link, kind=CARD, token=token)).number


async def offered(store: Store, order_id: str, kind: TenderKind, token: str) -> int:
    async with store.transaction() as session:
        request_id = f"r-{new_number()}"
        one = await tenders.offer(
            session, order_id, kind=kind, token=token, request_id=request_id, actor="dana"
        )
        return one.number


async def awaits_customer(store: Store, order_id: str) -> None:
    await write_down(store, order_id, carrying(order_id, OrderState.AWAITING_CUSTOMER, 5))


async def test_another_card_pays_what_its_link_asked_for_and_the_gift_card_pays_its_part(
    payments: PaymentActivities, store: Store, street: Street
) -> None:
    code = await a_gift_card(store, 500)
    order_id = await accepted(store, paid_by((GIFT, code, 500), (CARD, "tok_insufficient_1", 895)))
    declined = await run(payments.authorise_payment, authorise(order_id))
    assert (declined.approved, declined.amount) == (False, gbp(895))
    await awaits_customer(store, order_id)
    assert await asked_by_link(store, order_id) == gbp(895)
    number = await paid_by_link(store, order_id)
    held = await run(payments.authorise_payment, authorise(order_id, 2, tender=number))
    assert (held.approved, held.amount) == (True, TOTAL)
    assert await run(payments.authorise_payment, authorise(order_id, 2, tender=number)) == held
    assert at_provider(street, "authorisation", order_id) == [("declined", 895), ("open", 895)]
    assert await left(store, GIFT, code) == 0
    await run(payments.capture_payment, capture(order_id, held, 1395))
    assert at_provider(street, "capture", order_id) == [("captured", 895)]


async def test_one_card_after_the_other_takes_over_the_part_that_each_declined(
    payments: PaymentActivities, store: Store, street: Street
) -> None:
    code = await a_gift_card(store, 100)
    order_id = await accepted(
        store, paid_by((GIFT, code, 500), (CARD, "tok_insufficient_1", 395), (CARD, "tok_visa", 500))
    )
    assert (await run(payments.authorise_payment, authorise(order_id))).decline_code == "not_enough_value"
    await awaits_customer(store, order_id)
    assert await asked_by_link(store, order_id) == gbp(500)
    number = await paid_by_link(store, order_id, "tok_instead_of_the_gift_card")
    declined = await run(payments.authorise_payment, authorise(order_id, 2, tender=number))
    assert (declined.decline_code, declined.amount) == ("insufficient_funds", gbp(395))
    assert await asked_by_link(store, order_id) == gbp(395)
    number = await paid_by_link(store, order_id, "tok_instead_of_the_card")
    assert (await run(payments.authorise_payment, authorise(order_id, 3, tender=number))).approved
    assert sorted(minor for state, minor in at_provider(street, "authorisation", order_id) if state == "open") == [
        395, 500, 500,
    ]  # fmt: skip
    assert await left(store, GIFT, code) == 100


@pytest.mark.parametrize("code_of_gift", [True, False])
async def test_a_tender_is_never_charged_another_amount_than_its_link_showed(
    payments: PaymentActivities, store: Store, street: Street, code_of_gift: bool
) -> None:
    given = [(CARD, "tok_insufficient_1", 1395 - 500 * code_of_gift)]
    if code_of_gift:
        given.append((GIFT, await a_gift_card(store, 500), 500))
    order_id = await accepted(store, paid_by(*given))
    await run(payments.authorise_payment, authorise(order_id))
    await awaits_customer(store, order_id)
    shown = await asked_by_link(store, order_id)
    number = await paid_by_link(store, order_id)
    # Meanwhile the order has become another one.
    for attempt, amount in ((2, TOTAL + gbp(1)), (3, TOTAL - gbp(1))):
        asked = authorise(order_id, attempt, tender=number, amount=amount)
        refused = await run(payments.authorise_payment, asked)
        if attempt == 2:
            assert (refused.approved, refused.decline_code) == (False, "amount_changed")
            assert not refused.decline_is_final
            assert refused.amount == shown + gbp(1) == await asked_by_link(store, order_id)
            assert await run(payments.authorise_payment, asked) == refused
            number = await paid_by_link(store, order_id)
        else:
            assert (refused.approved, refused.decline_code) == (False, "amount_changed")
    assert [state for state, _ in at_provider(street, "authorisation", order_id)] == ["declined"]
    number = await paid_by_link(store, order_id)
    last = authorise(order_id, 4, tender=number, amount=TOTAL - gbp(1))
    assert (await run(payments.authorise_payment, last)).approved
    assert at_provider(street, "authorisation", order_id)[-1] == ("open", shown.minor - 1)
    # From now on it is a tender of the order like its own.
    more = authorise(order_id, 5, tender=number, amount=TOTAL)
    assert (await run(payments.authorise_payment, more)).approved


async def test_an_order_over_its_limit_is_tried_on_account_again_once_the_limit_is_raised(
    payments: PaymentActivities, store: Store, street: Street
) -> None:
    account = await an_account(store, 1_000)
    order_id = await accepted(store, paid_by((ACCOUNT, account, 1395)))
    assert (await run(payments.authorise_payment, authorise(order_id))).decline_code == "over_credit_limit"
    await awaits_customer(store, order_id)
    async with store.transaction() as session:
        await accounts.open_account(session, account, gbp(1_400))
    number = await offered(store, order_id, ACCOUNT, account)
    assert (await run(payments.authorise_payment, authorise(order_id, 2, tender=number))).approved
    assert await left(store, ACCOUNT, account) == 5


@pytest.mark.parametrize("kind", [GIFT, CREDIT, ACCOUNT])
async def test_a_tender_of_ours_takes_the_place_of_a_lone_card_and_is_given_back(
    payments: PaymentActivities, store: Store, street: Street, kind: TenderKind
) -> None:
    token = await an_account(store, 1395) if kind is ACCOUNT else f"CODE-{new_number()}"
    if kind is not ACCOUNT:
        async with store.transaction() as session:
            await accounts.issue(session, kind, token, TOTAL, key=f"issue:{token}")
    order_id = await accepted(store, paid_by((CARD, "tok_insufficient_1", 1395)))
    assert not (await run(payments.authorise_payment, authorise(order_id))).approved
    await awaits_customer(store, order_id)
    number = await offered(store, order_id, kind, token)
    held = await run(payments.authorise_payment, authorise(order_id, 2, tender=number))
    assert held.approved
    taken = await run(payments.capture_payment, capture(order_id, held, 1000))
    await run(payments.refund_payment, refund(order_id, taken.capture_id, 1000))
    assert await left(store, kind, token) == 1000
    assert (await run(payments.void_authorisation, void(order_id, 2))).amount == gbp(395)
    assert await left(store, kind, token) == 1395


# --- holds that take the place of earlier ones ---
@pytest.mark.parametrize("kind", [GIFT, CREDIT, ACCOUNT])
async def test_what_the_hold_before_has_does_not_count_against_the_one_that_replaces_it(
    payments: PaymentActivities, store: Store, kind: TenderKind
) -> None:
    token = await an_account(store, 2_000) if kind is ACCOUNT else f"CODE-{new_number()}"
    if kind is not ACCOUNT:
        async with store.transaction() as session:
            await accounts.issue(session, kind, token, gbp(2_000), key=f"issue:{token}")
    order_id = await accepted(store, paid_by((kind, token, 1395)))
    await run(payments.authorise_payment, authorise(order_id))
    over = authorise(order_id, 2, amount=gbp(2_001))
    declined = await run(payments.authorise_payment, over)
    code = "over_credit_limit" if kind is ACCOUNT else "not_enough_value"
    assert (declined.approved, declined.decline_code) == (False, code)
    assert (await money(store, order_id))["held"] == 1395, "a decline leaves the hold before as it was"
    more = authorise(order_id, 3, amount=gbp(1_500))
    held = await run(payments.authorise_payment, more)
    assert held.approved
    assert await run(payments.authorise_payment, more) == held
    assert await left(store, kind, token) == 0, (
        "what there is besides is used first, then what was held before"
    )
    assert (await money(store, order_id))["held"] == 2_000
    assert (await run(payments.void_authorisation, void(order_id))).amount == gbp(500)
    await run(payments.capture_payment, capture(order_id, held, 1_500))
    assert await left(store, kind, token) == 500


async def test_only_what_no_capture_is_about_to_take_makes_room(
    payments: PaymentActivities, store: Store
) -> None:
    account = await an_account(store, 1_500)
    order_id = await accepted(store, paid_by((ACCOUNT, account, 1395)))
    held = await run(payments.authorise_payment, authorise(order_id))
    await run(payments.capture_payment, capture(order_id, held, 900))
    assert not (await run(payments.authorise_payment, authorise(order_id, 2, amount=gbp(601)))).approved
    assert (await run(payments.authorise_payment, authorise(order_id, 3, amount=gbp(600)))).approved
    assert await left(store, ACCOUNT, account) == 0


async def test_what_a_parcel_that_goes_on_is_to_be_paid_from_makes_no_room(
    payments: PaymentActivities, store: Store
) -> None:
    account = await an_account(store, 1_500)
    order_id = await accepted(store, paid_by((ACCOUNT, account, 1395)))
    held = await run(payments.authorise_payment, authorise(order_id))
    beside = {"drawn": {str(held.authorisation_id): gbp(1_300)}}
    more = authorise(order_id, 2, amount=gbp(201)).model_copy(update=beside)
    declined = await run(payments.authorise_payment, more)
    assert (declined.approved, declined.decline_code) == (False, "over_credit_limit")
    fits = authorise(order_id, 3, amount=gbp(200)).model_copy(update=beside)
    assert (await run(payments.authorise_payment, fits)).approved
    await run(payments.capture_payment, capture(order_id, held, 1_300))
    assert (await money(store, order_id))["captured"] == 1_300
    assert await left(store, ACCOUNT, account) == 0


async def test_another_order_gets_nothing_of_what_makes_room_however_many_ask_at_once(
    payments: PaymentActivities, store: Store
) -> None:
    account = await an_account(store, 2_000)
    mine = await accepted(store, paid_by((ACCOUNT, account, 1395)))
    await run(payments.authorise_payment, authorise(mine))
    others = [await accepted(store, paid_by((ACCOUNT, account, 1395))) for _ in range(4)]
    asked = [authorise(mine, 2, amount=gbp(1_500))]
    asked += [authorise(one, amount=gbp(500)) for one in others]
    answers = await asyncio.gather(*(run(payments.authorise_payment, one) for one in asked))
    held = 0
    for one in [mine, *others]:
        held += (await money(store, one))["held"]
    assert held == 2_000 - await left(store, ACCOUNT, account)
    assert await left(store, ACCOUNT, account) >= 0
    assert sum(answer.approved for answer in answers[1:]) <= 1
    assert (await money(store, mine))["held"] >= 1395


async def test_orders_that_share_two_gift_cards_the_other_way_round_do_not_wait_in_a_circle(
    payments: PaymentActivities, store: Store
) -> None:
    one, other = await a_gift_card(store, 5_580), await a_gift_card(store, 5_580)
    orders = [
        await accepted(store, paid_by((GIFT, first, 700), (GIFT, second, 695)))
        for first, second in [(one, other), (other, one)] * 4
    ]
    answers = await asyncio.gather(*(run(payments.authorise_payment, authorise(order)) for order in orders))
    assert all(answer.approved for answer in answers)
    assert await left(store, GIFT, one) + await left(store, GIFT, other) == 0


# --- parts that expire ---
async def expired_and_renewed(
    store: Store, tmp_path: Path, order_id: str, *captures: int
) -> tuple[list[Captured], Captured, list[tuple[str, int]]]:
    """Captures out of a hold that has expired; the answers, the last one's out of a new hold, and the new holds."""
    gone = [
        a_shipment(
            order_id,
            number=number,
            version=9,
            state=ShipmentState.HANDED_OVER,
            handed_over_at=NOON,
            amount=gbp(minor),
        )
        for number, minor in enumerate(captures, start=1)
    ]
    for one in gone:
        await write_down(store, order_id, Carried(shipment=one))
    short_lived = Simulator("payment", tmp_path, "--hold-days", "1e-9")
    with running(short_lived):
        async with open_neighbours(short_lived.url, "http://x", "http://x", "http://x") as near:
            payments = PaymentActivities(store, near.payments)
            held = await run(payments.authorise_payment, authorise(order_id))
            assert held.expires_at is not None
            answers = []
            for number, minor in enumerate(captures, start=1):
                asked = capture(order_id, held, minor, number)
                answers.append(await run(payments.capture_payment, asked))
                assert await run(payments.capture_payment, asked) == answers[-1]
    lasting = Simulator("payment", tmp_path)
    with running(lasting):
        async with open_neighbours(lasting.url, "http://x", "http://x", "http://x") as near:
            payments = PaymentActivities(store, near.payments)
            unpaid = sum(minor for minor, answer in zip(captures, answers, strict=True) if answer.expired)
            renewed = await run(payments.authorise_payment, authorise(order_id, 2, amount=gbp(unpaid)))
            assert renewed.approved, renewed
            taken = await run(
                payments.capture_payment,
                capture(order_id, renewed, captures[-1], len(captures), attempt=2),
            )
            lines = ask(lasting, "GET", "/statement").body["effects"]
    holds = [(line["state"], line["amount_minor"]) for line in lines if line["kind"] == "authorisation"]
    return answers, taken, holds


async def test_of_a_hold_that_has_expired_only_the_card_is_asked_again_and_the_gift_card_pays_its_part(
    store: Store, tmp_path: Path
) -> None:
    code = await a_gift_card(store, 500)
    order_id = await accepted(store, paid_by((GIFT, code, 500), (CARD, "tok_visa", 895)))
    (answer,), taken, held = await expired_and_renewed(store, tmp_path, order_id, 1395)
    assert (answer.expired, answer.amount, answer.capture_id) == (True, gbp(0), "")
    assert (taken.expired, taken.amount) == (False, TOTAL)
    assert held == [("expired", 895), ("used", 895)]
    found = await money(store, order_id)
    assert (found["captured"], found["held"]) == (1395, 0)
    assert (await balances(store, order_id))[GIFT_CARDS] == 500
    assert await left(store, GIFT, code) == 0


async def test_a_part_that_was_used_up_by_an_earlier_shipment_is_not_asked_again(
    store: Store, tmp_path: Path
) -> None:
    code = await a_gift_card(store, 500)
    order_id = await accepted(store, paid_by((GIFT, code, 500), (CARD, "tok_visa", 895)))
    answers, taken, held = await expired_and_renewed(store, tmp_path, order_id, 500, 895)
    assert [answer.expired for answer in answers] == [False, True]
    assert taken.amount == gbp(895)
    assert held == [("expired", 895), ("used", 895)]
    assert await left(store, GIFT, code) == 0


async def test_a_hold_is_renewed_before_it_expires_without_asking_the_gift_card_for_more(
    payments: PaymentActivities, store: Store, street: Street
) -> None:
    code = await a_gift_card(store, 500)
    order_id = await accepted(store, paid_by((GIFT, code, 500), (CARD, "tok_visa", 895)))
    first = await run(payments.authorise_payment, authorise(order_id))
    renewed = await run(payments.authorise_payment, authorise(order_id, 2))
    assert renewed.approved, renewed
    # The shipment that has not heard of it finds what it was to draw on replaced, and asks.
    assert (await run(payments.capture_payment, capture(order_id, first, 1395))).expired
    assert (await run(payments.capture_payment, capture(order_id, renewed, 1395, attempt=2))).amount == TOTAL
    assert await left(store, GIFT, code) == 0
    assert at_provider(street, "capture", order_id) == [("captured", 895)]
    assert (await run(payments.void_authorisation, void(order_id))).amount == gbp(895)


async def test_a_capture_of_two_cards_of_which_one_has_expired_takes_the_rest_from_the_next_hold(
    payments: PaymentActivities, store: Store, street: Street
) -> None:
    code = await a_gift_card(store, 395)
    order_id = await accepted(
        store, paid_by((GIFT, code, 395), (CARD, "tok_visa", 400), (CARD, "tok_master", 600))
    )
    gone = a_shipment(order_id, version=9, state=ShipmentState.HANDED_OVER, handed_over_at=NOON, amount=TOTAL)
    await write_down(store, order_id, Carried(shipment=gone))
    held = await run(payments.authorise_payment, authorise(order_id))

    late = Without(street.near.payments)

    async def capture_one(*, key: str, authorisation_id: str, amount: Money) -> Captured:
        if amount == gbp(600):
            return Captured(capture_id="", amount=gbp(0), expired=True)
        return await street.near.payments.capture(key=key, authorisation_id=authorisation_id, amount=amount)

    late.capture = capture_one  # type: ignore[attr-defined]
    half = PaymentActivities(store, cast(PaymentProvider, late))
    assert (await run(half.capture_payment, capture(order_id, held, 1395))).expired
    assert (await money(store, order_id))["captured"] == 400
    renewed = await run(payments.authorise_payment, authorise(order_id, 2))
    assert renewed.approved
    taken = await run(payments.capture_payment, capture(order_id, renewed, 1395, attempt=2))
    assert taken.amount == TOTAL
    assert (await money(store, order_id))["captured"] == 1395
    assert sorted(at_provider(street, "capture", order_id)) == [("captured", 400), ("captured", 600)]
    assert await left(store, GIFT, code) == 0
    await run(payments.refund_payment, refund(order_id, taken.capture_id, 1395))
    assert sorted(at_provider(street, "refund", order_id)) == [("refunded", 400), ("refunded", 600)]
    assert await left(store, GIFT, code) == 395


# --- what the database itself refuses ---
async def test_no_hand_written_entry_spends_more_than_an_account_may_owe(store: Store) -> None:
    account = await an_account(store, 100)
    instrument = accounts.instrument_of(ACCOUNT, account)

    def owes(minor: int) -> NewTransaction:
        return NewTransaction(
            id=f"{account}:{minor}",
            kind=TransactionKind.ADJUSTMENT,
            source="test",
            at=NOON,
            entries=(
                NewEntry(account=ON_ACCOUNT, amount=gbp(minor), instrument=instrument),
                NewEntry(account="suspense", amount=gbp(-minor)),
            ),
        )

    with pytest.raises(
        LedgerRefused, match=r"beyond its limit by 1 GBP: use another tender .* or raise the limit"
    ):
        async with store.transaction() as session:
            await ledger.post(session, owes(101))
    async with store.transaction() as session:
        await ledger.post(session, owes(100))
    async with store.transaction() as session:
        # A lower limit stops what comes next, and undoes nothing.
        await accounts.open_account(session, account, gbp(50))
    assert await left(store, ACCOUNT, account) == -50
    with pytest.raises(LedgerRefused, match="beyond its limit"):
        async with store.transaction() as session:
            await ledger.post(session, owes(1))


async def test_an_instrument_that_nobody_opened_is_refused(store: Store) -> None:
    entries = (
        NewEntry(account="bank", amount=gbp(5)),
        NewEntry(account=GIFT_CARDS, amount=gbp(-5), instrument="gift_card:none"),
    )
    transaction = NewTransaction(
        id="none", kind=TransactionKind.ISSUE, source="test", at=NOON, entries=entries
    )
    with pytest.raises(
        (LedgerRefused, DBAPIError), match="there is no account, gift card or credit gift_card:none"
    ):
        async with store.transaction() as session:
            await ledger.post(session, transaction)


async def test_value_is_issued_once_per_key_in_one_currency_and_above_zero(store: Store) -> None:
    code = await a_gift_card(store, 500)
    async with store.transaction() as session:
        await accounts.issue(session, GIFT, code, gbp(500), key=f"issue:{code}")
    assert await left(store, GIFT, code) == 500
    refused: list[tuple[Any, type[Exception]]] = [
        (Money(minor=1, currency="EUR"), CurrencyMismatch),
        (gbp(0), Refused),
    ]
    for amount, error in refused:
        with pytest.raises(error):
            async with store.transaction() as session:
                await accounts.issue(session, GIFT, code, amount, key="another")
    with pytest.raises(NotFound):
        await left(store, CREDIT, code)
