"""Orders paid by several tenders: each part once, whatever dies in between, and none beyond what it has."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from activities.payments import PaymentActivities
from activities.store import accounts, ledger, reads
from activities.store.ledger import NewEntry, NewTransaction
from activities.store.store import Store
from models.effects import (
    Authorisation,
    AuthorisePayment,
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
from tests.activities.conftest import Street
from tests.activities.running import failure_of, losing, run
from tests.builders import NOON, a_draft, a_shipment, accepted, carrying, gbp, new_number, write_down

GIFT, CREDIT, ACCOUNT, CARD = (
    TenderKind.GIFT_CARD,
    TenderKind.STORE_CREDIT,
    TenderKind.ON_ACCOUNT,
    TenderKind.CARD,
)
TOTAL = gbp(1395)


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


def authorise(order_id: str, attempt: int = 1) -> AuthorisePayment:
    return AuthorisePayment(order_id=order_id, amount=TOTAL, key=f"order:{order_id}:authorise:{attempt}")


def void(order_id: str) -> VoidAuthorisation:
    return VoidAuthorisation(
        order_id=order_id, authorisation_key=authorise(order_id).key, key=f"order:{order_id}:void:1"
    )


def capture(order_id: str, held: Authorisation, minor: int, number: int = 1) -> CapturePayment:
    return CapturePayment(
        order_id=order_id,
        shipment_id=f"{order_id}:{number}",
        authorisation_id=str(held.authorisation_id),
        amount=gbp(minor),
        key=f"shipment:{order_id}:{number}:capture:1",
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
