"""Subscribers: who is told of what, how far each has come, and the keys that one of them could not be told of.

Two kinds of writers meet here. People add, pause, replay, retry and drop, and each time the subscriber's ``generation``
grows. The dispatcher that holds the lease writes down how far it has come, if lease and generation are still those that
it started from; else it starts again from what is written here.
"""

import hmac
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from pydantic import AwareDatetime, Field
from sqlalchemy import delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from activities.store import outbox
from models.base import Contract
from models.errors import NotFound, Refused
from models.outbox import OutboxEvent, Topic
from models.tables.outbox import OutboxDroppedRow, OutboxHeldRow, OutboxRow, SubscriberRow

_ADDING = 0x0DE1231A
# What is counted at most of a backlog: whoever sees so many need not know how many more there are.
COUNTED = 10_000


class SubscriberView(Contract):
    """A subscriber as it may be shown: without its secret."""

    subscriber_id: str
    name: str
    url: str
    topics: tuple[Topic, ...]
    active: bool
    position: int = Field(description="everything up to here was delivered, or waits as a key that failed")
    waiting: int = Field(description=f"events that it has not taken yet; {COUNTED:,} stands for more, too")
    oldest_seconds: float = Field(description="how long the oldest of them has waited")
    failing_keys: int = Field(description="keys whose next event failed and is tried again")
    dead_letters: int = Field(
        description="keys whose next event is not tried any more until somebody decides"
    )
    created_at: AwareDatetime
    failing_since: AwareDatetime | None = None
    last_failure: str | None = None


class DeadLetter(Contract):
    """An event that a subscriber did not take however often it was tried. Those of its key behind it wait."""

    subscriber_id: str
    position: int
    event: OutboxEvent
    attempts: int
    failure: str
    failed_at: AwareDatetime
    dead_at: AwareDatetime
    behind: int = Field(description="how many events of the key wait behind it")


class Held(Contract):
    """A key whose next event, at ``position``, failed ``attempts`` times."""

    key: str
    position: int
    attempts: int
    try_at: datetime
    failed_at: datetime
    failure: str
    dead_at: datetime | None = None


class Lease(Contract):
    """What a dispatcher needs to serve a subscriber. ``generation`` goes with everything that it writes."""

    subscriber_id: str
    url: str
    topics: tuple[Topic, ...]
    secret: str = Field(repr=False)
    position: int
    generation: int
    owner: str


# --- What people do ---
async def add(
    session: AsyncSession, *, subscriber_id: str, name: str, url: str, topics: Collection[Topic], secret: str
) -> int:
    """Add a subscriber of everything from now on; answers the position that it starts behind."""
    position = await outbox.head(session)
    now = datetime.now(UTC)
    session.add(
        SubscriberRow(
            subscriber_id=subscriber_id,
            name=name,
            url=url,
            topics=sorted(topic.value for topic in topics),
            secret=secret,
            position=position,
            created_at=now,
            updated_at=now,
        )
    )
    await session.flush()
    await wake(session)
    return position


async def hold_all(session: AsyncSession) -> None:
    """Have whoever adds a subscriber do so alone, until the transaction ends."""
    await session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADDING})


async def signs_with(session: AsyncSession, subscriber_id: str, secret: str) -> bool:
    """Whether ``secret`` is the subscriber's. Raises ``NotFound``."""
    row = await _row(session, subscriber_id, lock=False)
    return hmac.compare_digest(row.secret.encode(), secret.encode())


async def all_subscribers(session: AsyncSession) -> list[SubscriberView]:
    """Every subscriber, the oldest first."""
    rows = await session.scalars(
        select(SubscriberRow).order_by(col(SubscriberRow.created_at), col(SubscriberRow.subscriber_id))
    )
    return [await _view(session, row) for row in rows.all()]


async def subscriber(session: AsyncSession, subscriber_id: str) -> SubscriberView:
    """One subscriber. Raises ``NotFound``."""
    return await _view(session, await _row(session, subscriber_id, lock=False))


