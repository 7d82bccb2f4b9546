"""Reads of the books, and the one way to write down by hand what no payment operation stands for.

Every balance is a sum of entries, made when it is asked for.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import LiteralString

from pydantic import AwareDatetime, Field
from sqlalchemy import Select, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store.driver import call
from models.base import Contract
from models.errors import Conflict, LedgerRefused, NotFound, Refused
from models.ledger import CLEARING, HELD, NAMES, TransactionKind, UsualSide
from models.money import Money
from models.tables.ledger import LedgerAccountRow, LedgerEntryRow, LedgerTransactionRow

_TENDERS = ("captured", "refunded")


class EntryView(Contract):
    """An amount on an account: a debit above zero, a credit below."""

    account: str
    name: str
    amount: Money
    tender: str | None = None
    instrument: str | None = None


class TransactionView(Contract):
    """Something that happened to money, with the entries that add up to zero.

    ``id`` is its idempotency key, ``source`` who wrote it down. ``reverses``: the one that it takes back.
    """

    id: str
    kind: TransactionKind
    shipment_id: str | None = None
    cause: str | None = None
    source: str
    at: AwareDatetime
    recorded_at: AwareDatetime
    reverses: str | None = None
    entries: tuple[EntryView, ...]


class BalanceView(Contract):
    """What an account adds up to in one currency: a debit above zero, a credit below; ``side`` is its usual one."""

    account: str
    name: str
    side: UsualSide
    debits: Money
    credits: Money
    balance: Money


class OrderLedger(Contract):
    """An order's transactions in the order of writing, and what its accounts add up to."""

    order_id: str
    transactions: tuple[TransactionView, ...]
    balances: tuple[BalanceView, ...]


class TrialBalance(Contract):
    """Every account that was ever moved. In each currency the balances add up to zero, or the books are wrong."""

    balances: tuple[BalanceView, ...]
    in_balance: bool


class Moved(Contract):
    """An order's or a shipment's money in minor units, by what happened to it."""

    authorised: int = 0
    held: int = 0
    captured: int = 0
    refunded: int = 0
    voided: int = 0


class NewEntry(Contract):
    """An entry to be written."""

    account: str
    amount: Money
    tender: str | None = None
    instrument: str | None = None


class NewTransaction(Contract):
    """A transaction to be written: a fee, a payout, a correction. Movements of money at the provider post themselves.

    ``id`` is its idempotency key; ``source`` says who writes it.
    """

    id: str = Field(min_length=1)
    kind: TransactionKind
    source: str
    at: AwareDatetime
    order_id: str | None = None
    shipment_id: str | None = None
    cause: str | None = None
    reverses: str | None = None
    entries: tuple[NewEntry, ...] = Field(min_length=2)


async def post(session: AsyncSession, transaction: NewTransaction) -> bool:
    """Write ``transaction``; False when its id is known, and then nothing is written.

    Raises ``LedgerRefused`` for what does not add up or is beyond an order's bounds; the session's transaction is then
    to be given up, and nothing of it stays.
    """
    values = transaction.model_dump(exclude={"entries"})
    try:
        written = await session.scalar(
            insert(LedgerTransactionRow)
            .values(**values)
            .on_conflict_do_nothing(index_elements=["id"])
            .returning(col(LedgerTransactionRow.id))
        )
        if written is None:
            return False
        rows = [
            {
                "transaction_id": transaction.id,
                "number": number,
                "account": entry.account,
                "amount_minor": entry.amount.minor,
                "currency": entry.amount.currency,
                "tender": entry.tender,
                "instrument": entry.instrument,
            }
            for number, entry in enumerate(transaction.entries, start=1)
        ]
        await session.execute(insert(LedgerEntryRow), rows)
        # Now, so that who asked hears of it, and not who commits.
        await session.execute(_CHECK_NOW)
        await session.execute(_CHECK_LATER)
    except IntegrityError as error:
        raise _refusal(error) from None
    return True


