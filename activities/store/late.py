"""Messages from neighbours that found no running workflow."""

from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.base import Contract
from models.tables.journal import LateEventRow
from models.webhooks import EVENT_OF, WebhookKind, event_key


async def keep_late_event(
    session: AsyncSession,
    *,
    workflow_id: str,
    order_id: str,
    event_id: str,
    kind: WebhookKind,
    event: Contract,
) -> None:
    """Keep ``event`` for whoever looks into it later. Keeping the same one twice changes nothing."""
    # From before the key had the kind in it; see activities.store.receipts.
    before = await session.get(LateEventRow, {"event_id": event_id, "workflow_id": workflow_id})
    if before is not None and before.kind == kind:
        return
    await session.execute(
        insert(LateEventRow)
        .values(
            workflow_id=workflow_id,
            order_id=order_id,
            event_id=event_key(kind, event_id),
            kind=kind,
            event=event.model_dump(mode="json"),
            received_at=datetime.now(UTC),
        )
        .on_conflict_do_nothing(index_elements=["event_id", "workflow_id"])
    )


async def late_events_for(session: AsyncSession, workflow_id: str) -> list[tuple[WebhookKind, Contract]]:
    """What came for a run while it was away, in the order in which it happened."""
    rows = await session.scalars(select(LateEventRow).where(col(LateEventRow.workflow_id) == workflow_id))
    found = [
        (WebhookKind(row.kind), EVENT_OF[WebhookKind(row.kind)].model_validate(row.event)) for row in rows
    ]
    return [(kind, event) for kind, event in sorted(found, key=lambda one: one[1].occurred_at)]
