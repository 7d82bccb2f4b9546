"""Every table at once: what the migrations are compared with."""

from models.tables import accounts, journal, ledger, operations, orders, outbox, reconciliation, stock
from models.tables.base import metadata

MODULES = (orders, journal, operations, ledger, accounts, stock, outbox, reconciliation)

__all__ = ["MODULES", "metadata"]
