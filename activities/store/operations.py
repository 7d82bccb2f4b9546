"""The record of what we ask of neighbours: the intention is committed first, the answer afterwards.

So after any crash it is known which effects may have happened, and each is looked up by its key instead of repeated.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store import ledger
from models.base import Contract
from models.errors import BeyondAuthorised, CurrencyMismatch, RefundAboveCaptured, Refused
from models.money import Money
from models.operations import OperationState, PaymentKind, ShippingKind
from models.order import TenderKind
from models.states import ORDER_TERMINAL
from models.tables.operations import PaymentOperationRow, ShippingOperationRow
from models.tables.orders import OrderRow

_BEGINNINGS = frozenset({PaymentKind.AUTHORISE, ShippingKind.PICK, ShippingKind.LABEL})
ANSWERED = frozenset({OperationState.CONFIRMED, OperationState.DECLINED})


class PaymentOperation(Contract):
    """A movement of money. ``parent`` is the provider's reference of what it draws on.

    ``split``: what a capture is for, by ``policies.money.Parts``; None where nobody knows better than the order.
    """

    key: str
    order_id: str
    kind: PaymentKind
    amount: Money
    shipment_id: str | None = None
    parent: str | None = None
    cause: str | None = None
    split: dict[str, int] | None = None
    tender: TenderKind = TenderKind.CARD
    instrument: str | None = None


class ShippingOperation(Contract):
    """A pick or a label, or the calling off of the one whose key is ``parent``."""

    key: str
    order_id: str
    shipment_id: str
    kind: ShippingKind
    parent: str | None = None


Operation = PaymentOperation | ShippingOperation


class Standing(Contract):
    """Where an operation stands, and what the neighbour answered. ``amount`` is None where no money moves."""

    key: str
    state: OperationState
    answer: dict[str, Any] | None = None
    provider_ref: str | None = None
    amount: Money | None = None
    tender: TenderKind = TenderKind.CARD
    shipment_id: str | None = None
    split: dict[str, int] | None = None


async def intend(session: AsyncSession, operation: Operation) -> tuple[Standing, bool]:
    """Record that ``operation`` is about to be done, and lock it. Answers its standing, and whether it was known.

    Raises ``Refused`` when it would move money beyond what was authorised or captured, or begin something new for an
    order that has ended.
    """
    await _lock_order(session, operation)
    row = await _find(session, operation)
    if row is None:
        if operation.kind in _BEGINNINGS:
            await refuse_if_ended(session, operation.order_id)
        await _refuse_other_currency(session, operation)
        if await _insert(session, operation, OperationState.INTENDED):
            return Standing(key=operation.key, state=OperationState.INTENDED), False
        row = await _find(session, operation)
        assert row is not None  # noqa: S101 - the insert has just met it
    if row.state == OperationState.REFUSED:
        # Somebody decided to try again what the neighbour refused. A try before that one may have been taken.
        row.state = OperationState.INTENDED
        await _within_bounds(session)
    return _standing(row), True


async def _refuse_other_currency(session: AsyncSession, operation: Operation) -> None:
    if operation.kind not in (PaymentKind.CAPTURE, PaymentKind.REFUND) or not isinstance(
        operation, PaymentOperation
    ):
        return
    of = PaymentKind.AUTHORISE if operation.kind is PaymentKind.CAPTURE else PaymentKind.CAPTURE
    currency = await session.scalar(
        select(col(PaymentOperationRow.currency)).where(
            col(PaymentOperationRow.kind) == of, col(PaymentOperationRow.provider_ref) == operation.parent
        )
    )
    if currency is not None and currency != operation.amount.currency:
        raise CurrencyMismatch(
            f"a {operation.kind} of {operation.amount} cannot draw on {currency}: say the amount in {currency}"
        )


async def refuse_if_ended(session: AsyncSession, order_id: str) -> None:
    """Raise ``Refused`` for an order that has ended, e.g. by hand while its run was about to go on."""
    state = await session.scalar(select(col(OrderRow.state)).where(col(OrderRow.order_id) == order_id))
    if state in ORDER_TERMINAL:
        raise Refused(f"order {order_id} is {state}: nothing new is begun for it")


async def payment(session: AsyncSession, order_id: str, key: str) -> Standing | None:
    """The movement of an order's money under ``key``, locked with the order until the transaction ends, or None."""
    await lock_order(session, order_id)
    row = await session.get(PaymentOperationRow, key, with_for_update=True, populate_existing=True)
    return None if row is None else _standing(row)


