"""Customers' accounts, gift cards and store credit: opened and filled here, spent by orders."""

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime

from pydantic import AwareDatetime
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store import ledger
from activities.store.ledger import NewEntry, NewTransaction
from models.base import Contract
from models.errors import Conflict, CurrencyMismatch, LedgerRefused, NotFound, Refused
from models.journal import SYSTEM
from models.ledger import GIFT_CARDS, GOODWILL, HELD, ON_ACCOUNT, STORE_CREDIT, TransactionKind
from models.money import Money
from models.order import TenderKind
from models.tables.accounts import CustomerAccountRow, InstrumentChangeRow, StoredValueRow
from models.tables.ledger import LedgerEntryRow, LedgerTransactionRow

_LIABILITIES = {TenderKind.GIFT_CARD: GIFT_CARDS, TenderKind.STORE_CREDIT: STORE_CREDIT}
_PAID_FROM = {TenderKind.GIFT_CARD: "bank", TenderKind.STORE_CREDIT: GOODWILL}


def instrument_of(kind: TenderKind, token: str) -> str:
    """How the ledger names a tender of ours. A code can be spent by whoever knows it, so only its digest is kept."""
    if kind is TenderKind.ON_ACCOUNT:
        return f"account:{token}"
    return f"{kind.value}:{hashlib.sha256(token.encode()).hexdigest()[:32]}"


class InstrumentChange(Contract):
    """What an account's limit became, or that it was blocked or opened again; by whom, and why."""

    at: AwareDatetime
    actor: str
    reason: str | None = None
    request_id: str | None = None
    active: bool
    limit: Money


class AccountView(Contract):
    """What a customer may owe, owes and can still spend; ``changes`` are the newest, newest first.

    ``held``: for orders that were accepted, and not sent yet. An account that is not ``active`` is blocked.
    """

    account: str
    active: bool
    limit: Money
    owed: Money
    held: Money
    left: Money
    changes: tuple[InstrumentChange, ...]


_SHOWN_CHANGES = 100


async def open_account(
    session: AsyncSession,
    account: str,
    limit: Money,
    *,
    actor: str = SYSTEM,
    reason: str | None = None,
    request_id: str | None = None,
) -> str:
    """Let ``account`` owe up to ``limit``, or change its limit; answers its instrument.

    A limit below what is owed stops the next order and nothing that was accepted. Once per ``request_id``, if there is
    one. Raises ``CurrencyMismatch`` when the account has another currency, and ``Conflict`` for a request id under
    which something else was asked.
    """
    instrument = instrument_of(TenderKind.ON_ACCOUNT, account)
    await _row(session, TenderKind.ON_ACCOUNT, account)
    if request_id is not None:
        known = await session.scalar(
            select(InstrumentChangeRow).where(
                col(InstrumentChangeRow.instrument) == instrument,
                col(InstrumentChangeRow.request_id) == request_id,
            )
        )
        if known is not None:
            if (known.credit_limit_minor, known.currency) != (limit.minor, limit.currency):
                raise Conflict(f"request {request_id} has set another limit: a request id is used once")
            return instrument
    await _say(session, actor, reason, request_id)
    statement = insert(CustomerAccountRow).values(
        instrument=instrument,
        currency=limit.currency,
        credit_limit_minor=limit.minor,
        active=True,
        created_at=datetime.now(UTC),
    )
    kept = await session.scalar(
        statement.on_conflict_do_update(
            index_elements=["instrument"],
            set_={"credit_limit_minor": limit.minor},
            where=col(CustomerAccountRow.currency) == limit.currency,
        ).returning(col(CustomerAccountRow.instrument))
    )
    if kept is None:
        raise CurrencyMismatch(
            f"account {account} is in another currency than {limit.currency}: open another one"
        )
    return instrument


async def set_active(
    session: AsyncSession,
    kind: TenderKind,
    token: str,
    *,
    active: bool,
    actor: str,
    reason: str | None = None,
) -> None:
    """Block an account, a gift card or a store credit, or let it be used again. Raises ``NotFound``.

    A blocked one holds nothing for new orders. What it holds for orders that were accepted is taken, and paid back.
    """
    row = await _row(session, kind, token)
    if row is None:
        raise NotFound(f"there is no such {kind.value.replace('_', ' ')}")
    if row.active != active:
        await _say(session, actor, reason, None)
        row.active = active
        await session.flush()


