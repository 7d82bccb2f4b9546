"""Which messages were sent; never to which address."""

from datetime import UTC, datetime

from pydantic import AwareDatetime
from sqlalchemy import func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.base import Contract
from models.effects import Notified, Notify
from models.tables.journal import NotificationRow, NotificationState


class Intended(Contract):
    """A message that is to be sent, since when, and the answer when it has been sent already.

    ``pay_link_version`` and ``since`` are the same on every try, so that a pay link made of them is, too.
    """

    since: AwareDatetime
    pay_link_version: int | None = None
    answer: Notified | None = None


async def intend_message(
    session: AsyncSession, message: Notify, *, pay_link_version: int | None = None
) -> Intended:
    """Write down that ``message`` is to be sent; ``pay_link_version`` counts when it is first given."""
    written = insert(NotificationRow).values(
        key=message.key,
        order_id=message.order_id,
        audience=message.audience,
        template=message.template,
        state=NotificationState.PENDING,
        pay_link_version=pay_link_version,
        created_at=datetime.now(UTC),
    )
    row = (
        await session.scalars(
            written.on_conflict_do_update(
                index_elements=["key"],
                set_={
                    "pay_link_version": func.coalesce(
                        col(NotificationRow.pay_link_version), written.excluded.pay_link_version
                    )
                },
            ).returning(NotificationRow),
            execution_options={"populate_existing": True},
        )
    ).one()
    sent = row.state == NotificationState.SENT
    return Intended(
        since=row.created_at,
        pay_link_version=row.pay_link_version,
        answer=Notified(sent=True, message_id=row.message_id) if sent else None,
    )


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