async def set_active(session: AsyncSession, subscriber_id: str, *, active: bool) -> None:
    """Pause or resume. What happens while it is paused waits for it. Raises ``NotFound``."""
    row = await _row(session, subscriber_id)
    if row.active != active:
        row.active = active
        await _changed(session, row)


async def change_secret(session: AsyncSession, subscriber_id: str, secret: str) -> None:
    """Sign with ``secret`` from now on. Raises ``NotFound``."""
    row = await _row(session, subscriber_id)
    row.secret = secret
    await _changed(session, row)


async def remove(session: AsyncSession, subscriber_id: str) -> None:
    """Forget a subscriber and all that waits for it. Raises ``NotFound``."""
    await session.delete(await _row(session, subscriber_id))
    await session.flush()
    await wake(session)


async def replay(session: AsyncSession, subscriber_id: str, start: int) -> None:
    """Send everything from position ``start`` on once more, under the ids that it had.

    Raises ``NotFound``; ``Refused`` when events from there on are not kept any more, or when it would leave out what
    the subscriber has not been sent yet.
    """
    row = await _row(session, subscriber_id)
    first = await outbox.oldest(session)
    if start < first:
        raise Refused(
            f"events before position {first} are not kept any more: replay from {first} at the earliest"
        )
    if start > row.position + 1:
        raise Refused(
            f"{subscriber_id} has come to position {row.position}: a replay from {start} would leave out what lies "
            f"between; replay from {row.position + 1} at the latest"
        )
    row.position = start - 1
    await session.execute(
        delete(OutboxHeldRow).where(
            col(OutboxHeldRow.subscriber_id) == subscriber_id, col(OutboxHeldRow.position) >= start
        )
    )
    await _changed(session, row)


async def dead_letters(session: AsyncSession, subscriber_id: str, most: int = 1_000) -> list[DeadLetter]:
    """What a subscriber's keys wait behind, the oldest first. Raises ``NotFound``."""
    row = await _row(session, subscriber_id, lock=False)
    topics = _topics(row)
    found = await session.scalars(
        select(OutboxHeldRow)
        .where(col(OutboxHeldRow.subscriber_id) == subscriber_id, col(OutboxHeldRow.dead_at).is_not(None))
        .order_by(col(OutboxHeldRow.position))
        .limit(most)
    )
    last = await outbox.head(session)
    letters = []
    for held in found.all():
        events = await outbox.feed_of_key(
            session, held.key, topics, start=held.position, upto=last, most=COUNTED
        )
        if events:
            letters.append(_letter(held, events))
    return letters


async def retry(session: AsyncSession, subscriber_id: str, position: int | None = None) -> int:
    """Try the dead letter at ``position`` again at once, or all of them; returns how many that are.

    Raises ``NotFound`` for a subscriber that does not exist.
    """
    row = await _row(session, subscriber_id)
    which = [col(OutboxHeldRow.subscriber_id) == subscriber_id, col(OutboxHeldRow.dead_at).is_not(None)]
    if position is not None:
        which.append(col(OutboxHeldRow.position) == position)
    tried = await session.scalars(
        update(OutboxHeldRow)
        .where(*which)
        .values(dead_at=None, attempts=0, try_at=datetime.now(UTC))
        .returning(col(OutboxHeldRow.key))
    )
    count = len(tried.all())
    if count:
        await _changed(session, row)
    return count