async def post_once(session: AsyncSession, transaction: NewTransaction) -> None:
    """As ``post``, but a known id must stand for the same entries: raises ``Conflict`` if it does not."""
    if await post(session, transaction):
        return
    known = await session.execute(
        select(
            col(LedgerEntryRow.account),
            col(LedgerEntryRow.amount_minor),
            col(LedgerEntryRow.currency),
            col(LedgerEntryRow.instrument),
        ).where(col(LedgerEntryRow.transaction_id) == transaction.id)
    )
    asked = {
        (entry.account, entry.amount.minor, entry.amount.currency, entry.instrument)
        for entry in transaction.entries
    }
    if {tuple(row) for row in known} != asked:
        raise Conflict(f"{transaction.id} stands for something else in the books: a request id is used once")


async def settled(
    session: AsyncSession, kind: TransactionKind, amount: Money, *, key: str, source: str, reason: str | None
) -> Money:
    """Write down, once per ``key``, that the payment provider paid ``amount`` into the bank or kept it as a fee.

    Answers what is with the provider then; below zero, more was paid out than our books know of. It is written all the
    same: it is what the provider's statement says. Raises ``Refused`` for no amount, ``Conflict`` as ``post_once``.
    """
    if amount.minor <= 0:
        raise Refused(f"{amount} is no {kind}: say an amount above zero, or take back what was written")
    entries = (
        NewEntry(account=_SETTLED_TO[kind], amount=amount),
        NewEntry(account=CLEARING, amount=-amount),
    )
    now = datetime.now(UTC)
    await post_once(
        session, NewTransaction(id=key, kind=kind, source=source, at=now, cause=reason, entries=entries)
    )
    left = await session.scalar(
        select(func.coalesce(func.sum(col(LedgerEntryRow.amount_minor)), 0)).where(
            col(LedgerEntryRow.account) == CLEARING, col(LedgerEntryRow.currency) == amount.currency
        )
    )
    return Money(minor=int(left or 0), currency=amount.currency)


_SETTLED_TO = {TransactionKind.PAYOUT: "bank", TransactionKind.FEE: "expense.provider_fees"}


async def of_order(session: AsyncSession, order_id: str) -> OrderLedger:
    """Everything that was posted for an order; empty when nothing was."""
    found = await session.execute(
        select(LedgerTransactionRow, LedgerEntryRow)
        .join(LedgerEntryRow, col(LedgerEntryRow.transaction_id) == col(LedgerTransactionRow.id))
        .where(col(LedgerTransactionRow.order_id).in_((order_id,)))
        .order_by(col(LedgerTransactionRow.position), col(LedgerEntryRow.number))
    )
    entries: dict[str, list[LedgerEntryRow]] = {}
    transactions: dict[str, LedgerTransactionRow] = {}
    for transaction, entry in found:
        transactions[transaction.id] = transaction
        entries.setdefault(transaction.id, []).append(entry)
    return OrderLedger(
        order_id=order_id,
        transactions=tuple(_transaction(row, entries[row.id]) for row in transactions.values()),
        balances=await _balances(session, order_id),
    )


async def reverse(session: AsyncSession, transaction_id: str, *, actor: str, reason: str) -> TransactionView:
    """Take a payment, an issue, a payout or a fee back: a new transaction, which names it.

    Asked for again it is the same one. Raises ``NotFound``, ``Refused`` for what is none of them, and ``LedgerRefused``
    where some of it was spent.
    """
    original = await session.get(LedgerTransactionRow, transaction_id)
    if original is None:
        raise NotFound(f"there is no transaction {transaction_id} in the books")
    if original.kind not in _REVERSIBLE or original.reverses is not None:
        raise Refused(f"{transaction_id} is no payment, issue, payout or fee: only those can be taken back")
    key = f"reverse:{transaction_id}"
    entries = await _entries(session, transaction_id)
    negated = tuple(
        NewEntry(
            account=entry.account,
            amount=Money(minor=-entry.amount_minor, currency=entry.currency),
            tender=entry.tender,
            instrument=entry.instrument,
        )
        for entry in entries
    )
    await post(
        session,
        NewTransaction(
            id=key,
            kind=TransactionKind(original.kind),
            source=actor,
            at=datetime.now(UTC),
            order_id=original.order_id,
            cause=reason,
            reverses=transaction_id,
            entries=negated,
        ),
    )
    written = await session.get(LedgerTransactionRow, key)
    if written is None or written.reverses != transaction_id:
        raise Refused(f"{key} stands for something else in the books")
    return _transaction(written, await _entries(session, key))


_REVERSIBLE = (
    TransactionKind.PAYMENT,
    TransactionKind.ISSUE,
    TransactionKind.PAYOUT,
    TransactionKind.FEE,
)


