"""Receipts of neighbours' webhooks: what was answered for once has no effect a second time, in whichever process.

An event is known by the run that it concerns, its kind and its own id: warehouse and carrier both tell of a shipment,
and each numbers for itself. The kind stands before the id in one column (``event_key``), not in one of its own: the
version before names the key's two columns when it writes, and has to work on this database too.

Receipts outlive every time in which a neighbour repeats an event by itself; after that its old signature has long
expired, and the run still knows its last events.
"""

from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.base import Contract
from models.tables.journal import WebhookReceiptRow
from models.webhooks import WebhookEnvelope, WebhookResult, event_key


class Receipt(Contract):
    """What an event said (``fingerprint``) and what became of it."""

    fingerprint: str
    result: WebhookResult


async def receipt_of(session: AsyncSession, workflow_id: str, envelope: WebhookEnvelope) -> Receipt | None:
    """The receipt of this event, or of another one of its kind under its id; None if there is none yet."""
    key = event_key(envelope.kind, envelope.event_id)
    row = await session.get(WebhookReceiptRow, {"workflow_id": workflow_id, "event_id": key})
    if row is None:
        # From before kinds were told apart: the very same event, or perhaps another neighbour's.
        before = {"workflow_id": workflow_id, "event_id": envelope.event_id}
        row = await session.get(WebhookReceiptRow, before)
        if row is not None and row.fingerprint != envelope.fingerprint:
            row = None
    return None if row is None else Receipt(fingerprint=row.fingerprint, result=WebhookResult(row.result))


async def keep_receipt(
    session: AsyncSession, workflow_id: str, envelope: WebhookEnvelope, result: WebhookResult
) -> None:
    """Keep what became of an event. One that was late may be delivered later on, and never the other way round."""
    await session.execute(
        insert(WebhookReceiptRow)
        .values(
            workflow_id=workflow_id,
            event_id=event_key(envelope.kind, envelope.event_id),
            fingerprint=envelope.fingerprint,
            result=result,
            received_at=datetime.now(UTC),
        )
        .on_conflict_do_update(
            index_elements=["workflow_id", "event_id"],
            set_={"result": result},
            where=(col(WebhookReceiptRow.result) == WebhookResult.LATE)
            & (col(WebhookReceiptRow.fingerprint) == envelope.fingerprint),
        )
    )


async def forget_receipts(session: AsyncSession, older_than: timedelta, limit: int) -> int:
    """Delete at most ``limit`` receipts older than ``older_than``; returns how many there were."""
    old = (
        select(col(WebhookReceiptRow.workflow_id), col(WebhookReceiptRow.event_id))
        .where(col(WebhookReceiptRow.received_at) < datetime.now(UTC) - older_than)
        .limit(limit)
        # Every API process tidies up: what one is deleting, the others leave alone.
        .with_for_update(skip_locked=True)
    )
    gone = await session.execute(
        delete(WebhookReceiptRow).where(_key.in_(old)).returning(col(WebhookReceiptRow.event_id))
    )
    return len(gone.all())


_key = tuple_(col(WebhookReceiptRow.workflow_id), col(WebhookReceiptRow.event_id))