async def drop(session: AsyncSession, subscriber_id: str, position: int, *, actor: str, reason: str) -> None:
    """Never send a dead letter; its key goes on with what comes behind it. Once more changes nothing.

    Raises ``NotFound``.
    """
    row = await _row(session, subscriber_id)
    if (
        await session.get(OutboxDroppedRow, {"subscriber_id": subscriber_id, "position": position})
        is not None
    ):
        return
    held = await session.scalar(
        select(OutboxHeldRow).where(
            col(OutboxHeldRow.subscriber_id) == subscriber_id,
            col(OutboxHeldRow.position) == position,
            col(OutboxHeldRow.dead_at).is_not(None),
        )
    )
    event = await session.get(OutboxRow, position)
    if held is None or event is None:
        raise NotFound(f"{subscriber_id} has no dead letter at position {position}")
    now = datetime.now(UTC)
    session.add(
        OutboxDroppedRow(
            subscriber_id=subscriber_id,
            position=position,
            event_id=event.event_id,
            key=event.key,
            actor=actor,
            reason=reason,
            dropped_at=now,
        )
    )
    held.position, held.attempts, held.dead_at, held.try_at = position + 1, 0, None, now
    await _changed(session, row)


async def wake(session: AsyncSession) -> None:
    """Have every dispatcher look at once when this transaction is committed."""
    await session.execute(text("SELECT pg_notify(:channel, 'subscribers')"), {"channel": outbox.CHANNEL})


# --- What a dispatcher does ---
async def take_leases(session: AsyncSession, owner: str, duration: timedelta) -> list[Lease]:
    """Every active subscriber that ``owner`` has the lease of, or may take it; for ``duration`` from now.

    Time is the database's: the clocks of two machines need not agree. One that others are just changing is left out.
    """
    now = func.clock_timestamp()
    free = (
        select(col(SubscriberRow.subscriber_id))
        .where(
            col(SubscriberRow.active),
            or_(
                col(SubscriberRow.lease_owner) == owner,
                col(SubscriberRow.lease_until).is_(None),
                col(SubscriberRow.lease_until) < now,
            ),
        )
        .with_for_update(skip_locked=True)
    )
    taken = await session.scalars(
        update(SubscriberRow)
        .where(col(SubscriberRow.subscriber_id).in_(free))
        .values(lease_owner=owner, lease_until=now + duration)
        .returning(SubscriberRow)
        .execution_options(populate_existing=True)
    )
    return [
        Lease(
            subscriber_id=row.subscriber_id,
            url=row.url,
            topics=tuple(_topics(row)),
            secret=row.secret,
            position=row.position,
            generation=row.generation,
            owner=owner,
        )
        for row in taken.all()
    ]


async def still_leased(session: AsyncSession, owner: str) -> set[tuple[str, int]]:
    """Subscriber and generation of every lease that ``owner`` has and that has not run out."""
    rows = await session.execute(
        select(col(SubscriberRow.subscriber_id), col(SubscriberRow.generation)).where(
            col(SubscriberRow.active),
            col(SubscriberRow.lease_owner) == owner,
            col(SubscriberRow.lease_until) > func.clock_timestamp(),
        )
    )
    return {(subscriber_id, generation) for subscriber_id, generation in rows}


async def give_up_leases(session: AsyncSession, owner: str) -> None:
    """Let others take over at once."""
    await session.execute(
        update(SubscriberRow).where(col(SubscriberRow.lease_owner) == owner).values(lease_until=None)
    )


async def held_keys(session: AsyncSession, subscriber_id: str) -> list[Held]:
    """The keys of a subscriber that wait for another try, or for a person."""
    rows = await session.scalars(
        select(OutboxHeldRow)
        .where(col(OutboxHeldRow.subscriber_id) == subscriber_id)
        .order_by(col(OutboxHeldRow.position))
    )
    return [Held.model_validate(row.model_dump()) for row in rows.all()]


class Progress(Contract):
    """How far a dispatcher has come, and what changed of the keys that wait."""

    position: int
    held: tuple[Held, ...] = ()
    freed: tuple[str, ...] = ()
    failing_since: datetime | None = None
    last_failure: str | None = None


