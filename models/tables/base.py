"""What the tables have in common: names of constraints, column types, checks made from our enums."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import CheckConstraint, DateTime
from sqlmodel import Field, SQLModel

from models.money import CURRENCY_EXPONENT

metadata = SQLModel.metadata

# Named by rule, so that a migration can find a constraint again.
metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

Moment = DateTime(timezone=True)


def moment(**options: Any) -> Any:
    """A column with a point in time; stored in UTC, read back with its zone."""
    return Field(sa_type=Moment, **options)


def one_of(column: str, choices: type[StrEnum]) -> CheckConstraint:
    """A check that ``column`` holds one of the values of ``choices``.

    Text and a check, not a PostgreSQL enum: a migration can add and remove values in one transaction.
    """
    values = ", ".join(f"'{choice.value}'" for choice in choices)
    return CheckConstraint(f"{column} IN ({values})", name=column)


def not_negative(*columns: str) -> CheckConstraint:
    """A check that no listed amount or count is below zero."""
    return CheckConstraint(" AND ".join(f"{column} >= 0" for column in columns), name="not_negative")


def known_currency() -> CheckConstraint:
    """A check that ``currency`` is one of ours: ``Money`` of another could not be read again."""
    codes = ", ".join(f"'{code}'" for code in sorted(CURRENCY_EXPONENT))
    return CheckConstraint(f"currency IN ({codes})", name="currency")


class Stamped(SQLModel):
    """When a row was made and last changed, in wall time."""

    created_at: datetime = moment()
    updated_at: datetime = moment()
