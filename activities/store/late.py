"""Messages from neighbours that found no running workflow."""

from datetime import UTC, datetime

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from models.base import Contract
from models.tables.journal import LateEventRow


async def keep_late_event(
    session: AsyncSession, *, workflow_id: str, order_id: str, event_id: str, kind: str, event: Contract
) -> None:
    """Keep ``event`` for whoever looks into it later. Keeping the same one twice changes nothing."""
    await session.execute(
        insert(LateEventRow)
        .values(
            workflow_id=workflow_id,
            order_id=order_id,
            event_id=event_id,
            kind=kind,
            event=event.model_dump(mode="json"),
            received_at=datetime.now(UTC),
        )
        .on_conflict_do_nothing(index_elements=["event_id", "workflow_id"])
    )