async def write_progress(session: AsyncSession, lease: Lease, progress: Progress) -> bool:
    """Write ``progress`` down; False, and nothing written, if the lease is another's or somebody changed something."""
    mine = await session.scalar(
        update(SubscriberRow)
        .where(
            col(SubscriberRow.subscriber_id) == lease.subscriber_id,
            col(SubscriberRow.lease_owner) == lease.owner,
            col(SubscriberRow.generation) == lease.generation,
        )
        .values(
            position=progress.position,
            failing_since=progress.failing_since,
            last_failure=progress.last_failure,
        )
        .returning(col(SubscriberRow.subscriber_id))
    )
    if mine is None:
        return False
    for held in progress.held:
        values = held.model_dump(exclude={"key"})
        await session.execute(
            insert(OutboxHeldRow)
            .values(subscriber_id=lease.subscriber_id, key=held.key, **values)
            .on_conflict_do_update(index_elements=["subscriber_id", "key"], set_=values)
        )
    if progress.freed:
        await session.execute(
            delete(OutboxHeldRow).where(
                col(OutboxHeldRow.subscriber_id) == lease.subscriber_id,
                col(OutboxHeldRow.key).in_(progress.freed),
            )
        )
    return True


async def _row(session: AsyncSession, subscriber_id: str, *, lock: bool = True) -> SubscriberRow:
    row = await session.get(SubscriberRow, subscriber_id, with_for_update=lock, populate_existing=True)
    if row is None:
        raise NotFound(f"there is no subscriber {subscriber_id}")
    return row


async def _changed(session: AsyncSession, row: SubscriberRow) -> None:
    row.generation += 1
    row.updated_at = datetime.now(UTC)
    await session.flush()
    await wake(session)


def _topics(row: SubscriberRow) -> list[Topic]:
    return [Topic(topic) for topic in row.topics]


async def _view(session: AsyncSession, row: SubscriberRow) -> SubscriberView:
    count, oldest = await backlog(session, row.topics, row.position)
    held = (
        await session.execute(
            select(
                func.count().filter(col(OutboxHeldRow.dead_at).is_(None)),
                func.count().filter(col(OutboxHeldRow.dead_at).is_not(None)),
                func.min(col(OutboxHeldRow.failed_at)),
            ).where(col(OutboxHeldRow.subscriber_id) == row.subscriber_id)
        )
    ).one()
    failing, dead, failed_at = held
    since = [moment for moment in (oldest, failed_at) if moment is not None]
    age = max((datetime.now(UTC) - min(since)).total_seconds(), 0.0) if since else 0.0
    return SubscriberView(
        subscriber_id=row.subscriber_id,
        name=row.name,
        url=row.url,
        topics=tuple(_topics(row)),
        active=row.active,
        position=row.position,
        waiting=min(count + failing + dead, COUNTED),
        oldest_seconds=age,
        failing_keys=failing,
        dead_letters=dead,
        failing_since=row.failing_since,
        last_failure=row.last_failure,
        created_at=row.created_at,
    )


async def backlog(session: AsyncSession, topics: Sequence[str], position: int) -> tuple[int, datetime | None]:
    """How many events of ``topics`` lie behind ``position`` (``COUNTED`` at most), and since when the first does."""
    behind = (
        select(col(OutboxRow.created_at))
        .where(col(OutboxRow.position) > position, col(OutboxRow.topic).in_(topics))
        .order_by(col(OutboxRow.position))
        .limit(COUNTED)
        .subquery()
    )
    count, oldest = (
        await session.execute(select(func.count(), func.min(behind.c.created_at)).select_from(behind))
    ).one()
    return count, oldest


def _letter(held: OutboxHeldRow, events: list[OutboxEvent]) -> DeadLetter:
    assert held.dead_at is not None  # noqa: S101 - only dead ones are asked for
    return DeadLetter(
        subscriber_id=held.subscriber_id,
        # Of the topics that are subscribed to: what lies between is none of the subscriber's business.
        position=held.position,
        event=events[0],
        attempts=held.attempts,
        failure=held.failure,
        failed_at=held.failed_at,
        dead_at=held.dead_at,
        behind=len(events) - 1,
    )