async def _entries(session: AsyncSession, transaction_id: str) -> Sequence[LedgerEntryRow]:
    rows = await session.scalars(
        select(LedgerEntryRow)
        .where(col(LedgerEntryRow.transaction_id) == transaction_id)
        .order_by(col(LedgerEntryRow.number))
    )
    return rows.all()


async def trial_balance(session: AsyncSession) -> TrialBalance:
    """All accounts. It adds up the whole ledger: for people and nightly jobs, not for every order."""
    balances = await _balances(session, None)
    sums: dict[str, int] = {}
    for balance in balances:
        sums[balance.balance.currency] = sums.get(balance.balance.currency, 0) + balance.balance.minor
    return TrialBalance(balances=balances, in_balance=not any(sums.values()))


async def moved(session: AsyncSession, order_id: str) -> Moved:
    """An order's money."""
    sums: dict[str, int] = {}
    for kind, account, amount in await call(session, _MOVED, (order_id,)):
        for what, minor in _meaning(kind, account, int(amount)).items():
            sums[what] = sums.get(what, 0) + minor
    return Moved(**sums)


async def held_under(session: AsyncSession, order_id: str, tender: str, currency: str) -> int:
    """What is held under one authorisation's key, in minor units."""
    held: int = await call(session, "SELECT (ledger_moved(%s, %s, %s)).held", (order_id, tender, currency))
    return held


async def moved_by_shipment(session: AsyncSession, order_id: str) -> dict[str, Moved]:
    """What was captured and refunded for each of an order's shipments."""
    shipment = col(LedgerTransactionRow.shipment_id)
    sums: dict[str, dict[str, int]] = {}
    query = (
        _sums()
        .add_columns(shipment)
        .where(col(LedgerTransactionRow.order_id).in_((order_id,)), shipment.is_not(None))
        .group_by(shipment)
    )
    for kind, account, amount, shipment_id in await session.execute(query):
        of_shipment = sums.setdefault(shipment_id, {})
        for what, minor in _meaning(kind, account, int(amount)).items():
            if what in _TENDERS:
                of_shipment[what] = of_shipment.get(what, 0) + minor
    return {shipment_id: Moved(**of_shipment) for shipment_id, of_shipment in sums.items()}


async def captured_and_refunded(
    session: AsyncSession, order_ids: Collection[str] | None = None
) -> dict[str, tuple[int, int]]:
    """Minor units that the payment provider took and paid back, per order (all, or those listed) that has any."""
    query = (
        _sums()
        .add_columns(col(LedgerTransactionRow.order_id))
        .where(
            col(LedgerTransactionRow.order_id).is_not(None),
            col(LedgerEntryRow.account).in_((CLEARING,)),
            col(LedgerTransactionRow.kind).in_((TransactionKind.CAPTURE, TransactionKind.REFUND)),
        )
        .group_by(col(LedgerTransactionRow.order_id))
    )
    if order_ids is not None:
        query = query.where(col(LedgerTransactionRow.order_id).in_(order_ids))
    sums: dict[str, dict[str, int]] = {}
    for kind, account, amount, order_id in await session.execute(query):
        of_order = sums.setdefault(order_id, {})
        for what, minor in _meaning(kind, account, int(amount)).items():
            of_order[what] = of_order.get(what, 0) + minor
    return {
        order_id: (of_order.get("captured", 0), of_order.get("refunded", 0))
        for order_id, of_order in sums.items()
    }


_CHECKS = "ledger_not_empty, ledger_in_balance, ledger_within_bounds, ledger_within_limit, ledger_reverses"
_CHECK_NOW = text(f"SET CONSTRAINTS {_CHECKS} IMMEDIATE")
_CHECK_LATER = text(f"SET CONSTRAINTS {_CHECKS} DEFERRED")

