"""What others are told: events as triggers write them, the feed that they become, and who reads it how far.

Triggers on stock, orders, shipments, reservations, operations and outcomes write ``outbox_staged`` in the transaction
of the change itself (migration 0014_outbox). ``activities.store.outbox`` moves what was committed into ``outbox``.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, String
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

from models.tables.base import Stamped, moment, not_negative


class OutboxStagedRow(SQLModel, table=True):
    """An event of a transaction, committed or not. Few and short-lived: nothing here is looked up, so nothing slows.

    ``id`` is given while the row that changed is locked, so it orders the events of one key. It does not order commits:
    a reader of this table that went by ``id`` would skip what commits late.
    """

    __tablename__ = "outbox_staged"

    id: int | None = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    transaction_id: int = Field(sa_type=BigInteger)
    event_id: str | None = None
    topic: str
    key: str
    type: str
    payload: dict[str, Any] = Field(sa_type=JSONB)
    created_at: datetime = moment()


class OutboxRow(SQLModel, table=True):
    """An event in the feed. One transaction at a time gives positions, so they become visible in their order."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("uq_outbox_event", "event_id", unique=True),
        Index("ix_outbox_key", "key", "position"),
        Index("ix_outbox_created", "created_at"),
    )

    position: int | None = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    event_id: str
    topic: str
    key: str
    type: str
    payload: dict[str, Any] = Field(sa_type=JSONB)
    created_at: datetime = moment()
    transaction_id: int = Field(sa_type=BigInteger)


class OutboxStreamRow(SQLModel, table=True):
    """A topic that somebody streams, or did lately: its events are written though nobody subscribes to it."""

    __tablename__ = "outbox_streams"

    topic: str = Field(primary_key=True)
    wanted_since: datetime = moment()
    wanted_until: datetime = moment()


class SubscriberRow(Stamped, table=True):
    """Who is told, where, of what. Everything up to ``position`` was delivered, or stands in ``outbox_held``.

    ``generation`` grows with each change from outside, so that a dispatcher's view from before writes nothing any more.
    The lease says which dispatcher sends.
    """

    __tablename__ = "subscribers"
    __table_args__ = (
        CheckConstraint("cardinality(topics) > 0", name="topics"),
        not_negative("position", "generation"),
    )

    subscriber_id: str = Field(primary_key=True)
    name: str
    url: str
    topics: list[str] = Field(sa_type=ARRAY(String))
    secret: str
    active: bool = True
    position: int = Field(sa_type=BigInteger)
    generation: int = Field(default=0, sa_type=BigInteger)
    lease_owner: str | None = None
    lease_until: datetime | None = moment(default=None)
    failing_since: datetime | None = moment(default=None)
    last_failure: str | None = None


class OutboxHeldRow(SQLModel, table=True):
    """A key whose next event a subscriber did not take: tried again at ``try_at``, or never by itself once dead."""

    __tablename__ = "outbox_held"
    __table_args__ = (
        not_negative("attempts"),
        Index("ix_outbox_held_dead", "dead_at", postgresql_where="dead_at IS NOT NULL"),
    )

    subscriber_id: str = Field(primary_key=True, foreign_key="subscribers.subscriber_id", ondelete="CASCADE")
    key: str = Field(primary_key=True)
    position: int = Field(sa_type=BigInteger)
    attempts: int = 0
    try_at: datetime = moment()
    failed_at: datetime = moment()
    failure: str
    dead_at: datetime | None = moment(default=None)


class OutboxDroppedRow(SQLModel, table=True):
    """An event that a person decided not to send a subscriber, and why."""

    __tablename__ = "outbox_dropped"

    subscriber_id: str = Field(primary_key=True)
    position: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    event_id: str
    key: str
    actor: str
    reason: str
    dropped_at: datetime = moment()
