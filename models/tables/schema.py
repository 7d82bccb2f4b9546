"""Every table at once: what the migrations are compared with."""

from models.tables import (
    accounts,
    amendments,
    journal,
    ledger,
    operations,
    orders,
    outbox,
    policies,
    prices,
    reconciliation,
    stock,
    tenders,
)
from models.tables.base import metadata

MODULES = (
    orders,
    amendments,
    journal,
    operations,
    ledger,
    accounts,
    stock,
    outbox,
    reconciliation,
    tenders,
    prices,
    policies,
)

__all__ = ["MODULES", "metadata"]
