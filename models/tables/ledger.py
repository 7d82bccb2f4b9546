"""The books: append-only transactions, each with the entries that add up to zero. Triggers refuse everything else.

Movements of money post themselves: a trigger on ``payment_operations`` writes the transaction in the very statement
that confirms the operation, so that no version and no person can do the one without the other. A balance is the sum of
entries, and stored nowhere.
"""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKeyConstraint, Identity, Index
from sqlmodel import Field, SQLModel

from models.ledger import AccountKind, TransactionKind, UsualSide
from models.tables.base import known_currency, moment, one_of


class LedgerAccountRow(SQLModel, table=True):
    """The chart of accounts, as ``models.ledger.CHART`` has it. A migration adds to it."""

    __tablename__ = "ledger_accounts"
    __table_args__ = (one_of("kind", AccountKind), one_of("side", UsualSide))

    code: str = Field(primary_key=True)
    name: str
    kind: str
    side: str
    tender: bool


class LedgerTransactionRow(SQLModel, table=True):
    """Something that happened to money. ``id`` is its idempotency key, that of the operation where there is one.

    ``reverses``: a payment, issue, payout or fee that this one takes back, entry by entry; a trigger sees to it.

    ``source`` says who wrote it down, ``written_in`` in which transaction of the database: its entries come with it,
    and none later.
    """

    __tablename__ = "ledger_transactions"
    __table_args__ = (
        one_of("kind", TransactionKind),
        CheckConstraint(
            "kind NOT IN ('authorise', 'capture', 'void', 'lapse', 'reinstate', 'refund') OR order_id IS NOT NULL",
            name="of_an_order",
        ),
        CheckConstraint("kind <> 'refund' OR cause IS NOT NULL", name="refund_cause"),
        Index("ix_ledger_transactions_order", "order_id", "position"),
        Index("ix_ledger_transactions_at", "at"),
        Index("ix_ledger_transactions_recorded", "recorded_at", postgresql_using="brin"),
        Index(
            "uq_ledger_transactions_reverses",
            "reverses",
            unique=True,
            postgresql_where="reverses IS NOT NULL",
        ),
    )

    id: str = Field(primary_key=True)
    position: int | None = Field(
        default=None, sa_type=BigInteger, nullable=False, sa_column_args=[Identity(always=True)]
    )
    order_id: str | None = None
    shipment_id: str | None = None
    kind: str
    cause: str | None = None
    source: str
    at: datetime = moment()
    recorded_at: datetime | None = moment(default=None, nullable=False)
    written_in: int | None = Field(default=None, sa_type=BigInteger, nullable=False)
    reverses: str | None = None


class LedgerEntryRow(SQLModel, table=True):
    """An amount on an account: a debit above zero, a credit below.

    ``tender`` is the hold that it moves, by the key under which it was authorised; ``instrument`` the gift card, credit
    or customer account.
    """

    __tablename__ = "ledger_entries"
    __table_args__ = (
        CheckConstraint("amount_minor <> 0", name="moves_something"),
        # What ``Money`` can hold: whoever reads the books must be able to.
        CheckConstraint("amount_minor BETWEEN -1000000000000000 AND 1000000000000000", name="amount"),
        known_currency(),
        ForeignKeyConstraint(["transaction_id"], ["ledger_transactions.id"]),
        ForeignKeyConstraint(["account"], ["ledger_accounts.code"]),
        Index(
            "ix_ledger_entries_instrument",
            "instrument",
            "account",
            postgresql_where="instrument IS NOT NULL",
        ),
        # What an account owes is the sum of all of these: it is read from the index alone.
        Index(
            "ix_ledger_entries_of_instrument",
            "instrument",
            postgresql_include=["amount_minor"],
            postgresql_where="instrument IS NOT NULL",
        ),
    )

    transaction_id: str = Field(primary_key=True)
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    account: str
    amount_minor: int = Field(sa_type=BigInteger)
    currency: str
    tender: str | None = None
    instrument: str | None = None