async def was_intended(session: AsyncSession, operation: Operation) -> bool:
    """Whether ``operation`` was about to be done before, and may have been."""
    return await _find(session, operation) is not None


async def answer(
    session: AsyncSession,
    operation: Operation,
    *,
    state: OperationState,
    content: dict[str, Any] | None,
    provider_ref: str | None = None,
    amount_minor: int | None = None,
) -> tuple[Standing, bool]:
    """Record the neighbour's answer, unless one stands already or the operation was called off meanwhile.

    ``amount_minor``: how much it was, where only the answer tells. Answers the standing, and whether it is our doing.
    A movement of money that is confirmed here is posted to the ledger by the same statement (a trigger), so that it is
    either both or neither, whatever dies in between.
    """
    await _lock_order(session, operation)
    row = await _find(session, operation)
    if row is None:
        raise Refused(f"operation {operation.key} was never intended")
    if row.state not in (OperationState.INTENDED, OperationState.REFUSED):
        return _standing(row), False
    row.state = state
    row.answer = content
    row.provider_ref = provider_ref
    row.answered_at = datetime.now(UTC)
    if amount_minor is not None and isinstance(row, PaymentOperationRow):
        row.amount_minor = amount_minor
    await session.flush()
    return _standing(row), True


async def call_off(session: AsyncSession, operation: Operation, *, provider_ref: str | None = None) -> None:
    """See to it that ``operation`` is never done, or note that it was undone.

    One that nobody asked for yet is written down as called off, so that a late request for it is refused.
    ``provider_ref``: what is known to have been made under it, also when its own answer never came. What the ledger
    still had as held under an authorisation is held no more.
    """
    await _lock_order(session, operation)
    row = await _find(session, operation)
    if row is None:
        if await _insert(session, operation, OperationState.CALLED_OFF):
            return
        row = await _find(session, operation)
        assert row is not None  # noqa: S101 - the insert has just met it
    row.state = OperationState.CALLED_OFF
    row.provider_ref = row.provider_ref or provider_ref
    await session.flush()


