"""Which messages were sent; never to which address."""

from datetime import UTC, datetime

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.effects import Notified, Notify
from models.tables.journal import NotificationRow, NotificationState


async def intend_message(session: AsyncSession, message: Notify) -> Notified | None:
    """Write down that ``message`` is to be sent. Answers what was answered when it has been sent already."""
    await session.execute(
        insert(NotificationRow)
        .values(
            key=message.key,
            order_id=message.order_id,
            audience=message.audience,
            template=message.template,
            state=NotificationState.PENDING,
            created_at=datetime.now(UTC),
        )
        .on_conflict_do_nothing(index_elements=["key"])
    )
    row = await session.get(NotificationRow, message.key)
    if row is None or row.state != NotificationState.SENT:
        return None
    return Notified(sent=True, message_id=row.message_id)


async def message_sent(session: AsyncSession, key: str, message_id: str) -> None:
    """The gateway took the message over."""
    await _move(session, key, NotificationState.SENT, message_id, datetime.now(UTC))


async def nobody_to_tell(session: AsyncSession, key: str) -> None:
    """There is no address for the message."""
    await _move(session, key, NotificationState.NO_ADDRESS, None, None)


async def _move(
    session: AsyncSession,
    key: str,
    state: NotificationState,
    message_id: str | None,
    sent_at: datetime | None,
) -> None:
    await session.execute(
        update(NotificationRow)
        .where(col(NotificationRow.key) == key)
        .values(state=state, message_id=message_id, sent_at=sent_at)
    )
