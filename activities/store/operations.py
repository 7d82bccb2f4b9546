"""The record of what we ask of neighbours: the intention is committed first, the answer afterwards.

So after any crash it is known which effects may have happened, and each is looked up by its key instead of repeated.
"""

from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.errors import Refused
from models.tables.operations import OperationState, PaymentOperationRow, ShippingOperationRow

Row = TypeVar("Row", PaymentOperationRow, ShippingOperationRow)

ANSWERED = frozenset({OperationState.CONFIRMED, OperationState.DECLINED})


async def intend(session: AsyncSession, operation: Row) -> tuple[Row, bool]:
    """Record that ``operation`` is about to be done. Answers its row, locked, and whether it was intended before.

    Raises ``Refused`` when it would move money beyond what was authorised or captured.
    """
    known = await find(session, type(operation), operation.key)
    if known is None and await _insert(session, operation):
        return operation, False
    row = known or await find(session, type(operation), operation.key)
    assert row is not None  # noqa: S101 - the insert has just met it
    if row.state == OperationState.REFUSED:
        # Somebody decided to try again what the neighbour took for a wrong request: nothing has happened yet.
        row.state = OperationState.INTENDED
        await _flush(session)
        return row, False
    return row, True


async def find(session: AsyncSession, table: type[Row], key: str) -> Row | None:
    """The operation under ``key``, locked until the transaction ends, or None."""
    return await session.scalar(select(table).where(col(table.key) == key).with_for_update())


async def answer(
    session: AsyncSession,
    operation: Row,
    *,
    state: OperationState,
    content: dict[str, Any] | None,
    provider_ref: str | None = None,
) -> Row:
    """Record the neighbour's answer, unless one stands already or the operation was called off meanwhile.

    Answers the row as it stands then.
    """
    row = await find(session, type(operation), operation.key)
    if row is None:
        raise Refused(f"operation {operation.key} was never intended")
    if row.state in (OperationState.INTENDED, OperationState.REFUSED):
        row.state = state
        row.answer = content
        row.provider_ref = provider_ref
        row.answered_at = datetime.now(UTC)
        await session.flush()
    return row


async def call_off(session: AsyncSession, operation: Row) -> Row:
    """See to it that ``operation`` is never done, or note that it was undone. Answers its row, locked.

    An operation that nobody asked for yet is written down as called off, so that a late request for it is refused.
    """
    operation.state = OperationState.CALLED_OFF
    row = await find(session, type(operation), operation.key)
    if row is None and await _insert(session, operation):
        return operation
    row = row or await find(session, type(operation), operation.key)
    assert row is not None  # noqa: S101 - the insert has just met it
    row.state = OperationState.CALLED_OFF
    await session.flush()
    return row


async def _insert(session: AsyncSession, operation: Row) -> bool:
    table = type(operation)
    statement = (
        insert(table)
        .values(**operation.model_dump())
        .on_conflict_do_nothing(index_elements=["key"])
        .returning(col(table.key))
    )
    try:
        return await session.scalar(statement) is not None
    except IntegrityError as error:
        raise _out_of_bounds(error) from None


async def _flush(session: AsyncSession) -> None:
    try:
        await session.flush()
    except IntegrityError as error:
        raise _out_of_bounds(error) from None


def _out_of_bounds(error: IntegrityError) -> Exception:
    said = getattr(error.orig, "diag", None)
    if said is not None and said.constraint_name == "money_within_bounds":
        return Refused(str(said.message_primary))
    return error