_WHAT_TO_DO = {
    "ledger_not_empty": "write at least one debit and one credit",
    "ledger_in_balance": "its debits and credits must be equal in each currency",
    "ledger_tender": "name the tender where money of one moves, and nowhere else",
    "ledger_captured_within_authorised": "have the rest authorised first",
    "ledger_refunded_within_captured": "pay back no more than was captured, and give the rest as store credit",
    "ledger_instrument": "open the account, or issue the card, in this currency first",
    "ledger_within_limit": "use another tender for the rest, or raise the limit",
    "ledger_reverses": "a payment or an issue is taken back once, and as a whole",
    "uq_ledger_transactions_reverses": "a payment or an issue is taken back once, and as a whole",
    "ledger_held": "only what is held can be taken or given back",
    "fk_ledger_entries_account_ledger_accounts": "use an account of the chart (orderwright ledger balances)",
}


# What ``_sums`` asks, for one order: it is asked at every step of it.
_MOVED: LiteralString = """
SELECT coalesce(json_agg(json_build_array(kind, account, amount)), '[]') FROM (
    SELECT t.kind, e.account, sum(e.amount_minor) AS amount
      FROM ledger_transactions t JOIN ledger_entries e ON e.transaction_id = t.id
     WHERE t.order_id = %s AND e.tender IS NOT NULL GROUP BY t.kind, e.account) AS moved
"""


def _sums() -> Select[str, str, int]:
    """Per kind and account, what moved for tenders."""
    return (
        select(
            col(LedgerTransactionRow.kind),
            col(LedgerEntryRow.account),
            func.sum(col(LedgerEntryRow.amount_minor)),
        )
        .join(LedgerEntryRow, col(LedgerEntryRow.transaction_id) == col(LedgerTransactionRow.id))
        .where(col(LedgerEntryRow.tender).is_not(None))
        .group_by(col(LedgerTransactionRow.kind), col(LedgerEntryRow.account))
    )


def _meaning(kind: str, account: str, amount: int) -> dict[str, int]:
    if account == HELD:
        meaning = {"held": amount}
        if kind == TransactionKind.AUTHORISE:
            meaning["authorised"] = amount
        if kind == TransactionKind.VOID:
            meaning["voided"] = -amount
        return meaning
    taken = kind == TransactionKind.CAPTURE or (kind != TransactionKind.REFUND and amount > 0)
    return {"captured": amount} if taken else {"refunded": -amount}


async def _balances(session: AsyncSession, order_id: str | None) -> tuple[BalanceView, ...]:
    amount = col(LedgerEntryRow.amount_minor)
    query = (
        select(
            col(LedgerAccountRow.code),
            col(LedgerAccountRow.name),
            col(LedgerAccountRow.side),
            col(LedgerEntryRow.currency),
            func.coalesce(func.sum(amount).filter(amount > 0), 0),
            func.coalesce(func.sum(amount).filter(amount < 0), 0),
        )
        .join(LedgerEntryRow, col(LedgerEntryRow.account) == col(LedgerAccountRow.code))
        .group_by(col(LedgerAccountRow.code), col(LedgerEntryRow.currency))
    )
    if order_id is not None:
        query = query.join(
            LedgerTransactionRow, col(LedgerTransactionRow.id) == col(LedgerEntryRow.transaction_id)
        ).where(col(LedgerTransactionRow.order_id).in_((order_id,)))
    found = [
        BalanceView(
            account=code,
            name=name,
            side=UsualSide(side),
            debits=Money(minor=int(debit), currency=currency),
            credits=Money(minor=-int(credit), currency=currency),
            balance=Money(minor=int(debit + credit), currency=currency),
        )
        for code, name, side, currency, debit, credit in await session.execute(query)
    ]
    return tuple(sorted(found, key=lambda one: (one.balance.currency, _PLACE.get(one.account, len(_PLACE)))))


_PLACE = {code: place for place, code in enumerate(NAMES)}


def _transaction(row: LedgerTransactionRow, entries: Sequence[LedgerEntryRow]) -> TransactionView:
    return TransactionView(
        **row.model_dump(exclude={"order_id", "position", "written_in"}),
        entries=tuple(
            EntryView(
                account=entry.account,
                name=NAMES.get(entry.account, entry.account),
                amount=Money(minor=entry.amount_minor, currency=entry.currency),
                tender=entry.tender,
                instrument=entry.instrument,
            )
            for entry in entries
        ),
    )


def _refusal(error: IntegrityError) -> Exception:
    said = getattr(error.orig, "diag", None)
    if said is None or said.constraint_name not in _WHAT_TO_DO:
        return error
    return LedgerRefused(f"{said.message_primary}: {_WHAT_TO_DO[said.constraint_name]}")
