"""What customers may owe us and what we owe them: accounts with a credit limit, gift cards, store credit.

Balances are not here: they are what the ledger has under the instrument. Triggers there keep them within their limits.
"""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Identity, Index, text
from sqlmodel import Field, SQLModel

from models.tables.base import known_currency, moment, not_negative


class CustomerAccountRow(SQLModel, table=True):
    """A business that pays on account, up to ``credit_limit_minor`` owed and held together."""

    __tablename__ = "customer_accounts"
    __table_args__ = (not_negative("credit_limit_minor"), known_currency())

    instrument: str = Field(primary_key=True)
    currency: str
    credit_limit_minor: int = Field(sa_type=BigInteger)
    active: bool = True
    created_at: datetime = moment()


class StoredValueRow(SQLModel, table=True):
    """A gift card or a customer's store credit. ``instrument`` is made of its code, which is not kept here."""

    __tablename__ = "stored_value"
    __table_args__ = (
        CheckConstraint("kind IN ('gift_card', 'store_credit')", name="kind"),
        known_currency(),
    )

    instrument: str = Field(primary_key=True)
    kind: str
    currency: str
    active: bool = True
    created_at: datetime = moment()


class InstrumentChangeRow(SQLModel, table=True):
    """What an account's limit became, or that it or a card was blocked: append-only, written by triggers.

    So it tells of every change, whoever made it. ``credit_limit_minor`` is None for what has no limit.
    """

    __tablename__ = "instrument_changes"
    __table_args__ = (
        Index("ix_instrument_changes_instrument", "instrument", "change_id"),
        Index(
            "uq_instrument_changes_request",
            "instrument",
            "request_id",
            unique=True,
            postgresql_where="request_id IS NOT NULL",
        ),
    )

    change_id: int | None = Field(
        default=None, primary_key=True, sa_type=BigInteger, sa_column_args=[Identity(always=True)]
    )
    instrument: str
    at: datetime = moment(sa_column_kwargs={"server_default": text("clock_timestamp()")})
    actor: str
    reason: str | None = None
    request_id: str | None = None
    active: bool
    credit_limit_minor: int | None = Field(default=None, sa_type=BigInteger)
    currency: str
