"""The books: every confirmed movement of money posts itself, once, and nothing else gets in."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from alembic import command
from psycopg import IsolationLevel
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from activities.store import accounts, ledger, operations, reads
from activities.store.ledger import NewEntry, NewTransaction, OrderLedger
from activities.store.migrate import alembic_config, migrate
from activities.store.operations import PaymentOperation
from activities.store.store import Store
from models.errors import LedgerRefused
from models.ledger import (
    CHART,
    CLEARING,
    GIFT_CARDS,
    HELD,
    HELD_CONTRA,
    ON_ACCOUNT,
    STORE_CREDIT,
    TransactionKind,
)
from models.operations import OperationState, PaymentKind
from models.order import OrderDraft, TenderKind
from tests.builders import NOON, a_draft, accepted, gbp
from workers.embedded.postgres import EmbeddedPostgres

AUTHORISE, CAPTURE, REFUND, VOID = (
    PaymentKind.AUTHORISE,
    PaymentKind.CAPTURE,
    PaymentKind.REFUND,
    PaymentKind.VOID,
)


def a_movement(
    order_id: str, kind: PaymentKind, minor: int, number: int = 1, **changes: Any
) -> PaymentOperation:
    """An operation of an order; captures draw on its authorisation, refunds on its first capture."""
    parents = {
        CAPTURE: f"{order_id}-authorise-1",
        REFUND: f"{order_id}-capture-1",
        VOID: f"{order_id}-authorise-1",
    }
    operation = PaymentOperation(
        key=f"{order_id}:{kind}:{number}",
        order_id=order_id,
        shipment_id=f"{order_id}:1" if kind in (CAPTURE, REFUND) else None,
        kind=kind,
        parent=parents.get(kind),
        cause="lost_parcel" if kind is REFUND else None,
        amount=gbp(minor),
    )
    return operation.model_copy(update=changes)


async def confirmed(store: Store, operation: PaymentOperation, **answer: Any) -> None:
    """Intend and confirm ``operation``, as an activity does."""
    async with store.transaction() as session:
        await operations.intend(session, operation)
    await answered(store, operation, **answer)


async def answered(store: Store, operation: PaymentOperation, **answer: Any) -> None:
    number = operation.key.rpartition(":")[2]
    given: dict[str, Any] = {
        "state": OperationState.CONFIRMED,
        "content": {},
        "provider_ref": f"{operation.order_id}-{operation.kind}-{number}",
    }
    async with store.transaction() as session:
        await operations.answer(session, operation, **(given | answer))


async def called_off(store: Store, operation: PaymentOperation, **known: Any) -> None:
    async with store.transaction() as session:
        await operations.call_off(session, operation, **known)


async def books(store: Store, order_id: str) -> OrderLedger:
    async with store.transaction() as session:
        return await ledger.of_order(session, order_id)


async def posted(store: Store, order_id: str) -> list[tuple[str, dict[str, int]]]:
    """What was posted: kinds with amounts by account."""
    return [
        (wrote.kind.value, {entry.account: entry.amount.minor for entry in wrote.entries})
        for wrote in (await books(store, order_id)).transactions
    ]


async def balances(store: Store, order_id: str) -> dict[str, int]:
    return {one.account: one.balance.minor for one in (await books(store, order_id)).balances}


def plain_url(url: str) -> str:
    """As the driver alone takes it."""
    return url.replace("+psycopg", "")


async def run(store: Store, *statements: str, **values: Any) -> None:
    async with store.transaction() as session:
        for statement in statements:
            await session.execute(text(statement), values)


def a_taxed_draft() -> OrderDraft:
    """20.00 of goods, 3.95 postage, 4.00 tax, 1.00 off: 26.95."""
    charges = [
        {"code": "POST", "kind": "shipping", "amount_minor": 395},
        {"code": "VAT", "kind": "tax", "amount_minor": 400},
        {"code": "OFF", "kind": "discount", "amount_minor": -100},
    ]
    totals = {"lines_minor": 2000, "charges_minor": 695, "total_minor": 2695}
    draft = a_draft(lines=2)
    changes = {"charges": charges, "totals": totals, "tenders": [{"token": "tok", "amount_minor": 2695}]}
    return OrderDraft.model_validate(draft.model_dump() | changes)


# --- what posts itself ---
async def test_a_hold_is_written_on_the_two_sides_of_a_promise_and_is_no_money_yet(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    await confirmed(store, a_movement(order_id, AUTHORISE, 1395))
    assert await posted(store, order_id) == [("authorise", {HELD: 1395, HELD_CONTRA: -1395})]


async def test_what_is_only_intended_or_declined_is_not_in_the_books(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    await confirmed(
        store, a_movement(order_id, AUTHORISE, 1395), state=OperationState.DECLINED, provider_ref=None
    )
    async with store.transaction() as session:
        await operations.intend(session, a_movement(order_id, AUTHORISE, 1395, number=2))
    assert await posted(store, order_id) == []


async def test_a_capture_turns_the_promise_into_money_and_says_what_it_was_for(store: Store) -> None:
    order_id = await accepted(store, a_taxed_draft())
    await confirmed(store, a_movement(order_id, AUTHORISE, 2695))
    await confirmed(store, a_movement(order_id, CAPTURE, 2695))
    [_, (kind, entries)] = await posted(store, order_id)
    assert kind == "capture"
    assert entries == {
        HELD_CONTRA: 2695,
        HELD: -2695,
        CLEARING: 2695,
        "sales.goods": -2000,
        "sales.freight": -395,
        "tax.payable": -400,
        "sales.discounts": 100,
    }


async def test_a_capture_of_a_part_takes_the_split_that_the_activity_knows(store: Store) -> None:
    order_id = await accepted(store, a_taxed_draft())
    await confirmed(store, a_movement(order_id, AUTHORISE, 2695))
    split = {"goods": 1000, "freight": 100, "tax": 250, "discount": -50, "fees": 0, "adjustments": 0}
    await confirmed(store, a_movement(order_id, CAPTURE, 1300, split=split))
    amounts = await balances(store, order_id)
    assert (amounts["sales.goods"], amounts["tax.payable"], amounts["sales.discounts"]) == (-1000, -250, 50)
    assert amounts[HELD] == 1395


async def test_a_part_of_which_nobody_knows_the_goods_is_split_as_the_order_is(store: Store) -> None:
    order_id = await accepted(store, a_taxed_draft())
    await confirmed(store, a_movement(order_id, AUTHORISE, 2695))
    await confirmed(store, a_movement(order_id, CAPTURE, 1347))
    amounts = await balances(store, order_id)
    # 1347 of 2695: 199.9 of 400 tax, 197.4 of 395 postage, 49.98 of 100 off, each toward zero.
    assert (amounts["tax.payable"], amounts["sales.freight"], amounts["sales.discounts"]) == (-199, -197, 49)
    assert amounts["sales.goods"] == -(1347 - 199 - 197 + 49)


async def test_a_refund_is_a_cost_of_its_cause_and_gives_the_tax_back(store: Store) -> None:
    order_id = await accepted(store, a_taxed_draft())
    await confirmed(store, a_movement(order_id, AUTHORISE, 2695))
    await confirmed(store, a_movement(order_id, CAPTURE, 2695))
    await confirmed(store, a_movement(order_id, REFUND, 1000, number=1))
    assert (await posted(store, order_id))[-1] == (
        "refund",
        {"refunds.lost_parcel": 1000 - 148, "tax.payable": 148, CLEARING: -1000},
    )
    await confirmed(store, a_movement(order_id, REFUND, 1695, number=2, cause="returned"))
    amounts = await balances(store, order_id)
    assert (amounts["tax.payable"], amounts[CLEARING]) == (0, 0)
    assert amounts["refunds.returned"] == 1695 - (400 - 148)


@pytest.mark.parametrize(
    ("cause", "account"),
    [("returned", "refunds.returned"), ("a new cause", "refunds.other"), ("goodwill", "expense.goodwill")],
)
async def test_each_cause_of_a_refund_has_its_account(store: Store, cause: str, account: str) -> None:
    order_id = await accepted(store, a_taxed_draft())
    await confirmed(store, a_movement(order_id, AUTHORISE, 2695))
    await confirmed(store, a_movement(order_id, CAPTURE, 2695))
    await confirmed(store, a_movement(order_id, REFUND, 1000, cause=cause))
    last = (await books(store, order_id)).transactions[-1]
    assert last.cause == cause
    assert account in {entry.account for entry in last.entries}


async def test_a_void_gives_the_rest_of_the_promise_back(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    held = a_movement(order_id, AUTHORISE, 1395)
    await confirmed(store, held)
    await confirmed(store, a_movement(order_id, CAPTURE, 1000))
    await confirmed(store, a_movement(order_id, VOID, 0), amount_minor=395)
    await called_off(store, held)
    assert [kind for kind, _ in await posted(store, order_id)] == ["authorise", "capture", "void"]
    assert (await balances(store, order_id))[HELD] == 0


async def test_a_hold_that_expired_lapses_and_nobody_gave_it_back(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    held = a_movement(order_id, AUTHORISE, 1395)
    await confirmed(store, held)
    await confirmed(store, a_movement(order_id, VOID, 0))
    await called_off(store, held)
    await called_off(store, held)
    assert [kind for kind, _ in await posted(store, order_id)] == ["authorise", "lapse"]
    async with store.transaction() as session:
        money = await reads.money(session, order_id, "GBP")
    assert (money.authorised, money.held, money.voided) == (gbp(1395), gbp(0), gbp(0))


async def test_a_hold_whose_answer_was_lost_is_posted_with_its_void(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    held = a_movement(order_id, AUTHORISE, 1395)
    async with store.transaction() as session:
        await operations.intend(session, held)
    void = a_movement(order_id, VOID, 0, parent=None)
    await confirmed(store, void, amount_minor=1395)
    assert await posted(store, order_id) == []
    await called_off(store, held, provider_ref=f"{order_id}-authorise-1")
    assert [kind for kind, _ in await posted(store, order_id)] == ["authorise", "void"]


async def test_a_capture_whose_answer_comes_after_its_hold_was_called_off_is_a_fact(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    held, taken = a_movement(order_id, AUTHORISE, 1395), a_movement(order_id, CAPTURE, 1000)
    await confirmed(store, held)
    async with store.transaction() as session:
        await operations.intend(session, taken)
    await confirmed(store, a_movement(order_id, VOID, 0), amount_minor=395)
    await called_off(store, held)
    await answered(store, taken)
    assert [kind for kind, _ in await posted(store, order_id)] == [
        "authorise",
        "void",
        "lapse",
        "reinstate",
        "capture",
    ]
    amounts = await balances(store, order_id)
    assert (amounts[HELD], amounts[CLEARING]) == (0, 1000)


async def test_a_parcel_of_free_goods_posts_nothing(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    await confirmed(store, a_movement(order_id, AUTHORISE, 1395))
    await confirmed(store, a_movement(order_id, CAPTURE, 0))
    assert [kind for kind, _ in await posted(store, order_id)] == ["authorise"]


async def test_an_answer_that_comes_twice_posts_once(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    held = a_movement(order_id, AUTHORISE, 1395)
    await confirmed(store, held)
    await answered(store, held)
    await run(store, "UPDATE payment_operations SET state = state WHERE key = :key", key=held.key)
    assert len(await posted(store, order_id)) == 1


async def test_a_process_that_dies_before_it_commits_neither_confirms_nor_posts(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    held = a_movement(order_id, AUTHORISE, 1395)
    async with store.transaction() as session:
        await operations.intend(session, held)
    with pytest.raises(KeyboardInterrupt):
        async with store.transaction() as session:
            await operations.answer(
                session,
                held,
                state=OperationState.CONFIRMED,
                content={},
                provider_ref=f"{order_id}-authorise-1",
            )
            raise KeyboardInterrupt
    assert await posted(store, order_id) == []
    await answered(store, held)
    assert len(await posted(store, order_id)) == 1


async def test_captures_of_one_order_at_once_are_posted_one_after_the_other(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    await confirmed(store, a_movement(order_id, AUTHORISE, 1000))
    parts = [a_movement(order_id, CAPTURE, 100, number=number) for number in range(1, 11)]
    await asyncio.gather(*(confirmed(store, part) for part in parts))
    amounts = await balances(store, order_id)
    assert (amounts[HELD], amounts[CLEARING], amounts["sales.goods"] + amounts["sales.freight"]) == (
        0,
        1000,
        -1000,
    )


# --- what is read ---
async def test_balances_of_an_order_and_of_all_orders_are_sums_of_entries(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    await confirmed(store, a_movement(order_id, AUTHORISE, 1395))
    await confirmed(store, a_movement(order_id, CAPTURE, 1395))
    await confirmed(store, a_movement(order_id, REFUND, 400))
    async with store.transaction() as session:
        money = await reads.money(session, order_id, "GBP")
        by_shipment = await ledger.moved_by_shipment(session, order_id)
        per_order = await ledger.captured_and_refunded(session, [order_id])
        trial = await ledger.trial_balance(session)
    assert (money.authorised, money.captured, money.refunded) == (gbp(1395), gbp(1395), gbp(400))
    assert (by_shipment[f"{order_id}:1"].captured, by_shipment[f"{order_id}:1"].refunded) == (1395, 400)
    assert per_order == {order_id: (1395, 400)}
    assert trial.in_balance
    assert {one.account for one in trial.balances} >= {CLEARING, "sales.goods", "refunds.lost_parcel"}


async def test_an_order_without_money_has_empty_books(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    assert await books(store, order_id) == OrderLedger(order_id=order_id, transactions=(), balances=())


async def test_the_chart_in_the_database_is_the_one_that_the_code_knows(store: Store) -> None:
    async with store.transaction() as session:
        rows = await session.execute(text("SELECT code, name, kind, side, tender FROM ledger_accounts"))
    assert {tuple(row) for row in rows} == {
        (account.code, account.name, account.kind, account.side, account.tender) for account in CHART
    }


# --- what is written by hand ---
def a_fee(key: str, *amounts: int, **changes: Any) -> NewTransaction:
    accounts = ("expense.provider_fees", CLEARING, "bank")
    return NewTransaction(
        id=key,
        kind=TransactionKind.FEE,
        source="test",
        at=NOON,
        entries=tuple(
            NewEntry(account=account, amount=gbp(amount))
            for account, amount in zip(accounts, amounts, strict=False)
        ),
    ).model_copy(update=changes)


async def test_a_fee_is_written_once_under_its_key(store: Store) -> None:
    for expected in (True, False):
        async with store.transaction() as session:
            assert await ledger.post(session, a_fee("fee-1", 25, -25)) is expected


@pytest.mark.parametrize(
    ("amounts", "message"),
    [
        ((25, -24), "out of balance by 1 GBP: its debits and credits must be equal"),
        ((5, -4, -2), "out of balance"),
    ],
)
async def test_what_does_not_add_up_is_refused_and_leaves_nothing(
    store: Store, amounts: tuple[int, ...], message: str
) -> None:
    with pytest.raises(LedgerRefused, match=message) as caught:
        async with store.transaction() as session:
            await ledger.post(session, a_fee("fee-2", *amounts))
    assert caught.value.code == "ledger_refused"
    async with store.transaction() as session:
        assert await ledger.post(session, a_fee("fee-2", 1, -1)) is True
        await session.rollback()


async def test_two_currencies_do_not_make_up_for_each_other(store: Store) -> None:
    euros = NewEntry(account=CLEARING, amount=gbp(-25).model_copy(update={"currency": "EUR"}))
    mixed = (NewEntry(account="bank", amount=gbp(25)), euros)
    with pytest.raises(LedgerRefused, match="out of balance"):
        async with store.transaction() as session:
            await ledger.post(session, a_fee("fee-3", 1, -1, entries=mixed))


async def test_an_account_that_is_not_in_the_chart_is_refused(store: Store) -> None:
    entries = (NewEntry(account="pocket", amount=gbp(25)), NewEntry(account=CLEARING, amount=gbp(-25)))
    with pytest.raises(LedgerRefused, match="use an account of the chart"):
        async with store.transaction() as session:
            await ledger.post(session, a_fee("fee-4", 1, -1, entries=entries))


# --- what the database itself refuses, whoever writes ---
TRANSACTION = (
    "INSERT INTO ledger_transactions (id, order_id, kind, cause, source, at) "
    "VALUES (:id, :order_id, :kind, 'lost_parcel', 'by hand', now())"
)


def entry(number: int, account: str, amount: int, tender: str | None = None) -> str:
    named = "NULL" if tender is None else f"'{tender}'"
    return (
        "INSERT INTO ledger_entries (transaction_id, number, account, amount_minor, currency, tender) "
        f"VALUES (:id, {number}, '{account}', {amount}, 'GBP', {named})"
    )


@pytest.fixture
async def held(store: Store) -> AsyncIterator[tuple[str, str]]:
    """An order with 10.00 held, of which 6.00 were captured; answers its id and its tender."""
    order_id = await accepted(store, a_draft())
    await confirmed(store, a_movement(order_id, AUTHORISE, 1000))
    await confirmed(store, a_movement(order_id, CAPTURE, 600))
    yield order_id, f"{order_id}:authorise:1"


@pytest.mark.parametrize(
    ("kind", "constraint", "entries"),
    [
        ("capture", "ledger_not_empty", ()),
        ("capture", "ledger_in_balance", ((HELD_CONTRA, 1, None),)),
        ("capture", "ledger_tender", ((CLEARING, 1, None), ("sales.goods", -1, None))),
        ("capture", "ledger_tender", ((CLEARING, 1, "T"), ("sales.goods", -1, "T"))),
        # However it is called: more money than was authorised.
        ("capture", "ledger_captured_within_authorised", ((CLEARING, 401, "T"), ("sales.goods", -401, None))),
        (
            "adjustment",
            "ledger_captured_within_authorised",
            ((CLEARING, 401, "T"), ("sales.goods", -401, None)),
        ),
        ("refund", "ledger_refunded_within_captured", ((CLEARING, -601, "T"), ("refunds.other", 601, None))),
        ("void", "ledger_held", ((HELD, -401, "T"), (HELD_CONTRA, 401, None))),
        ("lapse", "ledger_held", ((HELD, -1, "another"), (HELD_CONTRA, 1, None))),
        # Past every tender: nothing would say how much was there to be paid back.
        ("refund", "ledger_tender", (("bank", -5000, None), ("refunds.other", 5000, None))),
        ("capture", "ledger_tender", (("receivable.customers", 5, None), ("sales.goods", -5, None))),
        ("refund", "ledger_tender", (("suspense", -5, None), ("refunds.other", 5, None))),
        # Owed by nobody, and spent of nobody's card.
        ("capture", "ledger_instrument", ((ON_ACCOUNT, 1, "T"), ("sales.goods", -1, None))),
        ("adjustment", "ledger_instrument", ((ON_ACCOUNT, 1, None), ("sales.goods", -1, None))),
        ("issue", "ledger_instrument", (("bank", 1, None), (GIFT_CARDS, -1, None))),
        ("adjustment", "ledger_instrument", ((STORE_CREDIT, 1, None), ("expense.goodwill", -1, None))),
    ],
)
async def test_hand_written_rows_that_break_the_books_are_refused(
    store: Store,
    held: tuple[str, str],
    kind: str,
    constraint: str,
    entries: tuple[tuple[str, int, str | None], ...],
) -> None:
    order_id, tender = held
    before = await balances(store, order_id)
    rows = [
        entry(number, account, amount, tender if named == "T" else named)
        for number, (account, amount, named) in enumerate(entries, start=1)
    ]
    with pytest.raises(IntegrityError) as caught:
        await run(store, TRANSACTION, *rows, id=f"{order_id}-by-hand", order_id=order_id, kind=kind)
    assert getattr(caught.value.orig, "diag").constraint_name == constraint  # noqa: B009 - psycopg's, unknown to mypy
    assert await balances(store, order_id) == before


@pytest.mark.parametrize("currency", ["QQQ", "gbp", "", "GBP "])
async def test_an_amount_in_no_currency_of_ours_is_refused_so_that_the_books_stay_readable(
    store: Store, currency: str
) -> None:
    with pytest.raises(IntegrityError, match="ck_ledger_entries_currency"):
        await run(
            store,
            _transaction("in-no-currency", None, "adjustment"),
            "INSERT INTO ledger_entries (transaction_id, number, account, amount_minor, currency) VALUES"
            f" ('in-no-currency', 1, 'bank', 5, '{currency}'), ('in-no-currency', 2, 'suspense', -5, '{currency}')",
        )
    async with store.transaction() as session:
        assert (await ledger.trial_balance(session)).in_balance


async def test_an_amount_that_nobody_could_read_again_is_refused(store: Store) -> None:
    with pytest.raises(IntegrityError, match="ck_ledger_entries_amount"):
        await run(
            store,
            _transaction("too-much", None, "adjustment"),
            "INSERT INTO ledger_entries (transaction_id, number, account, amount_minor, currency) VALUES"
            f" ('too-much', 1, 'bank', {10**15 + 1}, 'GBP'), ('too-much', 2, 'suspense', {-(10**15) - 1}, 'GBP')",
        )


@pytest.mark.parametrize("table", ["payment_operations", "customer_accounts", "stored_value"])
async def test_no_table_of_money_takes_a_currency_that_is_not_ours(store: Store, table: str) -> None:
    values = {
        "payment_operations": "(key, order_id, kind, state, intended_at, amount_minor, currency)"
        " VALUES ('q', 'web:q', 'authorise', 'intended', now(), 5, 'QQQ')",
        "customer_accounts": "(instrument, currency, credit_limit_minor, active, created_at)"
        " VALUES ('q', 'QQQ', 5, true, now())",
        "stored_value": "(instrument, kind, currency, active, created_at)"
        " VALUES ('q', 'gift_card', 'QQQ', true, now())",
    }
    with pytest.raises(IntegrityError, match=f"ck_{table}_currency"):
        await run(store, f"INSERT INTO {table} {values[table]}")


async def test_hand_written_rows_within_the_bounds_are_taken(store: Store, held: tuple[str, str]) -> None:
    order_id, tender = held
    await run(
        store,
        TRANSACTION,
        entry(1, CLEARING, 400, tender),
        entry(2, "sales.goods", -400),
        id=f"{order_id}-by-hand",
        order_id=order_id,
        kind="capture",
    )
    assert (await balances(store, order_id))[CLEARING] == 1000


async def test_two_hand_written_captures_at_once_cannot_both_take_the_last_of_a_hold(
    store: Store, held: tuple[str, str]
) -> None:
    order_id, tender = held

    async def take(number: int) -> None:
        await run(
            store,
            TRANSACTION,
            entry(1, CLEARING, 300, tender),
            entry(2, "sales.goods", -300),
            id=f"{order_id}-by-hand-{number}",
            order_id=order_id,
            kind="capture",
        )

    done = await asyncio.gather(*(take(number) for number in range(4)), return_exceptions=True)
    assert [type(one).__name__ for one in done].count("NoneType") == 1
    assert (await balances(store, order_id))[CLEARING] == 900


# --- two connections, each of which looked before the other wrote ---
async def at_once(url: str, level: IsolationLevel, *rows: tuple[str, str]) -> list[str]:
    """Write each of ``rows`` (transaction, entries) on a connection of its own; answers what came of each, in order.

    All snapshots are taken before anything is written, and each goes as far as it can before the next commits.
    """
    connections = [await psycopg.AsyncConnection.connect(url) for _ in rows]
    said = []
    try:
        for connection in connections:
            await connection.set_isolation_level(level)
            await connection.execute("SELECT count(*) FROM ledger_entries")
        for connection, (transaction, entries) in zip(connections, rows, strict=True):
            try:
                await connection.execute(transaction)
                await connection.execute(entries)
                await connection.commit()
                said.append("written")
            except psycopg.Error as error:
                said.append(error.diag.constraint_name or error.sqlstate or "")
                await connection.rollback()
    finally:
        for connection in connections:
            await connection.close()
    return said


def _transaction(transaction: str, order_id: str | None, kind: str) -> str:
    order = "NULL" if order_id is None else f"'{order_id}'"
    return (
        "INSERT INTO ledger_transactions (id, order_id, kind, source, at)"
        f" VALUES ('{transaction}', {order}, '{kind}', 'by hand', now())"
    )


_OLD_SNAPSHOTS = [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE]


@pytest.mark.parametrize("level", [IsolationLevel.READ_COMMITTED, *_OLD_SNAPSHOTS])
async def test_whatever_they_saw_before_two_cannot_both_take_a_whole_hold(
    store: Store, database_url: str, held: tuple[str, str], level: IsolationLevel
) -> None:
    order_id, tender = held
    rows = [
        (
            _transaction(f"{order_id}:{number}", order_id, "capture"),
            "INSERT INTO ledger_entries (transaction_id, number, account, amount_minor, currency, tender) VALUES"
            f" ('{order_id}:{number}', 1, '{CLEARING}', 400, 'GBP', '{tender}'),"
            f" ('{order_id}:{number}', 2, 'sales.goods', -400, 'GBP', NULL)",
        )
        for number in (1, 2)
    ]
    said = await at_once(plain_url(database_url), level, *rows)
    assert (await balances(store, order_id))[CLEARING] <= 1000
    if level is IsolationLevel.READ_COMMITTED:
        assert said == ["written", "ledger_captured_within_authorised"]
    else:
        assert said == ["25000", "25000"]


@pytest.mark.parametrize("level", [IsolationLevel.READ_COMMITTED, *_OLD_SNAPSHOTS])
async def test_whatever_they_saw_before_two_cannot_both_use_up_a_credit_limit(
    store: Store, database_url: str, level: IsolationLevel
) -> None:
    name = f"acme-{level.name}"
    async with store.transaction() as session:
        instrument = await accounts.open_account(session, name, gbp(1000))
    rows = [
        (
            _transaction(f"{name}:{number}", None, "adjustment"),
            "INSERT INTO ledger_entries (transaction_id, number, account, amount_minor, currency, instrument) VALUES"
            f" ('{name}:{number}', 1, '{ON_ACCOUNT}', 540, 'GBP', '{instrument}'),"
            f" ('{name}:{number}', 2, 'sales.goods', -540, 'GBP', NULL)",
        )
        for number in (1, 2)
    ]
    said = await at_once(plain_url(database_url), level, *rows)
    async with store.transaction() as session:
        assert await accounts.left(session, TenderKind.ON_ACCOUNT, name) >= gbp(0)
    expected = {IsolationLevel.READ_COMMITTED: ["written", "ledger_within_limit"]}
    assert said == expected.get(level, ["25000", "25000"])


@pytest.mark.parametrize("level", _OLD_SNAPSHOTS)
async def test_nothing_is_asked_of_the_provider_from_an_old_snapshot(
    store: Store, database_url: str, level: IsolationLevel
) -> None:
    order_id = await accepted(store, a_draft())
    await confirmed(store, a_movement(order_id, AUTHORISE, 1000))
    intend = (
        "INSERT INTO payment_operations (key, order_id, kind, state, parent, intended_at, amount_minor, currency)"
        " VALUES ('{0}:{1}', '{0}', 'capture', 'intended', '{0}-authorise-1', now(), 1000, 'GBP')"
    )
    rows = [(intend.format(order_id, number), "SELECT 1") for number in (1, 2)]
    assert await at_once(plain_url(database_url), level, *rows) == ["25000", "25000"]


async def test_an_order_that_is_not_there_has_its_bounds_too(store: Store, database_url: str) -> None:
    hold = (
        "INSERT INTO ledger_entries (transaction_id, number, account, amount_minor, currency, tender) VALUES"
    )
    await run(
        store,
        _transaction("ghost:1", "web:ghost", "authorise"),
        f"{hold} ('ghost:1', 1, '{HELD}', 50, 'GBP', 'ghost:1'), ('ghost:1', 2, '{HELD_CONTRA}', -50, 'GBP', NULL)",
    )
    first, second = [await psycopg.AsyncConnection.connect(plain_url(database_url)) for _ in range(2)]
    try:
        for number, connection in ((2, first), (3, second)):
            write = asyncio.create_task(_takes(connection, f"ghost:{number}", hold))
            if connection is first:
                await write
            else:
                await asyncio.sleep(0.2)
                assert not write.done(), "it waits for the other's end"
                await first.commit()
                await write
        with pytest.raises(psycopg.errors.CheckViolation, match="50 authorised"):
            await second.commit()
    finally:
        await first.close()
        await second.close()


async def _takes(connection: "psycopg.AsyncConnection[Any]", transaction: str, hold: str) -> None:
    await connection.execute(_transaction(transaction, "web:ghost", "capture"))
    rows = f"{hold} ('{transaction}', 1, '{CLEARING}', 50, 'GBP', 'ghost:1'),"
    rows += f" ('{transaction}', 2, 'sales.goods', -50, 'GBP', NULL)"
    await connection.execute(rows)


async def test_a_server_with_another_default_changes_nothing_for_us(fresh_database: str) -> None:
    engine = create_engine(fresh_database, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
        connection.exec_driver_sql(
            f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'"
        )
    engine.dispose()
    store = Store.at(fresh_database)
    try:
        order_id = await accepted(store, a_draft())
        await confirmed(store, a_movement(order_id, AUTHORISE, 1395))
        await confirmed(store, a_movement(order_id, CAPTURE, 1000))
        assert (await balances(store, order_id))[CLEARING] == 1000
    finally:
        await store.close()


@pytest.mark.parametrize("table", ["ledger_transactions", "ledger_entries"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET {} = NULL", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
async def test_the_books_only_grow(store: Store, held: tuple[str, str], table: str, statement: str) -> None:
    column = "cause" if table == "ledger_transactions" else "tender"
    with pytest.raises(DBAPIError, match="append-only"):
        await run(store, statement.format(table, column))


async def test_a_transaction_that_is_written_takes_no_more_entries(
    store: Store, held: tuple[str, str]
) -> None:
    order_id, _ = held
    with pytest.raises(DBAPIError, match="is complete"):
        await run(store, entry(91, "bank", 5), entry(92, "suspense", -5), id=f"{order_id}:capture:1")


async def test_a_confirmed_capture_that_draws_on_nothing_is_refused(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    with pytest.raises(IntegrityError, match="draws on nothing that was authorised"):
        await run(
            store,
            "INSERT INTO payment_operations (key, order_id, kind, state, parent, provider_ref, intended_at, "
            "amount_minor, currency) VALUES (:key, :order_id, 'capture', 'confirmed', 'none', :key, now(), 100, 'GBP')",
            key=f"{order_id}-hand",
            order_id=order_id,
        )


# --- the version before, and what it left behind ---
# What version 0.1.0 sends to the database for an operation, and for its answer: it knows neither tender nor split.
_OLD_INTENTION = (
    "INSERT INTO payment_operations (key, order_id, shipment_id, kind, parent, cause, state, intended_at, "
    "amount_minor, currency) VALUES (:key, :order_id, :shipment_id, :kind, :parent, :cause, 'intended', now(), "
    ":minor, 'GBP') ON CONFLICT (key) DO NOTHING"
)
_OLD_ANSWER = (
    "UPDATE payment_operations SET state = 'confirmed', provider_ref = :ref, answer = '{}', answered_at = now(), "
    "amount_minor = :minor WHERE key = :key"
)
_OLD_CALL_OFF = "UPDATE payment_operations SET state = 'called_off' WHERE key = :key"


async def the_version_before_carries_out(store: Store, order_id: str) -> None:
    """Hold 10.00, capture 6.00, pay 2.00 back, void the rest; then another hold that has expired."""
    steps = [
        ("authorise", "a", None, 1000, None),
        ("capture", "c", "a", 600, None),
        ("refund", "r", "c", 200, "lost_parcel"),
        ("void", "v", "a", 400, None),
        ("authorise", "a2", None, 500, None),
        ("void", "v2", "a2", 0, None),
    ]
    for kind, ref, parent, minor, cause in steps:
        values = {
            "key": f"{order_id}/{ref}",
            "order_id": order_id,
            "shipment_id": f"{order_id}:1" if kind in ("capture", "refund") else None,
            "kind": kind,
            "parent": parent and f"{order_id}-{parent}",
            "cause": cause,
            "minor": minor,
            "ref": f"{order_id}-{ref}",
        }
        await run(store, _OLD_INTENTION, **values)
        await run(store, _OLD_ANSWER, **values)
        if kind == "void":
            await run(store, _OLD_CALL_OFF, key=f"{order_id}/{'a' if ref == 'v' else 'a2'}")


BOOKS_OF_THAT = [
    ("authorise", {HELD: 1000, HELD_CONTRA: -1000}),
    (
        "capture",
        {HELD: -600, HELD_CONTRA: 600, CLEARING: 600, "sales.goods": -431, "sales.freight": -169},
    ),
    ("refund", {CLEARING: -200, "refunds.lost_parcel": 200}),
    ("void", {HELD: -400, HELD_CONTRA: 400}),
    ("authorise", {HELD: 500, HELD_CONTRA: -500}),
    ("lapse", {HELD: -500, HELD_CONTRA: 500}),
]


async def test_what_the_version_before_confirms_is_in_the_books(store: Store) -> None:
    order_id = await accepted(store, a_draft())
    await the_version_before_carries_out(store, order_id)
    assert await posted(store, order_id) == BOOKS_OF_THAT


async def test_what_was_confirmed_before_there_was_a_ledger_is_posted_by_the_migration(
    database_server: EmbeddedPostgres,
) -> None:
    url = database_server.url("before_the_ledger")
    migrate(url)
    store = Store.at(url)
    order_id = await accepted(store, a_draft())
    engine = create_engine(url)
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0013-1")
    await store.close()
    store = Store.at(url)
    await the_version_before_carries_out(store, order_id)
    migrate(url)
    found = await posted(store, order_id)
    assert sorted(found, key=str) == sorted(BOOKS_OF_THAT, key=str)
    assert {wrote.source for wrote in (await books(store, order_id)).transactions} == {"backfill"}
    async with store.transaction() as session:
        assert (await ledger.trial_balance(session)).in_balance
        money = await reads.money(session, order_id, "GBP")
    assert (money.authorised, money.captured, money.voided, money.held) == (
        gbp(1500),
        gbp(600),
        gbp(400),
        gbp(0),
    )
    assert datetime.now(UTC) > (await books(store, order_id)).transactions[0].at
    await store.close()
    engine.dispose()


async def test_a_database_whose_operations_break_the_bounds_is_not_migrated_and_names_the_order(
    database_server: EmbeddedPostgres,
) -> None:
    url = database_server.url("broken_before_the_ledger")
    migrate(url)
    store = Store.at(url)
    order_id = await accepted(store, a_draft())
    engine = create_engine(url)
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "0013-1")
    await store.close()
    store = Store.at(url)
    await the_version_before_carries_out(store, order_id)
    await run(store, "UPDATE payment_operations SET amount_minor = 1001 WHERE kind = 'capture'")
    with pytest.raises(
        DBAPIError, match=f"of order {order_id} cannot be posted: 1000 authorised, 1001 captured"
    ):
        migrate(url)
    await store.close()
    engine.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM payment_operations WHERE key = :key",
        "UPDATE payment_operations SET amount_minor = amount_minor * 10 WHERE key = :key",
        "UPDATE payment_operations SET currency = 'EUR' WHERE key = :key",
        "UPDATE payment_operations SET kind = 'void' WHERE key = :key",
        "UPDATE payment_operations SET state = 'intended' WHERE key = :key",
        "UPDATE payment_operations SET shipment_id = 'web:other:1' WHERE key = :key",
    ],
)
async def test_what_the_provider_confirmed_is_neither_changed_nor_forgotten(
    store: Store, statement: str
) -> None:
    held = a_movement(await accepted(store, a_draft()), PaymentKind.AUTHORISE, 1395)
    await confirmed(store, held)
    with pytest.raises(DBAPIError, match=r"is confirmed|is kept"):
        await run(store, statement, key=held.key)
    # Who mends it on purpose says so.
    await run(store, "SELECT set_config('orderwright.mend', 'a test', true)", statement, key=held.key)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_accounts SET tender = false WHERE code = 'provider.clearing'",
        "DELETE FROM ledger_accounts WHERE code = 'suspense'",
    ],
)
async def test_the_chart_of_accounts_only_grows(store: Store, statement: str) -> None:
    with pytest.raises(DBAPIError, match="append"):
        await run(store, statement)
