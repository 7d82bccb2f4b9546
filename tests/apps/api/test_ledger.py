"""The books over HTTP."""

import asyncio
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from activities.store import accounts, ledger, operations
from activities.store.ledger import NewEntry, NewTransaction
from activities.store.operations import PaymentOperation
from activities.store.store import Store
from models.errors import LedgerRefused
from models.ledger import TransactionKind
from models.money import Money
from models.operations import OperationState, PaymentKind
from models.order import TenderKind
from tests.apps.api.builders import a_draft, new_number
from tests.builders import NOON, gbp


async def submitted(api: httpx.AsyncClient) -> str:
    answer = await api.post("/v1/orders", json=a_draft())
    order_id: str = answer.json()["order_id"]
    return order_id


async def held(store: Store, order_id: str) -> None:
    operation = PaymentOperation(
        key=f"{order_id}:authorise:1",
        order_id=order_id,
        kind=PaymentKind.AUTHORISE,
        amount=Money(minor=905, currency="GBP"),
    )
    async with store.transaction() as session:
        await operations.intend(session, operation)
        await operations.answer(
            session, operation, state=OperationState.CONFIRMED, content={}, provider_ref=f"auth-{order_id}"
        )


async def test_an_orders_ledger_shows_each_transaction_with_its_entries_and_balances(
    api: httpx.AsyncClient, store: Store
) -> None:
    order_id = await submitted(api)
    assert (await api.get(f"/v1/orders/{order_id}/ledger")).json() == {
        "order_id": order_id,
        "transactions": [],
        "balances": [],
    }
    await held(store, order_id)
    books: dict[str, Any] = (await api.get(f"/v1/orders/{order_id}/ledger")).json()
    [wrote] = books["transactions"]
    assert (wrote["kind"], wrote["source"]) == ("authorise", "payment_operations")
    assert [(entry["account"], entry["amount"]["minor"]) for entry in wrote["entries"]] == [
        ("held.authorised", 905),
        ("held.contra", -905),
    ]
    assert [one["balance"]["minor"] for one in books["balances"]] == [905, -905]


async def test_the_trial_balance_adds_up(api: httpx.AsyncClient, store: Store) -> None:
    await held(store, await submitted(api))
    trial = (await api.get("/v1/ledger/balances")).json()
    assert trial["in_balance"] is True
    assert sum(one["balance"]["minor"] for one in trial["balances"]) == 0