async def hold_expired(session: AsyncSession, order_id: str, authorisation_id: str) -> None:
    """Note that the provider holds nothing any more under its ``authorisation_id``: the time for it has run out."""
    held = await session.scalar(
        select(PaymentOperationRow)
        .where(
            col(PaymentOperationRow.kind) == PaymentKind.AUTHORISE,
            col(PaymentOperationRow.provider_ref) == authorisation_id,
            col(PaymentOperationRow.order_id) == order_id,
        )
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    if held is not None:
        held.state = OperationState.CALLED_OFF
        await session.flush()


async def captures(session: AsyncSession, order_id: str) -> tuple[Standing, ...]:
    """An order's captures that took money or are about to, in the order of their keys."""
    rows = await session.scalars(
        select(PaymentOperationRow)
        .where(
            col(PaymentOperationRow.order_id) == order_id,
            col(PaymentOperationRow.kind) == PaymentKind.CAPTURE,
            col(PaymentOperationRow.state).in_((OperationState.INTENDED, OperationState.CONFIRMED)),
        )
        .order_by(col(PaymentOperationRow.key))
        .execution_options(populate_existing=True)
    )
    return tuple(_standing(row) for row in rows)


async def holds_on(session: AsyncSession, order_id: str, instrument: str) -> tuple[Standing, ...]:
    """An order's holds on one tender of ours, the oldest first."""
    rows = await session.scalars(
        select(PaymentOperationRow)
        .where(
            col(PaymentOperationRow.order_id) == order_id,
            col(PaymentOperationRow.kind) == PaymentKind.AUTHORISE,
            col(PaymentOperationRow.state) == OperationState.CONFIRMED,
            col(PaymentOperationRow.instrument) == instrument,
        )
        .order_by(col(PaymentOperationRow.answered_at), col(PaymentOperationRow.key))
        .execution_options(populate_existing=True)
    )
    return tuple(_standing(row) for row in rows)


async def left_of_hold(session: AsyncSession, order_id: str, hold: Standing) -> int:
    """How much of an authorisation is still held and no capture is about to take, in minor units."""
    if hold.amount is None:
        return 0
    held = await ledger.held_under(session, order_id, hold.key, hold.amount.currency)
    return held - await _asked_of(session, order_id, hold, PaymentKind.CAPTURE, OperationState.INTENDED)


async def left_of_capture(session: AsyncSession, order_id: str, taken: Standing) -> int:
    """How much of a capture was not paid back, nor is about to be, in minor units."""
    minor = 0 if taken.amount is None else taken.amount.minor
    return minor - await _asked_of(
        session, order_id, taken, PaymentKind.REFUND, OperationState.INTENDED, OperationState.CONFIRMED
    )


async def _asked_of(
    session: AsyncSession, order_id: str, standing: Standing, kind: PaymentKind, *states: OperationState
) -> int:
    asked = await session.scalar(
        select(func.coalesce(func.sum(col(PaymentOperationRow.amount_minor)), 0)).where(
            col(PaymentOperationRow.order_id) == order_id,
            col(PaymentOperationRow.kind) == kind,
            col(PaymentOperationRow.parent) == standing.provider_ref,
            col(PaymentOperationRow.state).in_(states),
        )
    )
    return int(asked or 0)


async def lock_order(session: AsyncSession, order_id: str) -> None:
    """Hold the order's row until the transaction ends: before any other of its rows, as everybody does."""
    await session.execute(
        select(col(OrderRow.order_id))
        .where(col(OrderRow.order_id) == order_id)
        .with_for_update(key_share=True)
    )


async def _lock_order(session: AsyncSession, operation: Operation) -> None:
    # The triggers on money take this lock too. Taken first, it is never waited for with a row of the order in hand.
    if isinstance(operation, PaymentOperation):
        await lock_order(session, operation.order_id)


async def _find(
    session: AsyncSession, operation: Operation
) -> PaymentOperationRow | ShippingOperationRow | None:
    if isinstance(operation, PaymentOperation):
        return await session.get(
            PaymentOperationRow, operation.key, with_for_update=True, populate_existing=True
        )
    return await session.get(
        ShippingOperationRow, operation.key, with_for_update=True, populate_existing=True
    )


async def _insert(session: AsyncSession, operation: Operation, state: OperationState) -> bool:
    values = operation.model_dump(exclude={"amount"})
    values |= {"state": state, "intended_at": datetime.now(UTC)}
    table: type[PaymentOperationRow] | type[ShippingOperationRow] = ShippingOperationRow
    if isinstance(operation, PaymentOperation):
        table = PaymentOperationRow
        values |= {"amount_minor": operation.amount.minor, "currency": operation.amount.currency}
    statement = insert(table).values(**values).on_conflict_do_nothing(index_elements=["key"])
    try:
        return await session.scalar(statement.returning(col(table.key))) is not None
    except IntegrityError as error:
        raise _out_of_bounds(error) from None


async def _within_bounds(session: AsyncSession) -> None:
    try:
        await session.flush()
    except IntegrityError as error:
        raise _out_of_bounds(error) from None


def _out_of_bounds(error: IntegrityError) -> Exception:
    said = getattr(error.orig, "diag", None)
    if said is None or said.constraint_name != "money_within_bounds":
        return error
    sentence = str(said.message_primary)
    if sentence.startswith(f"a {PaymentKind.REFUND} "):
        return RefundAboveCaptured(
            f"{sentence}. Pay back no more than the rest of what was captured; give anything beyond as store credit"
        )
    return BeyondAuthorised(
        f"{sentence}. Take no more than the rest of the hold, or have the difference authorised first"
    )


def _standing(row: PaymentOperationRow | ShippingOperationRow) -> Standing:
    amount, tender, split = None, TenderKind.CARD, None
    if isinstance(row, PaymentOperationRow):
        amount = Money(minor=row.amount_minor, currency=row.currency)
        tender, split = TenderKind(row.tender), row.split
    return Standing(
        key=row.key,
        state=OperationState(row.state),
        answer=row.answer,
        provider_ref=row.provider_ref,
        amount=amount,
        tender=tender,
        shipment_id=row.shipment_id,
        split=split,
    )
