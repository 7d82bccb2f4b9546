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
    promises,
    reconciliation,
    rerouting,
    stock,
    tenders,
    values,
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
    promises,
    rerouting,
    values,
)

__all__ = ["MODULES", "metadata"]