async def test_the_ledger_of_an_order_that_does_not_exist_is_not_found(api: httpx.AsyncClient) -> None:
    for unknown in ("web:none", "no-order"):
        answer = await api.get(f"/v1/orders/{unknown}/ledger")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_parameter_that_does_not_exist_is_refused(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/ledger/balances?currency=GBP")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


# --- tenders of our own ---
def said(**changes: Any) -> dict[str, Any]:
    return {"currency": "GBP", "actor": "dana", **changes}


async def test_an_account_is_opened_pays_and_is_told_what_is_left(api: httpx.AsyncClient) -> None:
    account = f"acme-{new_number()}"
    limit = said(account=account, limit_minor=5_000)
    for _ in range(2):
        answer = await api.post("/v1/ledger/limits", json=limit)
        assert (answer.status_code, answer.json()) == (
            200,
            {"left": {"minor": 5_000, "currency": "GBP"}, "transaction": None},
        )
    payment = said(account=account, amount_minor=700, request_id=f"bank-{account}", in_advance=True)
    for _ in range(2):
        answer = await api.post("/v1/ledger/payments", json=payment)
        assert (answer.status_code, answer.json()["left"]["minor"]) == (200, 5_700)
    other = await api.post("/v1/ledger/payments", json=payment | {"amount_minor": 701})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    euros = await api.post("/v1/ledger/limits", json=limit | {"currency": "EUR"})
    assert (euros.status_code, euros.json()["code"]) == (409, "currency_mismatch")


async def test_what_the_provider_paid_out_and_kept_is_written_once_and_can_be_taken_back(
    api: httpx.AsyncClient,
) -> None:
    before = await balances(api)
    payout = said(kind="payout", amount_minor=900, reason="2 March", request_id=new_number())
    first, again = [await api.post("/v1/ledger/settlements", json=payout) for _ in range(2)]
    assert first.status_code == 200
    assert first.json() == again.json()
    assert first.json()["transaction"] == f"payout:{payout['request_id']}"
    fee = said(kind="fee", amount_minor=14, request_id=payout["request_id"])
    left = (await api.post("/v1/ledger/settlements", json=fee)).json()["left"]
    after = await balances(api)
    assert after["bank"] - before.get("bank", 0) == 900
    assert after["expense.provider_fees"] - before.get("expense.provider_fees", 0) == 14
    assert after["provider.clearing"] - before.get("provider.clearing", 0) == -914
    assert left == {"minor": after["provider.clearing"], "currency": "GBP"}
    other = await api.post("/v1/ledger/settlements", json=payout | {"amount_minor": 901})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    back = {"transaction": f"fee:{fee['request_id']}", "actor": "dana", "reason": "paid back by them"}
    assert (await api.post("/v1/ledger/reversals", json=back)).status_code == 200
    assert (await balances(api))["provider.clearing"] == after["provider.clearing"] + 14


@pytest.mark.parametrize(
    "wrong", [{"amount_minor": 0}, {"amount_minor": -5}, {"amount_minor": 1.5}, {"kind": "capture"}]
)
async def test_what_no_provider_settles_is_refused(api: httpx.AsyncClient, wrong: dict[str, Any]) -> None:
    payout = said(kind="payout", amount_minor=900, request_id=new_number())
    answer = await api.post("/v1/ledger/settlements", json=payout | wrong)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


async def balances(api: httpx.AsyncClient) -> dict[str, int]:
    trial = (await api.get("/v1/ledger/balances")).json()
    assert trial["in_balance"] is True
    pounds = [one for one in trial["balances"] if one["balance"]["currency"] == "GBP"]
    return {one["account"]: one["balance"]["minor"] for one in pounds}


async def test_more_than_is_owed_is_not_taken_for_a_payment_unless_it_is_said_so(
    api: httpx.AsyncClient, store: Store
) -> None:
    account = f"acme-{new_number()}"
    await api.post("/v1/ledger/limits", json=said(account=account, limit_minor=5_000))
    await owes(store, account, 1_200)
    payment = said(account=account, amount_minor=99_999_999, request_id=new_number())
    answer = await api.post("/v1/ledger/payments", json=payment)
    assert (answer.status_code, answer.json()["code"]) == (409, "ledger_refused")
    assert f"account {account} owes 12.00 GBP, and 999,999.99 GBP is more" in answer.json()["detail"]
    both = [said(account=account, amount_minor=700, request_id=new_number()) for _ in range(2)]
    codes = await asyncio.gather(*(api.post("/v1/ledger/payments", json=one) for one in both))
    assert sorted(answer.status_code for answer in codes) == [200, 409], "they owe it once"
    # The rest, twice under one request: it is not owed any more when it is repeated.
    rest = said(account=account, amount_minor=500, request_id=new_number())
    for _ in range(2):
        answer = await api.post("/v1/ledger/payments", json=rest)
        assert (answer.status_code, answer.json()["left"]["minor"]) == (200, 5_000)
    answer = await api.post(
        "/v1/ledger/payments", json=rest | {"request_id": new_number(), "in_advance": True}
    )
    assert (answer.status_code, answer.json()["left"]["minor"]) == (200, 5_500)


async def owes(store: Store, account: str, minor: int, what: str = "owes") -> None:
    """Goods were sent, to be paid later."""
    instrument = accounts.instrument_of(TenderKind.ON_ACCOUNT, account)
    entries = (
        NewEntry(account="receivable.on_account", amount=gbp(minor), instrument=instrument),
        NewEntry(account="sales.goods", amount=gbp(-minor)),
    )
    wrote = NewTransaction(
        id=f"{what}:{account}", kind=TransactionKind.ADJUSTMENT, source="test", at=NOON, entries=entries
    )
    async with store.transaction() as session:
        await ledger.post(session, wrote)


async def test_a_payment_of_an_account_that_nobody_opened_is_refused(api: httpx.AsyncClient) -> None:
    payment = said(account=f"nobody-{new_number()}", amount_minor=700, request_id=new_number())
    answer = await api.post("/v1/ledger/payments", json=payment)
    assert (answer.status_code, answer.json()["code"]) == (409, "ledger_refused")
    assert "open the account" in answer.json()["detail"]


async def test_a_payment_is_taken_back_once_whatever_is_owed_by_then(
    api: httpx.AsyncClient, store: Store
) -> None:
    account = f"acme-{new_number()}"
    await api.post("/v1/ledger/limits", json=said(account=account, limit_minor=1_000))
    await owes(store, account, 1_000)
    payment = said(account=account, amount_minor=1_000, request_id=new_number())
    wrote = (await api.post("/v1/ledger/payments", json=payment)).json()["transaction"]
    await owes(store, account, 600, "again")
    back = {"transaction": wrote, "actor": "jo", "reason": "the bank took it back"}
    answers = [await api.post("/v1/ledger/reversals", json=back) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    reversal = answers[0].json()
    assert (reversal["reverses"], reversal["source"], reversal["cause"], reversal["kind"]) == (
        wrote,
        "jo",
        "the bank took it back",
        "payment",
    )
    found = (await api.get(f"/v1/ledger/accounts/{account}")).json()
    assert (found["owed"]["minor"], found["left"]["minor"]) == (1_600, -600)
    twice = await api.post("/v1/ledger/reversals", json=back | {"transaction": reversal["id"]})
    assert (twice.status_code, twice.json()["code"]) == (409, "refused")
    unknown = await api.post("/v1/ledger/reversals", json=back | {"transaction": "payment:none"})
    assert unknown.status_code == 404


async def test_value_is_taken_off_a_card_unless_some_of_it_was_spent(
    api: httpx.AsyncClient, store: Store
) -> None:
    code = f"GIFT-{new_number()}"
    issue = said(kind="gift_card", code=code, amount_minor=5_000)
    first, second = [
        (await api.post("/v1/ledger/issues", json=issue | {"request_id": new_number()})).json()["transaction"]
        for _ in range(2)
    ]
    instrument = accounts.instrument_of(TenderKind.GIFT_CARD, code)
    async with store.transaction() as session:
        spent = (
            NewEntry(account="liability.gift_cards", amount=gbp(1), instrument=instrument),
            NewEntry(account="sales.goods", amount=gbp(-1)),
        )
        wrote = NewTransaction(
            id=f"spent:{code}", kind=TransactionKind.ADJUSTMENT, source="test", at=NOON, entries=spent
        )
        await ledger.post(session, wrote)
    back = {"actor": "jo", "reason": "sold twice by mistake"}
    answer = await api.post("/v1/ledger/reversals", json=back | {"transaction": first})
    assert answer.status_code == 200
    answer = await api.post("/v1/ledger/reversals", json=back | {"transaction": second})
    assert (answer.status_code, answer.json()["code"]) == (409, "ledger_refused")
    async with store.transaction() as session:
        assert await accounts.left(session, TenderKind.GIFT_CARD, code) == gbp(4_999)


@pytest.mark.parametrize(
    ("kind", "minor", "problem"),
    [
        ("payment", 999, "does not take"),
        ("adjustment", 1_000, "does not take"),
        ("payment", 1_000, None),
    ],
)
async def test_by_hand_too_a_reversal_is_the_whole_of_what_it_names_and_comes_once(
    api: httpx.AsyncClient, store: Store, kind: str, minor: int, problem: str | None
) -> None:
    account = f"acme-{new_number()}"
    await api.post("/v1/ledger/limits", json=said(account=account, limit_minor=1_000))
    payment = said(account=account, amount_minor=1_000, request_id=new_number(), in_advance=True)
    wrote = (await api.post("/v1/ledger/payments", json=payment)).json()["transaction"]

    def by_hand(number: int) -> NewTransaction:
        instrument = accounts.instrument_of(TenderKind.ON_ACCOUNT, account)
        return NewTransaction(
            id=f"hand:{account}:{number}",
            kind=TransactionKind(kind),
            source="test",
            at=NOON,
            reverses=wrote,
            entries=(
                NewEntry(account="bank", amount=gbp(-minor)),
                NewEntry(account="receivable.on_account", amount=gbp(minor), instrument=instrument),
            ),
        )

    if problem is None:
        async with store.transaction() as session:
            await ledger.post(session, by_hand(1))
    with pytest.raises(LedgerRefused, match=problem or "taken back once"):
        async with store.transaction() as session:
            await ledger.post(session, by_hand(2))


async def test_who_changed_a_limit_or_blocked_an_account_stays_with_it(
    api: httpx.AsyncClient, store: Store
) -> None:
    account = f"acme-{new_number()}"
    first = said(account=account, limit_minor=5_000, request_id="first", reason="new customer")
    await api.post("/v1/ledger/limits", json=first)
    await api.post("/v1/ledger/limits", json=said(account=account, limit_minor=9_000, actor="jo"))
    # A repeat that comes late does not undo what was decided since.
    late = await api.post("/v1/ledger/limits", json=first)
    assert (late.status_code, late.json()["left"]["minor"]) == (200, 9_000)
    other = await api.post("/v1/ledger/limits", json=first | {"limit_minor": 6_000})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    block = said(kind="on_account", token=account, active=False, reason="does not pay")
    del block["currency"]
    for _ in range(2):
        assert (await api.post("/v1/ledger/blocks", json=block)).status_code == 200
    async with store.transaction() as session:
        await session.execute(
            text("UPDATE customer_accounts SET credit_limit_minor = 1 WHERE instrument = :instrument"),
            {"instrument": f"account:{account}"},
        )
    found = (await api.get(f"/v1/ledger/accounts/{account}")).json()
    assert (found["active"], found["limit"]["minor"], found["owed"]["minor"]) == (False, 1, 0)
    changes = [
        (one["actor"], one["reason"], one["limit"]["minor"], one["active"]) for one in found["changes"]
    ]
    assert changes[1:] == [
        ("dana", "does not pay", 9_000, False),
        ("jo", None, 9_000, True),
        ("dana", "new customer", 5_000, True),
    ]
    assert changes[0][1:] == (None, 1, False), "by hand, and known all the same"
    assert changes[0][0] not in ("dana", "jo")
    assert (await api.get("/v1/ledger/accounts/nobody-at-all")).status_code == 404


async def test_what_is_blocked_is_declined_and_can_be_opened_again(
    api: httpx.AsyncClient, store: Store
) -> None:
    code = f"GIFT-{new_number()}"
    issue = said(kind="gift_card", code=code, amount_minor=5_000, request_id=new_number())
    await api.post("/v1/ledger/issues", json=issue)
    block = {"kind": "gift_card", "token": code, "actor": "dana", "active": False}
    for active, why in ((False, "tender_inactive"), (True, None)):
        answer = await api.post("/v1/ledger/blocks", json=block | {"active": active})
        assert (answer.status_code, answer.json()["left"]["minor"]) == (200, 5_000)
        async with store.transaction() as session:
            assert await accounts.why_not(session, TenderKind.GIFT_CARD, code, gbp(100)) == why
    answer = await api.post("/v1/ledger/blocks", json=block | {"token": "GIFT-unknown"})
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_value_is_put_on_a_gift_card_once_and_its_code_is_shown_nowhere(api: httpx.AsyncClient) -> None:
    issue = said(kind="gift_card", code=f"GIFT-{new_number()}", amount_minor=5_000, request_id=new_number())
    for _ in range(2):
        answer = await api.post("/v1/ledger/issues", json=issue)
        assert (answer.status_code, answer.json()["left"]["minor"]) == (200, 5_000)
    books = (await api.get("/v1/ledger/balances")).text
    assert "liability.gift_cards" in books
    assert issue["code"] not in books


async def test_nothing_and_half_a_penny_cannot_be_put_on_a_card(api: httpx.AsyncClient) -> None:
    for amount in (0, -5, 0.5):
        issue = said(kind="gift_card", code="GIFT-12345", amount_minor=amount, request_id=new_number())
        answer = await api.post("/v1/ledger/issues", json=issue)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
