"""What customers may owe us and what we owe them: accounts with a credit limit, gift cards, store credit.

Balances are not here: they are what the ledger has under the instrument. Triggers there keep them within their limits.
"""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint
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