async def account_of(session: AsyncSession, account: str) -> AccountView:
    """A customer's account with what became of it. Raises ``NotFound``."""
    instrument = instrument_of(TenderKind.ON_ACCOUNT, account)
    row = await session.get(CustomerAccountRow, instrument)
    if row is None:
        raise NotFound(f"there is no account {account}")
    sums = {
        name: int(minor)
        for name, minor in await session.execute(
            select(col(LedgerEntryRow.account), func.sum(col(LedgerEntryRow.amount_minor)))
            .where(col(LedgerEntryRow.instrument).in_((instrument,)))
            .group_by(col(LedgerEntryRow.account))
        )
    }
    changes = await session.scalars(
        select(InstrumentChangeRow)
        .where(col(InstrumentChangeRow.instrument) == instrument)
        .order_by(col(InstrumentChangeRow.change_id).desc())
        .limit(_SHOWN_CHANGES)
    )

    def money(minor: int) -> Money:
        return Money(minor=minor, currency=row.currency)

    return AccountView(
        account=account,
        active=row.active,
        limit=money(row.credit_limit_minor),
        owed=money(sums.get(ON_ACCOUNT, 0)),
        held=money(sums.get(HELD, 0)),
        left=money(row.credit_limit_minor - sum(sums.values())),
        changes=tuple(
            InstrumentChange(
                **change.model_dump(include={"at", "actor", "reason", "request_id", "active"}),
                limit=money(change.credit_limit_minor or 0),
            )
            for change in changes
        ),
    )


async def _say(session: AsyncSession, actor: str, reason: str | None, request_id: str | None) -> None:
    """Who changes an account or a card next, for the trigger that writes it down."""
    said = json.dumps({"actor": actor, "reason": reason, "request_id": request_id})
    await session.execute(select(func.set_config("orderwright.instrument", said, True)))


async def issue(
    session: AsyncSession, kind: TenderKind, code: str, amount: Money, *, key: str, source: str = "issue"
) -> str:
    """Put ``amount`` on a gift card (it was paid for) or on a store credit (as goodwill), once per ``key``.

    Answers its instrument. Raises ``CurrencyMismatch`` when it has another currency, ``Refused`` for no amount, and
    ``Conflict`` for a key under which something else was written.
    """
    if amount.minor <= 0:
        raise Refused(f"{amount} cannot be put on a {kind.value.replace('_', ' ')}: say an amount above zero")
    instrument = instrument_of(kind, code)
    await _say(session, source, None, None)
    await session.execute(
        insert(StoredValueRow)
        .values(
            instrument=instrument,
            kind=kind,
            currency=amount.currency,
            active=True,
            created_at=datetime.now(UTC),
        )
        .on_conflict_do_nothing(index_elements=["instrument"])
    )
    row = await session.get(StoredValueRow, instrument, populate_existing=True)
    if row is None or row.currency != amount.currency:
        raise CurrencyMismatch(
            f"this {kind.value.replace('_', ' ')} is in another currency than {amount.currency}"
        )
    entries = (
        NewEntry(account=_PAID_FROM[kind], amount=amount),
        NewEntry(account=_LIABILITIES[kind], amount=-amount, instrument=instrument),
    )
    transaction = NewTransaction(
        id=key, kind=TransactionKind.ISSUE, source=source, at=datetime.now(UTC), entries=entries
    )
    await ledger.post_once(session, transaction)
    return instrument


