"""Price lists of business customers, each version of them, and whom they are for."""

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKeyConstraint,
    Identity,
    Index,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlmodel import Field, SQLModel

from models.money import MAX_MINOR
from models.order import MAX_QUANTITY
from models.prices import AssigneeKind
from models.tables.base import Stamped, moment, one_of

_VALIDITY = "valid_from < valid_until"
# Whose list of which currency, as one number of 64 bits; as a range, which is what an index can exclude by.
_WHOSE = "hashtextextended((kind || ':' || currency || ':' || assignee), 0)::numeric"


class PriceListRow(Stamped, table=True):
    """A price list. ``version`` is in force; ``valid_until`` is ``models.prices.NO_END`` where it has no end."""

    __tablename__ = "price_lists"
    __table_args__ = (
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint(_VALIDITY, name="validity"),
        # What assignments refer to, so that they always have the list's own currency and time.
        UniqueConstraint(
            "list_id", "currency", "valid_from", "valid_until", name="uq_price_lists_assignable"
        ),
    )

    list_id: str = Field(primary_key=True)
    currency: str
    valid_from: datetime = moment()
    valid_until: datetime = moment()
    version: int


class PriceListVersionRow(SQLModel, table=True):
    """What was loaded, by whom and why. A trigger refuses to change it: reviews and amendments name versions."""

    __tablename__ = "price_list_versions"
    __table_args__ = (
        CheckConstraint("version >= 1", name="version"),
        CheckConstraint(_VALIDITY, name="validity"),
    )

    list_id: str = Field(primary_key=True, foreign_key="price_lists.list_id")
    version: int = Field(primary_key=True)
    name: str
    valid_from: datetime = moment()
    valid_until: datetime = moment()
    content_hash: str
    price_count: int
    loaded_at: datetime = moment()
    loaded_by: str
    reason: str | None = None


class PriceRow(SQLModel, table=True):
    """What a unit costs from ``min_quantity`` units on. One price for each quantity: the key sees to it."""

    __tablename__ = "prices"
    __table_args__ = (
        ForeignKeyConstraint(
            ["list_id", "version"], ["price_list_versions.list_id", "price_list_versions.version"]
        ),
        CheckConstraint(f"min_quantity >= 1 AND min_quantity <= {MAX_QUANTITY}", name="min_quantity"),
        CheckConstraint(f"unit_price_minor >= 0 AND unit_price_minor <= {MAX_MINOR}", name="unit_price"),
    )

    list_id: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    sku: str = Field(primary_key=True)
    min_quantity: int = Field(primary_key=True)
    unit_price_minor: int = Field(sa_type=BigInteger)


class PriceAssignmentRow(SQLModel, table=True):
    """Whom a list is for. Nobody ever has two lists of one currency for the same moment: which would count?

    Currency and time are the list's, and change with it. An assignment that was taken back stays, as ended.
    """

    __tablename__ = "price_assignments"
    __table_args__ = (
        one_of("kind", AssigneeKind),
        CheckConstraint("(kind = 'every_business') = (assignee = '')", name="assignee"),
        CheckConstraint(_VALIDITY, name="validity"),
        CheckConstraint("(ended_at IS NULL) = (ended_by IS NULL)", name="ended"),
        ForeignKeyConstraint(
            ["list_id", "currency", "valid_from", "valid_until"],
            [
                "price_lists.list_id",
                "price_lists.currency",
                "price_lists.valid_from",
                "price_lists.valid_until",
            ],
            onupdate="CASCADE",
        ),
        ExcludeConstraint(
            (text(f"numrange({_WHOSE}, {_WHOSE}, '[]')"), "&&"),
            (text("tstzrange(valid_from, valid_until)"), "&&"),
            name="ex_price_assignments_one_list",
            using="gist",
            where=text("ended_at IS NULL"),
        ),
        Index("ix_price_assignments_assignee", "kind", "assignee", postgresql_where="ended_at IS NULL"),
        Index("ix_price_assignments_list", "list_id"),
    )

    assignment_id: int | None = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    list_id: str
    currency: str
    valid_from: datetime = moment()
    valid_until: datetime = moment()
    kind: str
    assignee: str
    assigned_at: datetime = moment()
    assigned_by: str
    reason: str | None = None
    ended_at: datetime | None = moment(default=None)
    ended_by: str | None = None
