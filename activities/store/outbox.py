"""The outbox: what triggers wrote with each change, put into one order that no reader can miss anything of.

Positions that transactions gave by themselves would not do. The one with the lower number may commit later, and a
reader that has passed it would never see it; going by transaction ids instead, two changes of one row could come in the
wrong order. So events are staged first, and what is committed is moved into the feed by one transaction at a time: it
gives the positions, and they become visible in their order. Of one key the order is that of staging, for whoever stages
holds the lock on the row that changed.
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from models.outbox import OutboxEvent, Topic
from models.tables.outbox import OutboxRow, OutboxStreamRow

# Where whoever waits for events listens; migration 0014_outbox notifies.
CHANNEL = "orderwright_outbox"
# Any number of our own; whoever holds it gives positions. (Triggers take turns at waking with another.)
_SEQUENCING = 0x0DE12319

# What was true only within a transaction is told to nobody: of each stock row its last state counts.
_MOVE = text(
    """
    WITH taken AS (
        DELETE FROM outbox_staged WHERE id IN (SELECT id FROM outbox_staged ORDER BY id LIMIT :most) RETURNING *
    ), numbered AS (
        SELECT *, row_number() OVER (PARTITION BY transaction_id, topic, key ORDER BY id DESC) AS from_last FROM taken
    ), moved AS (
        INSERT INTO outbox (event_id, topic, key, type, payload, created_at, transaction_id)
        SELECT coalesce(event_id, topic || ':' || id || ':' || (extract(epoch FROM created_at) * 1000000)::bigint),
               topic, key, type, payload, created_at, transaction_id
          FROM numbered WHERE topic <> 'availability' OR from_last = 1 ORDER BY id
        ON CONFLICT (event_id) DO NOTHING
    )
    SELECT count(*) FROM taken
    """
)


async def sequence(session: AsyncSession, most: int = 1_000) -> int:
    """Move at most ``most`` staged events into the feed; returns how many were taken up.

    Everybody who waits for events does it: whoever comes second waits for the first, and finds nothing left.
    """
    await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SEQUENCING})
    return await session.scalar(_MOVE, {"most": most}) or 0


async def head(session: AsyncSession) -> int:
    """The position of the last event in the feed; 0 when there is none."""
    return await session.scalar(select(func.max(col(OutboxRow.position)))) or 0


async def oldest(session: AsyncSession) -> int:
    """The position of the first event that is kept; one beyond the last when there is none."""
    first = await session.scalar(select(func.min(col(OutboxRow.position))))
    return first or await head(session) + 1


async def feed(
    session: AsyncSession, topics: Collection[Topic], after: int, *, upto: int, most: int
) -> list[OutboxEvent]:
    """At most ``most`` events of ``topics`` between the two positions, in their order."""
    query = _events.where(
        col(OutboxRow.position) > after,
        col(OutboxRow.position) <= upto,
        col(OutboxRow.topic).in_(sorted(topics)),
    )
    return await _found(session, query, most)


async def feed_of_key(
    session: AsyncSession, key: str, topics: Collection[Topic], *, start: int, upto: int, most: int
) -> list[OutboxEvent]:
    """At most ``most`` events of one key from ``start`` up to ``upto``, in their order."""
    query = _events.where(
        col(OutboxRow.key) == key,
        col(OutboxRow.position) >= start,
        col(OutboxRow.position) <= upto,
        col(OutboxRow.topic).in_(sorted(topics)),
    )
    return await _found(session, query, most)


async def forget(session: AsyncSession, older_than: timedelta, most: int) -> int:
    """Delete at most ``most`` events older than ``older_than`` that no subscriber waits for; returns how many.

    A subscriber that is paused, or a key with a dead letter, waits as well: nothing undelivered ever goes. Nor does the
    last event, so that the feed knows where it stands.
    """
    gone = await session.scalar(
        text(
            """
            WITH gone AS (
                DELETE FROM outbox WHERE position IN (
                    SELECT e.position FROM outbox e
                     WHERE e.created_at < :before
                       AND e.position < (SELECT max(position) FROM outbox)
                       AND NOT EXISTS (SELECT FROM subscribers s
                                        WHERE e.topic = ANY (s.topics) AND e.position > s.position)
                       AND NOT EXISTS (SELECT FROM outbox_held h
                                        WHERE h.key = e.key AND e.position >= h.position)
                     ORDER BY e.created_at LIMIT :most FOR UPDATE SKIP LOCKED
                ) RETURNING 1
            ) SELECT count(*) FROM gone
            """
        ),
        {"before": datetime.now(UTC) - older_than, "most": most},
    )
    return gone or 0


async def want(session: AsyncSession, topic: Topic, keep: timedelta) -> bool:
    """Have events of ``topic`` written for as long as ``keep`` from now; whether they were not until now.

    Who then takes stock has to wait for ``settled`` first.
    """
    now = datetime.now(UTC)
    row = await session.get(OutboxStreamRow, topic.value, with_for_update=True)
    anew = row is None or row.wanted_until <= now
    values: dict[str, Any] = {"wanted_until": now + keep} | ({"wanted_since": now} if anew else {})
    await session.execute(
        insert(OutboxStreamRow)
        .values(topic=topic, **({"wanted_since": now} | values))
        .on_conflict_do_update(index_elements=["topic"], set_=values)
    )
    return anew


async def goes_on(session: AsyncSession, topic: Topic, after: int, upto: int) -> bool:
    """Whether every event of ``topic`` since position ``after`` was written and is kept, up to ``upto`` at least."""
    return bool(
        await session.scalar(
            text(
                """
                SELECT EXISTS (
                    SELECT FROM outbox e WHERE e.position = :after AND e.position <= :upto AND (
                        EXISTS (SELECT FROM outbox_streams t
                                 WHERE t.topic = :topic AND t.wanted_since <= e.created_at)
                        OR EXISTS (SELECT FROM subscribers s
                                    WHERE :topic = ANY (s.topics) AND s.created_at <= e.created_at)
                    )
                )
                """
            ),
            {"topic": topic.value, "after": after, "upto": upto},
        )
    )


async def availability(session: AsyncSession, sku: str, node: str | None = None) -> list[dict[str, Any]]:
    """What the events of availability would tell of a SKU now, at each node that has it or at one."""
    told = await session.scalars(
        text(
            "SELECT stock_told(stock) FROM stock "
            "WHERE sku = :sku AND (CAST(:node AS text) IS NULL OR node = :node) ORDER BY node"
        ),
        {"sku": sku, "node": node},
    )
    return list(told)


async def next_transaction(session: AsyncSession) -> int:
    """The id of the first transaction that has not begun to write yet."""
    return await session.scalar(text("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")) or 0


async def settled(session: AsyncSession, transaction: int) -> bool:
    """Whether every transaction before ``transaction`` has ended: those that began before a wish was known."""
    return bool(
        await session.scalar(
            text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint >= :transaction"),
            {"transaction": transaction},
        )
    )


# What an event is made of.
_Query = Select[tuple[int | None, str, str, str, str, datetime, dict[str, Any]]]
_events: _Query = select(
    col(OutboxRow.position),
    col(OutboxRow.event_id),
    col(OutboxRow.topic),
    col(OutboxRow.key),
    col(OutboxRow.type),
    col(OutboxRow.created_at),
    col(OutboxRow.payload),
).order_by(col(OutboxRow.position))


async def _found(session: AsyncSession, query: _Query, most: int) -> list[OutboxEvent]:
    return [
        OutboxEvent(
            position=row.position,
            event_id=row.event_id,
            topic=row.topic,
            key=row.key,
            type=row.type,
            at=row.created_at,
            data=row.payload,
        )
        for row in await session.execute(query.limit(most))
    ]