async def paid(
    session: AsyncSession,
    account: str,
    amount: Money,
    *,
    key: str,
    source: str = "payment",
    in_advance: bool = False,
) -> None:
    """Write down, once per ``key``, that ``account`` paid ``amount`` of what it owes into the bank.

    Raises ``LedgerRefused`` for an account that is not known in this currency, and for more than it owes unless it
    pays ``in_advance``; and ``Conflict`` as ``issue`` does.
    """
    instrument = instrument_of(TenderKind.ON_ACCOUNT, account)
    # Locked until the end: two payments at once of what is owed once are one too many.
    row = await _row(session, TenderKind.ON_ACCOUNT, account)
    known = await session.get(LedgerTransactionRow, key)
    if row is not None and row.currency == amount.currency and known is None and not in_advance:
        owed = await _owed(session, instrument, amount.currency)
        if amount.minor > owed.minor:
            raise LedgerRefused(
                f"account {account} owes {owed}, and {amount} is more: see whether the amount and the account are "
                "right, or say that it is paid in advance"
            )
    entries = (
        NewEntry(account="bank", amount=amount),
        NewEntry(account=ON_ACCOUNT, amount=-amount, instrument=instrument),
    )
    transaction = NewTransaction(
        id=key, kind=TransactionKind.PAYMENT, source=source, at=datetime.now(UTC), entries=entries
    )
    await ledger.post_once(session, transaction)


async def _owed(session: AsyncSession, instrument: str, currency: str) -> Money:
    """What an account owes for goods that were sent. What is only held for an order is not owed yet."""
    owed = await session.scalar(
        select(func.coalesce(func.sum(col(LedgerEntryRow.amount_minor)), 0)).where(
            col(LedgerEntryRow.instrument).in_((instrument,)), col(LedgerEntryRow.account) == ON_ACCOUNT
        )
    )
    return Money(minor=max(0, int(owed or 0)), currency=currency)


async def left(session: AsyncSession, kind: TenderKind, token: str) -> Money:
    """How much more can be spent of a tender of ours: neither used nor held for an order. Raises ``NotFound``."""
    found = await _row(session, kind, token)
    if found is None:
        raise NotFound(f"there is no such {kind.value.replace('_', ' ')}")
    return Money(minor=await _left(session, found), currency=found.currency)


async def lock(session: AsyncSession, tenders: Iterable[tuple[TenderKind, str]]) -> None:
    """Have these tenders of ours alone until the end, locked in one order for everybody: nobody waits in a circle."""
    for kind, token in sorted(tenders, key=lambda one: instrument_of(*one)):
        await _row(session, kind, token)


async def beyond(session: AsyncSession, kind: TenderKind, token: str, amount: Money) -> int:
    """How many minor units of ``amount`` are more than can be spent of a tender of ours. It must be known."""
    row = await _row(session, kind, token)
    return max(0, amount.minor - (await _left(session, row) if row is not None else 0))


async def why_not(
    session: AsyncSession, kind: TenderKind, token: str, amount: Money, *, superseded: int = 0
) -> str | None:
    """Why ``amount`` cannot be held on a tender of ours, as a decline code, or None. It is locked until the end.

    ``superseded``: what earlier holds of the same order have on it and will give up for this one.
    """
    row = await _row(session, kind, token)
    if row is None:
        return "unknown_tender"
    if row.currency != amount.currency:
        return "currency_mismatch"
    if not row.active:
        return "tender_inactive"
    if amount.minor > await _left(session, row) + superseded:
        return "over_credit_limit" if kind is TenderKind.ON_ACCOUNT else "not_enough_value"
    return None


async def _row(
    session: AsyncSession, kind: TenderKind, token: str
) -> CustomerAccountRow | StoredValueRow | None:
    table = CustomerAccountRow if kind is TenderKind.ON_ACCOUNT else StoredValueRow
    found: CustomerAccountRow | StoredValueRow | None = await session.get(
        table, instrument_of(kind, token), with_for_update={"key_share": True}, populate_existing=True
    )
    return found


async def _left(session: AsyncSession, row: CustomerAccountRow | StoredValueRow) -> int:
    used = await session.scalar(
        select(func.coalesce(func.sum(col(LedgerEntryRow.amount_minor)), 0)).where(
            col(LedgerEntryRow.instrument).in_((row.instrument,))
        )
    )
    limit = row.credit_limit_minor if isinstance(row, CustomerAccountRow) else 0
    return limit - int(used or 0)
